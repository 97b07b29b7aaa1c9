"""EDM's warps of generated pictures for the online score, which is told of them (SiD, arXiv:2404.04057)."""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from scorefield.denoiser import Condition
from scorefield.errors import UserError
from scorefield.pretrain.augment import warp_drawn
from scorefield.random import Draws


@dataclass
class AugmentConfig:
    """What the online score learns from."""

    augment: float = 0.0  # probability of each of EDM's warps of generated pictures (CIFAR-10: 0.12)
    mirror: float | None = None  # probability of the left-right flip, where it is another (EDM: 0.5)

    def __post_init__(self) -> None:
        for name in ("augment", "mirror"):
            value = getattr(self, name)
            if value is not None and not 0 <= value <= 1:
                raise UserError(f"online.{name} must be a probability, not {value}")

    def check(self, teacher: Any, path: str) -> None:
        """Raise UserError when the online score would be shown warps that it cannot be told of."""
        if self.mirror is not None and not self.augment:
            raise UserError("online.mirror is part of the augmentation: give online.augment as well")
        if self.augment and not teacher.tells_augmentation:
            raise UserError(
                f'the network of teacher.path "{path}" was not trained to be told of augmentation, '
                "so its copy would learn the density of warped pictures: use online.augment=0"
            )


class Augmented:
    """Mixin of a generator whose pictures the online score sees warped.

    Attributes:
        augment, mirror: see ``scorefield.pretrain.augment.warp_drawn``; augment 0 shows pictures as they are.
    """

    augment: float = 0.0
    mirror: float | None = None

    @torch.no_grad()
    def online_view(self, x0: Tensor, condition: Condition, draws: Draws) -> tuple[Tensor, Condition]:
        """See ``Generator.online_view``."""
        if not self.augment:
            return x0, condition
        moved, told = warp_drawn(x0, self.augment, draws, self.mirror)
        return moved, {**condition, "augment": told}
