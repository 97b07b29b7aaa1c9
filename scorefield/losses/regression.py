"""Paired-noise regression, the term of DMD (Yin et al. 2023, arXiv:2311.18828, section 3.3) as a baseline by itself."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from scorefield.errors import UserError, suggest
from scorefield.losses.base import LOSSES, Loss, check_number
from scorefield.losses.distances import DISTANCES
from scorefield.losses.sim import ICT_SHARE

Metric = Callable[[Tensor, Tensor], Tensor]  # samples [batch, …] twice to [batch]


@LOSSES.register("regression")
@dataclass(frozen=True)
class Regression(Loss):
    """d(x0 - y) with y what the teacher's deterministic sampler makes of the very start noise that x0 was made of.

    The pairs are drawn once, before training. There are neither scores nor noise levels: the minimiser over all maps
    is the teacher's sampler itself, z to y, and what a generator cannot express is averaged (blurred) by d.

    Attributes:
        distance: a name in ``DISTANCES``, on samples as they are (latents of a latent teacher); "lpips", on decoded
            pictures, as DMD has it; or a callable (x0, y) -> [batch]. DMD's own latent models use "lpips".
        c: constant of a distance in ``DISTANCES`` that takes one; None is iCT's rule, 0.00054 sqrt(D) at sigma_data 0.5
            (D elements; 1 for per-element distances).
        trunk: of lpips: a file with torchvision's AlexNet or VGG16 weights. net: of lpips, "alex" or "vgg".

    Raises:
        UserError: options unknown or excluding each other.
    """

    needs: ClassVar[tuple[str, ...]] = ("paired_x0",)
    needs_online: ClassVar[bool] = False
    needs_teacher: ClassVar[bool] = False

    distance: Any = "pseudo_huber"
    c: float | None = None
    trunk: str = ""
    net: str = "alex"

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.weighting != "none":
            raise UserError(
                f"regression has no noise level to be weighed by: weighting must be none, not {self.weighting}"
            )
        if self.distance == "lpips":
            if not self.trunk:
                raise UserError(
                    "distance=lpips needs trunk, a file with torchvision's weights of its AlexNet or VGG16; else "
                    "use distance=pseudo_huber, which compares samples as they are"
                )
            if self.net not in ("alex", "vgg"):
                raise UserError(f'net "{self.net}" is unknown: {suggest(self.net, ("alex", "vgg"))}')
        elif isinstance(self.distance, str):
            if self.distance not in DISTANCES:
                raise UserError(f'unknown distance "{self.distance}": {suggest(self.distance, [*DISTANCES, "lpips"])}')
            if self.c is not None:
                if not DISTANCES.get(self.distance).constant:
                    raise UserError(f'the distance "{self.distance}" takes no constant c')
                check_number("c", self.c)
                if self.c <= 0:
                    raise UserError(f"c must be positive, not {self.c}")
        elif not callable(self.distance):
            raise UserError(f"distance must be a name or a callable, not {self.distance!r}")

    def per_sample(self, *, x0: Tensor, sigma: Tensor, paired_x0: Tensor, **extra: Tensor) -> Tensor:
        if not isinstance(self.distance, str):
            return self.distance(x0, paired_x0)
        if self.distance == "lpips":
            raise UserError("distance=lpips compares pictures: a task puts its decoder in (as text_to_image does)")
        known = DISTANCES.get(self.distance)
        elements = 1 if known.per_element else x0[0].numel()
        c = ICT_SHARE * self.sigma_data * elements**0.5 if self.c is None else float(self.c)
        return known.value(x0 - paired_x0, torch.full_like(sigma, c), 1.5)
