"""A field's evaluation through torch.compile, where that works."""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from scorefield.errors import UserError

Evaluation = Callable[[Tensor], tuple[Tensor, Tensor]]
TRIED = 64  # points


def compiled(ask: Evaluation, parameters: Sequence[Tensor], device: torch.device) -> Evaluation:
    """``ask`` compiled for any number of points [N, 3] on ``device``; forward and backward pass are tried once.

    Args:
        ask: density and colour before their activations. parameters: what it learns; they get no gradient here.

    Raises UserError where no compiler works, with its reason.
    """
    made = torch.compile(ask, dynamic=True)
    learned = [value for value in parameters if value.requires_grad]
    try:
        with torch.enable_grad():
            density, colour = made(torch.full((TRIED, 3), 0.1, device=device))
            if learned:
                torch.autograd.grad(density.sum() + colour.sum(), learned, allow_unused=True)
    except Exception as error:  # dynamo's, inductor's, and those of the compilers behind them
        lines = [line.strip() for line in str(error).splitlines() if line.strip()]
        reason = lines[0].rstrip(".:") if lines else type(error).__name__
        raise UserError(f"field.compile=true does not work on {device.type} here ({reason}): leave it out") from error
    return made
