"""Random first weights, which are left out where a network is built around tensors that are there already."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar

import torch
from torch import Tensor

_left_out: ContextVar[bool] = ContextVar("weights_left_out", default=False)


def fresh(shape: Sequence[int], make: Callable[[], Tensor]) -> Tensor:
    """What ``make`` gives, of ``shape``; within ``weights_left_out`` a tensor of that shape without memory."""
    return torch.empty(tuple(shape), device="meta") if _left_out.get() else make()


@contextmanager
def weights_left_out() -> Iterator[None]:
    """Networks built in here hold no large tensor; the rest of their parts are as ever.

    Building under ``torch.device("meta")`` would do as well, but the first arithmetic on that device takes seconds and
    150 MB of Python modules.
    """
    token = _left_out.set(True)
    try:
        yield
    finally:
        _left_out.reset(token)
