"""What every network looks like to the losses: D(x_t, sigma, condition) -> x0.

x_t = x0 + sigma * eps has no input scaling (variance exploding); what a network predicts natively, its
timesteps and its alphas live in the adapter (scorefield/teachers/) and nowhere else.
"""

from collections.abc import Callable, Mapping

import torch
from torch import Tensor, nn

Condition = Mapping[str, Tensor]  # named tensors whose first axis is the batch; {} when there is none


class Denoiser(nn.Module):
    """A network seen as a denoiser.

    Attributes:
        sigma_min, sigma_max: the finite range of noise levels that it was made for.
    """

    sigma_min: float
    sigma_max: float

    def forward(self, x_t: Tensor, sigma: Tensor, condition: Condition) -> Tensor:
        """x0 estimate, float32, shaped like ``x_t`` [B, …]; ``sigma`` [B] > 0. Differentiable in ``x_t``."""
        raise NotImplementedError

    def null_condition(self, like: Condition) -> Condition:
        """The empty condition, shaped like ``like``, for classifier-free guidance."""
        raise NotImplementedError(f"{type(self).__name__} has no empty condition: use guidance scale 1")


def join(first: Condition, second: Condition) -> dict[str, Tensor]:
    """Concatenate two conditions along the batch; the shorter of two texts is filled up with zeros (masked)."""
    joined = {}
    for key, one in first.items():
        other = second[key]
        if one.ndim > 1 and one.shape[1] != other.shape[1]:
            longest = max(one.shape[1], other.shape[1])
            one, other = (_lengthened(value, longest) for value in (one, other))
        joined[key] = torch.cat([one, other])
    return joined


def _lengthened(value: Tensor, length: int) -> Tensor:
    """[B, L, …] with zeros up to ``length`` in the second axis."""
    return torch.cat([value, value.new_zeros(len(value), length - value.shape[1], *value.shape[2:])], 1)


def pick(condition: Condition, rows: slice | Tensor) -> dict[str, Tensor]:
    """Some samples of a condition."""
    return {key: value[rows] for key, value in condition.items()}


class Guided(Denoiser):
    """Classifier-free guidance around a denoiser: uncond + scale * (cond - uncond); scale 1 is off.

    Both branches run as one doubled batch (``split=True`` runs them one after the other in half the memory);
    at scale 1 the empty branch is skipped. Ho and Salimans 2022, arXiv:2207.12598, in the convention where
    1 means no guidance.
    """

    def __init__(self, denoiser: Denoiser, scale: float, split: bool = False):
        super().__init__()
        self.denoiser, self.scale, self.split = denoiser, float(scale), split
        self.sigma_min, self.sigma_max = denoiser.sigma_min, denoiser.sigma_max

    def forward(self, x_t: Tensor, sigma: Tensor, condition: Condition) -> Tensor:
        return self.guide(self.denoiser, x_t, sigma, condition)

    def guide(self, call: Callable[..., Tensor], x: Tensor, level: Tensor, condition: Condition) -> Tensor:
        """``call(x, level, condition)`` guided: the denoiser itself, or another view of it that is linear in x0."""
        if self.scale == 1.0:
            return call(x, level, condition)
        null = self.denoiser.null_condition(condition)
        if self.split:
            cond, uncond = call(x, level, condition), call(x, level, null)
        else:
            both = call(torch.cat([x, x]), torch.cat([level, level]), join(condition, null))
            cond, uncond = both.chunk(2)
        return uncond + self.scale * (cond - uncond)

    def null_condition(self, like: Condition) -> Condition:
        return self.denoiser.null_condition(like)
