"""Classifier Score Distillation (Yu et al. 2023, arXiv:2310.19415)."""

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from scorefield.errors import UserError
from scorefield.losses.base import LOSSES, Loss, check_number, sum_elements
from scorefield.losses.weighting import sample_weight
from scorefield.noise import spread


@LOSSES.register("csd")
@dataclass(frozen=True)
class Csd(Loss):
    """sum sg[w ((eps_cond - eps_uncond) + n (eps_uncond - eps_negative))] * x0; there is no online score.

    In denoisers eps_a - eps_b = (D_b - D_a) / sigma. With weighting "none" and n = 0 the expected gradient is sigma
    times that of -E log q(prompt | x_t), the teacher's own classifier; ``training.guidance_scale`` has no part in it.

    Attributes:
        negative: n at the first iteration; 0 needs no negative prompt. negative_end: n at the last one, reached
            linearly. The paper anneals it towards less and gives no single pair of numbers.
    """

    needs_online: ClassVar[bool] = False

    weighting: str = "sigma_squared"
    negative: float = 0.0
    negative_end: float = 0.0

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("negative", "negative_end"):
            check_number(name, getattr(self, name))
            if getattr(self, name) < 0:
                raise UserError(f"{name} must be at least 0, not {getattr(self, name)}")

    @property
    def needs(self) -> tuple[str, ...]:  # type: ignore[override]
        """The two branches of guidance, and the negative prompt with the run's progress where it is used."""
        with_negative = ("teacher_negative", "progress") if self.negative or self.negative_end else ()
        return ("teacher_cond", "teacher_uncond", *with_negative)

    def per_sample(
        self,
        *,
        x0: Tensor,
        sigma: Tensor,
        teacher_cond: Tensor,
        teacher_uncond: Tensor,
        teacher_x0: Tensor,
        teacher_negative: Tensor | None = None,
        progress: Tensor | None = None,
        **extra: Tensor,
    ) -> Tensor:
        weight = sample_weight(self.weighting, x0=x0, teacher_x0=teacher_x0, sigma=sigma, sigma_data=self.sigma_data)
        direction = teacher_uncond - teacher_cond
        if teacher_negative is not None and progress is not None:
            share = self.negative + (self.negative_end - self.negative) * progress
            direction = direction + spread(share, x0) * (teacher_negative - teacher_uncond)
        return weight / sigma * sum_elements(direction.detach() * x0)
