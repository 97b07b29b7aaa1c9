"""Interval Score Matching (LucidDreamer; Liang et al. 2023, arXiv:2311.11284)."""

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from scorefield.errors import UserError
from scorefield.losses.base import LOSSES, Inversion, Loss, check_number, sum_elements
from scorefield.losses.weighting import sample_weight
from scorefield.noise import spread


@LOSSES.register("ism")
@dataclass(frozen=True)
class Ism(Loss):
    """sum sg[w (eps_q(x_t) - eps_uncond(x_s))] * x0, x_t reached from x0 by DDIM inversion through x_s.

    eps_q is the guided teacher (``training.guidance_scale``; the paper takes 7.5); there is no online score. The
    default weight, sigma, is that of the public code.

    Attributes:
        interval: length of the last step, from x_s to x_t, in shares of the schedule (their delta_T 50 to 100 of 1000).
        steps: inversion steps from x0 to x_s, evenly spread (theirs are 200 of 1000 long, so one to five).
    """

    needs: ClassVar[tuple[str, ...]] = ("inversion_eps",)
    needs_online: ClassVar[bool] = False

    weighting: str = "sigma"
    interval: float = 0.05
    steps: int = 3

    def __post_init__(self) -> None:
        super().__post_init__()
        check_number("interval", self.interval)
        if not 0 < self.interval < 1:
            raise UserError(f"interval must lie between 0 and 1, not at {self.interval}")
        if self.steps < 1:
            raise UserError(f"steps must be at least 1, not {self.steps}")

    @property
    def inversion(self) -> Inversion:
        return Inversion(steps=self.steps, guidance_scale=0.0, interval=self.interval)

    def per_sample(
        self, *, x0: Tensor, x_t: Tensor, sigma: Tensor, teacher_x0: Tensor, inversion_eps: Tensor, **extra: Tensor
    ) -> Tensor:
        weight = sample_weight(self.weighting, x0=x0, teacher_x0=teacher_x0, sigma=sigma, sigma_data=self.sigma_data)
        eps = (x_t - teacher_x0) / spread(sigma, x0)
        return weight * sum_elements((eps - inversion_eps).detach() * x0)
