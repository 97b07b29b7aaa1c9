"""A denoiser as a one-step generator: x = D(sigma * z, sigma, condition)."""

from collections.abc import Callable

import torch
from torch import Tensor

from scorefield.denoiser import Condition, Denoiser
from scorefield.generators.base import GENERATORS, Batch, Generator
from scorefield.random import Draws

ConditionSource = Callable[[Draws], tuple[Condition, Condition]]


def no_condition(draws: Draws) -> tuple[Condition, Condition]:
    """Unconditional: nothing is told to teacher or online score."""
    return {}, {}


@GENERATORS.register("one_step")
class OneStepGenerator(Generator):
    """x0 = D(init_sigma * z, init_sigma, condition) with z ~ N(0, I), as in SiD and SIM.

    Args:
        denoiser: trainable; usually a copy of the teacher's.
        shape: of one sample, for example (4, 64, 64).
        init_sigma: noise level of the input (SIM and SiD: 2.5).
        conditions: draws what teacher and online score are told.
    """

    def __init__(
        self,
        denoiser: Denoiser,
        shape: tuple[int, ...],
        init_sigma: float = 2.5,
        conditions: ConditionSource = no_condition,
    ):
        super().__init__()
        self.denoiser, self.shape, self.init_sigma, self.conditions = denoiser, shape, init_sigma, conditions

    @torch.no_grad()
    def draw(self, draws: Draws) -> Batch:
        teacher_condition, online_condition = self.conditions(draws)
        return Batch({"z": draws.normal("z", *self.shape)}, teacher_condition, online_condition)

    def forward(self, batch: Batch) -> Tensor:
        z = batch.latents["z"]
        sigma = torch.full((len(z),), self.init_sigma, device=z.device)
        return self.denoiser(self.init_sigma * z, sigma, batch.teacher_condition)
