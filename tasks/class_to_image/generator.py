"""The student: a one-step generator whose pictures the online score sees augmented."""

import torch
from torch import Tensor

from scorefield.denoiser import Condition
from scorefield.generators.one_step import ConditionSource, OneStepGenerator, no_condition
from scorefield.pretrain.augment import warp_drawn
from scorefield.random import Draws
from scorefield.teachers.edm import EDMDenoiser


class LabelledOneStep(OneStepGenerator):
    """x0 = D(init_sigma z, init_sigma, label); SiD's augmentation of what the online score learns from.

    Args:
        augment, mirror: see ``scorefield.pretrain.augment.warp_drawn``; augment 0 shows pictures as they are.
    """

    def __init__(
        self,
        denoiser: EDMDenoiser,
        shape: tuple[int, ...],
        init_sigma: float = 2.5,
        conditions: ConditionSource = no_condition,
        augment: float = 0.0,
        mirror: float | None = None,
    ):
        super().__init__(denoiser, shape, init_sigma, conditions)
        self.augment, self.mirror = augment, mirror

    @torch.no_grad()
    def online_view(self, x0: Tensor, condition: Condition, draws: Draws) -> tuple[Tensor, Condition]:
        if not self.augment:
            return x0, condition
        moved, told = warp_drawn(x0, self.augment, draws, self.mirror)
        return moved, {**condition, "augment": told}
