"""Noise-Free Score Distillation (Katzir et al. 2023, arXiv:2310.17590)."""

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from scorefield.errors import UserError
from scorefield.losses.base import LOSSES, Loss, check_number, sum_elements
from scorefield.losses.weighting import sample_weight
from scorefield.noise import spread


@LOSSES.register("nfsd")
@dataclass(frozen=True)
class Nfsd(Loss):
    """sum sg[w (scale (eps_cond - eps_uncond) + delta)] * x0; there is no online score.

    delta, the direction towards pictures at large, is eps_uncond at little noise and eps_uncond - eps_negative above,
    so it needs a negative prompt that says what bad pictures look like. ``training.guidance_scale`` has no part in it.

    Attributes:
        scale: of the direction towards the prompt; the paper's 7.5 by default.
        switch_sigma: noise level from which delta changes; the default is timestep 200 of Stable Diffusion's schedule.
    """

    needs: ClassVar[tuple[str, ...]] = ("teacher_cond", "teacher_uncond", "teacher_negative")
    needs_online: ClassVar[bool] = False

    weighting: str = "sigma_squared"
    scale: float = 7.5
    switch_sigma: float = 0.5717

    def __post_init__(self) -> None:
        super().__post_init__()
        check_number("scale", self.scale)
        check_number("switch_sigma", self.switch_sigma)
        if self.switch_sigma < 0:
            raise UserError(f"switch_sigma must be at least 0, not {self.switch_sigma}")

    def per_sample(
        self,
        *,
        x0: Tensor,
        x_t: Tensor,
        sigma: Tensor,
        teacher_x0: Tensor,
        teacher_cond: Tensor,
        teacher_uncond: Tensor,
        teacher_negative: Tensor,
        **extra: Tensor,
    ) -> Tensor:
        weight = sample_weight(self.weighting, x0=x0, teacher_x0=teacher_x0, sigma=sigma, sigma_data=self.sigma_data)
        little = spread(sigma < self.switch_sigma, x0)
        domain = torch.where(little, x_t, teacher_negative) - teacher_uncond  # sigma times delta
        direction = self.scale * (teacher_uncond - teacher_cond) + domain
        return weight / sigma * sum_elements(direction.detach() * x0)
