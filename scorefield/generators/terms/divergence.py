"""Weights that turn the gradient of the reverse KL into that of another f-divergence (arXiv:2502.15681, theorem 1).

D_f(p || q) = E_q f(p / q), p the teacher's noised density and q the generator's. Its gradient is the reverse KL's with
each sample weighed by h(r) = f''(r) r^2, r = p / q.
"""

from collections.abc import Callable

import torch
from torch import Tensor

# name: h as a function of log r
DIVERGENCES: dict[str, Callable[[Tensor], Tensor]] = {
    "reverse_kl": torch.ones_like,  # f = -log r
    "forward_kl": torch.exp,  # f = r log r
    "jeffreys": lambda log_r: 1 + log_r.exp(),  # the sum of both
    "jensen_shannon": torch.sigmoid,  # f = r log r - (r + 1) log((r + 1) / 2), twice the usual divergence
    "hellinger": lambda log_r: 0.5 * (0.5 * log_r).exp(),  # f = (1 - sqrt r)^2
    "softened_reverse_kl": lambda log_r: torch.sigmoid(-log_r),  # f = (r + 1) log(1/2 + 1/(2 r))
}


def weights(name: str, log_ratio: Tensor, clip: float) -> Tensor:
    """h(r) of log(p / q) [B], which is clamped to [-clip, clip]; without a graph."""
    return DIVERGENCES[name](log_ratio.detach().clamp(-clip, clip))
