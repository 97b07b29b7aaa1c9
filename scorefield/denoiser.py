"""What every network looks like to the losses: D(x_t, sigma, condition) -> x0.

x_t = x0 + sigma * eps has no input scaling (variance exploding); what a network predicts natively, its
timesteps and its alphas live in the adapter (scorefield/teachers/) and nowhere else.
"""

from collections.abc import Callable, Mapping

import torch
from torch import Tensor, nn

from scorefield.errors import UserError

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

    def branches(self, x_t: Tensor, sigma: Tensor, condition: Condition, split: bool = False) -> tuple[Tensor, Tensor]:
        """(with ``condition``, with the empty one): what guidance is made of, two x0 estimates.

        One doubled batch, or with ``split`` one after the other in half the memory.
        """
        return two_branches(self, x_t, sigma, condition, self.null_condition(condition), split)

    def encode(self, x_t: Tensor, sigma: Tensor, condition: Condition) -> Tensor:
        """Features [B, channels, h, w] float32 of what ``forward`` takes, half-way through, for a discriminator."""
        raise UserError(f"{type(self).__name__} gives no features for a discriminator")

    def null_condition(self, like: Condition) -> Condition:
        """The empty condition, shaped like ``like``, for classifier-free guidance."""
        raise NotImplementedError(f"{type(self).__name__} has no empty condition: use guidance scale 1")


def two_branches(
    call: Callable[..., Tensor], x: Tensor, level: Tensor, first: Condition, second: Condition, split: bool
) -> tuple[Tensor, Tensor]:
    """``call`` under two conditions: one doubled batch, or with ``split`` one after the other."""
    if split:
        return call(x, level, first), call(x, level, second)
    one, other = call(torch.cat([x, x]), torch.cat([level, level]), join(first, second)).chunk(2)
    return one, other


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


def replace(condition: Condition, other: Condition, rows: Tensor) -> dict[str, Tensor]:
    """``condition`` with the samples of ``rows``, bool [B], told ``other``; the shorter of two texts is filled up."""
    replaced = {}
    for key, one in condition.items():
        two = other[key]
        if one.ndim > 1 and one.shape[1] != two.shape[1]:
            longest = max(one.shape[1], two.shape[1])
            one, two = (_lengthened(value, longest) for value in (one, two))
        replaced[key] = torch.where(rows.view(-1, *[1] * (one.ndim - 1)), two, one)
    return replaced


def _lengthened(value: Tensor, length: int) -> Tensor:
    """[B, L, …] with zeros up to ``length`` in the second axis."""
    return torch.cat([value, value.new_zeros(len(value), length - value.shape[1], *value.shape[2:])], 1)


def pick(condition: Condition, rows: slice | Tensor) -> dict[str, Tensor]:
    """Some samples of a condition."""
    return {key: value[rows] for key, value in condition.items()}


class Guided(Denoiser):
    """Classifier-free guidance around a denoiser: uncond + scale * (cond - uncond); scale 1 is off.

    Both branches run as one doubled batch (``split=True`` runs them one after the other in half the memory);
    at scale 1 the empty branch is skipped, at scale 0 the other. Ho and Salimans 2022, arXiv:2207.12598, in the
    convention where 1 means no guidance.
    """

    def __init__(self, denoiser: Denoiser, scale: float, split: bool = False):
        super().__init__()
        self.denoiser, self.scale, self.split = denoiser, float(scale), split
        self.sigma_min, self.sigma_max = denoiser.sigma_min, denoiser.sigma_max

    def forward(self, x_t: Tensor, sigma: Tensor, condition: Condition) -> Tensor:
        if self.scale == 1.0:
            return self.denoiser(x_t, sigma, condition)
        if self.scale == 0.0:
            return self.denoiser(x_t, sigma, self.denoiser.null_condition(condition))
        return self.mix(*self.denoiser.branches(x_t, sigma, condition, self.split))

    def guide(self, call: Callable[..., Tensor], x: Tensor, level: Tensor, condition: Condition) -> Tensor:
        """``call(x, level, condition)`` guided likewise: another view of the denoiser, linear in its x0."""
        if self.scale == 1.0:
            return call(x, level, condition)
        null = self.denoiser.null_condition(condition)
        if self.scale == 0.0:
            return call(x, level, null)
        return self.mix(*two_branches(call, x, level, condition, null, self.split))

    def mix(self, cond: Tensor, uncond: Tensor) -> Tensor:
        """The guided estimate of two branches."""
        return cond if self.scale == 1.0 else uncond + self.scale * (cond - uncond)

    def null_condition(self, like: Condition) -> Condition:
        return self.denoiser.null_condition(like)
