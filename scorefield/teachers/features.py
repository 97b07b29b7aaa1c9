"""What a part of a network hands on, without the rest being run."""

from collections.abc import Callable
from typing import Any

from torch import Tensor, nn


class _Reached(Exception):
    """Carries a part's output past what comes after it."""

    def __init__(self, output: Any):
        self.output = output


def output_of(part: nn.Module, call: Callable[[], object]) -> Any:
    """The output of ``part`` in ``call()``, which ends there; its graph is kept. None if ``part`` is not run."""

    def stop(module, inputs, output):
        raise _Reached(output)

    handle = part.register_forward_hook(stop)
    try:
        call()
    except _Reached as reached:
        return reached.output
    finally:
        handle.remove()
    return None


def as_map(tokens: Tensor, like: Tensor) -> Tensor:
    """Tokens [B, N, C] of patches of ``like`` [B, c, H, W], row by row, as [B, C, h, w]."""
    patch = round((like.shape[2] * like.shape[3] / tokens.shape[1]) ** 0.5)
    rows, columns = like.shape[2] // patch, like.shape[3] // patch
    return tokens.transpose(1, 2).unflatten(2, (rows, columns))
