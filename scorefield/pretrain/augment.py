"""Augmentation of training pictures: mirroring, EDM's non-leaky warps, and DiffAugment for GANs."""

import itertools
import math
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from scorefield.random import Draws

AUGMENT_LABELS = 9  # what ``warp_some`` tells the network


def _uniform(images: Tensor, generator: torch.Generator, *shape: int) -> Tensor:
    return torch.rand(len(images), *shape, generator=generator, device=images.device)


def flip_some(images: Tensor, generator: torch.Generator) -> Tensor:
    """Each picture [B, C, H, W] mirrored left to right with probability one half."""
    return torch.where(_uniform(images, generator, 1, 1, 1) < 0.5, images.flip(3), images)


def warp_some(images: Tensor, probability: float, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """``warp`` with random numbers from ``generator``."""

    def uniform() -> Tensor:
        return _uniform(images, generator)

    def normal() -> Tensor:
        return torch.randn(len(images), generator=generator, device=images.device)

    return warp(images, probability, uniform, normal)


def warp_drawn(images: Tensor, probability: float, draws: Draws, mirror: float | None = None) -> tuple[Tensor, Tensor]:
    """``warp`` with random numbers that depend on each picture's place alone."""
    turn = itertools.count()

    def uniform() -> Tensor:
        return draws.uniform(f"warp-{next(turn)}")

    def normal() -> Tensor:
        return draws.normal(f"warp-{next(turn)}", 1)[:, 0]

    return warp(images, probability, uniform, normal, mirror)


def warp(
    images: Tensor,
    probability: float,
    uniform: Callable[[], Tensor],
    normal: Callable[[], Tensor],
    mirror_probability: float | None = None,
) -> tuple[Tensor, Tensor]:
    """EDM's geometric augmentation, told to the network so that it does not leak (arXiv:2206.00364, appendix F.2).

    Each of up-down flip, left-right flip, scaling, rotation, uneven scaling and shift happens with ``probability``;
    in one resampling with mirrored borders, so that pictures without a warp stay as they are. ``uniform`` and
    ``normal`` give [B] random numbers a call.

    Args:
        mirror_probability: of the left-right flip, where it is another (EDM on CIFAR-10: one half, told like the rest).

    Returns:
        Pictures [B, C, H, W] and labels [B, 9]: flips in {0, 1}, log2 scale over 0.2, cos - 1 and sin of the rotation,
        uneven scale over 0.2 times cos and sin of its axis, shifts over 1/8 of the side. All zero means untouched.
    """
    batch, device = len(images), images.device

    def chosen(value: Tensor, probability: float = probability) -> Tensor:
        return torch.where(uniform() < probability, value, torch.zeros_like(value))

    mirroring = probability if mirror_probability is None else mirror_probability
    mirror, upset = chosen(torch.ones(batch, device=device), mirroring), chosen(torch.ones(batch, device=device))
    scale = chosen(normal())
    turn = chosen((2 * uniform() - 1) * math.pi)
    uneven, axis = chosen(normal()), (2 * uniform() - 1) * math.pi
    shift_x, shift_y = chosen(normal()), chosen(normal())

    grow, stretch = torch.exp2(0.2 * scale), torch.exp2(0.2 * uneven)
    matrix = _rotation(axis) @ _diagonal(stretch, 1 / stretch) @ _rotation(-axis)  # picture to picture
    matrix = _rotation(turn) @ matrix @ _diagonal(grow * (1 - 2 * mirror), grow * (1 - 2 * upset))
    shift = torch.stack([shift_x, shift_y], 1) / 4  # the grid runs from -1 to 1: an eighth of the side
    back = torch.linalg.inv_ex(matrix).inverse  # never singular; inv would make the host wait to check that
    theta = torch.cat([back, -(back @ shift[:, :, None])], 2)
    grid = F.affine_grid(theta, list(images.shape), align_corners=False)
    moved = F.grid_sample(images, grid, padding_mode="reflection", align_corners=False)
    told = [mirror, upset, scale, turn.cos() - 1, turn.sin(), uneven * axis.cos(), uneven * axis.sin()]
    labels = torch.stack([*told, shift_x, shift_y], 1)
    untouched = (labels == 0).all(1).view(-1, 1, 1, 1)
    return torch.where(untouched, images, moved).contiguous(memory_format=torch.channels_last), labels


def _rotation(angle: Tensor) -> Tensor:
    cos, sin = angle.cos(), angle.sin()
    return torch.stack([torch.stack([cos, -sin], 1), torch.stack([sin, cos], 1)], 1)


def _diagonal(first: Tensor, second: Tensor) -> Tensor:
    return torch.diag_embed(torch.stack([first, second], 1))


def diff_augment(images: Tensor, generator: torch.Generator) -> Tensor:
    """Brightness, saturation, contrast, shift by up to 1/8 and a half-sized hole, differentiable in ``images``.

    The same law for real and generated pictures lets a discriminator see fewer pictures without remembering them
    (DiffAugment, Zhao et al. 2020, arXiv:2006.10738). [B, C, H, W] in [-1, 1], about.
    """
    side = images.shape[-1]

    def uniform() -> Tensor:
        return _uniform(images, generator, 1, 1, 1)

    images = images + (uniform() - 0.5)
    grey = images.mean(1, keepdim=True)
    images = (images - grey) * (2 * uniform()) + grey
    level = images.mean((1, 2, 3), keepdim=True)
    images = (images - level) * (uniform() + 0.5) + level
    reach = side // 8
    images = _shifted(images, reach, generator)
    size = side // 2
    rows = torch.arange(side, device=images.device)
    corner = torch.floor(_uniform(images, generator, 2) * (side + 1)) - size // 2
    inside = [(rows >= corner[:, k : k + 1]) & (rows < corner[:, k : k + 1] + size) for k in (0, 1)]
    return images * ~(inside[0][:, None, :, None] & inside[1][:, None, None, :])


def _shifted(images: Tensor, reach: int, generator: torch.Generator) -> Tensor:
    """Whole-pixel shifts of up to ``reach``, zeros moving in."""
    if reach == 0:
        return images
    batch, _, height, width = images.shape
    offset = torch.floor(_uniform(images, generator, 2) * (2 * reach + 1)).long()  # 0 ... 2 reach
    padded = F.pad(images, (reach,) * 4)
    rows = offset[:, 0, None] + torch.arange(height, device=images.device)
    columns = offset[:, 1, None] + torch.arange(width, device=images.device)
    places = torch.arange(batch, device=images.device)[:, None, None]
    return padded.permute(0, 2, 3, 1)[places, rows[:, :, None], columns[:, None, :]].permute(0, 3, 1, 2)
