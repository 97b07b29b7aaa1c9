"""The student: a one-step generator whose pictures the online score sees augmented."""

from scorefield.generators.augmented import Augmented
from scorefield.generators.one_step import ConditionSource, OneStepGenerator, no_condition
from scorefield.teachers.edm import EDMDenoiser


class LabelledOneStep(Augmented, OneStepGenerator):
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
