"""Which parameters of a role train, and holding them still for a pass."""

from collections.abc import Iterator
from contextlib import contextmanager

from torch import nn

from scorefield.teachers.shared import views_of


def trainable(module: nn.Module) -> list[nn.Parameter]:
    """Parameters that ask for gradients."""
    return [p for p in module.parameters() if p.requires_grad]


@contextmanager
def frozen(module: nn.Module) -> Iterator[None]:
    """No gradients for the parameters of ``module`` within; the flags come back on exit."""
    held = [*module.parameters(), *(p for view in views_of(module) for p in view.used())]
    parameters = [p for p in held if p.requires_grad]
    for parameter in parameters:
        parameter.requires_grad_(False)
    try:
        yield
    finally:
        for parameter in parameters:
            parameter.requires_grad_(True)
