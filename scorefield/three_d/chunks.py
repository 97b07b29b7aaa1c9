"""A field asked chunk by chunk, so that what its backward pass needs is held for one chunk at a time."""

from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint


def in_chunks(ask: Callable[..., tuple[Tensor, ...]], chunk: int, *rows: Tensor | None) -> tuple[Tensor, ...]:
    """``ask(*rows)``, its answers put together.

    Where a graph is made, each chunk is computed again in the backward pass in place of keeping its activations: a hash
    grid of 16 levels keeps 1.8 kB a point, and a picture of 512 pixels a side has millions of points.

    Args:
        ask: answers for each row by itself, [N, …] in and out, and draws nothing at random.
        chunk: rows at a time; 0 asks once and keeps everything. rows: [N, …] each, the first not None.
    """
    first = rows[0]
    assert first is not None
    if not chunk:
        return ask(*rows)
    count = max(1, -(-len(first) // chunk))
    pieces = [[None] * count if values is None else values.split(chunk) for values in rows]
    again = partial(checkpoint, ask, use_reentrant=False, preserve_rng_state=False) if torch.is_grad_enabled() else ask
    parts = [again(*one) for one in zip(*pieces, strict=True)]
    return tuple(torch.cat(values) for values in zip(*parts, strict=True))
