"""Samples of a batch that came out as NaN or infinity, found and masked."""

import torch
from torch import Tensor

from scorefield.noise import spread


def finite_rows(x: Tensor) -> Tensor:
    """bool [B]: samples without a NaN or infinity."""
    return torch.isfinite(x).flatten(1).all(1) if x.ndim > 1 else torch.isfinite(x)


def clean_rows(x: Tensor, good: Tensor) -> Tensor:
    """``x`` with the samples that are not ``good`` set to zero; their gradient is zero as well."""
    return torch.where(spread(good, x), x, torch.zeros_like(x))
