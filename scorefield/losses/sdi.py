"""Score Distillation via Inversion (Lukoianov et al. 2024, arXiv:2405.15891)."""

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from scorefield.errors import UserError
from scorefield.losses.base import LOSSES, Inversion, Loss, check_number, sum_elements
from scorefield.losses.weighting import sample_weight


@LOSSES.register("sdi")
@dataclass(frozen=True)
class Sdi(Loss):
    """SDS whose noise is found by DDIM inversion: sum sg[w (eps_q(x_t) - kappa)] * x0, kappa = (x_t - x0) / sigma.

    That is sum sg[w (x0 - D_q) / sigma] * x0 at the inverted x_t; there is no online score.

    Attributes:
        steps: inversion steps from x0 to x_t, evenly spread over the schedule below it.
        inversion_guidance: guidance scale of the inversion; the public code's -7.5, written cond + s (cond - uncond),
            is -6.5 in the convention here. (Its 7.5 for the teacher is ``training.guidance_scale=8.5``.)
        eta: noise added after each step, in shares of DDIM's standard deviation of the step back.
    """

    needs_online: ClassVar[bool] = False

    weighting: str = "sigma_squared"
    steps: int = 10
    inversion_guidance: float = -6.5
    eta: float = 0.3

    def __post_init__(self) -> None:
        super().__post_init__()
        check_number("inversion_guidance", self.inversion_guidance)
        check_number("eta", self.eta)
        if self.steps < 1:
            raise UserError(f"steps must be at least 1, not {self.steps}")
        if self.eta < 0:
            raise UserError(f"eta must be at least 0, not {self.eta}")

    @property
    def inversion(self) -> Inversion:
        return Inversion(steps=self.steps, guidance_scale=self.inversion_guidance, eta=self.eta)

    def per_sample(self, *, x0: Tensor, sigma: Tensor, teacher_x0: Tensor, **extra: Tensor) -> Tensor:
        weight = sample_weight(self.weighting, x0=x0, teacher_x0=teacher_x0, sigma=sigma, sigma_data=self.sigma_data)
        return weight / sigma * sum_elements((x0 - teacher_x0).detach() * x0)
