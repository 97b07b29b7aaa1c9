"""Distribution Matching Distillation with DMD2's normaliser (Yin et al. 2024, arXiv:2405.14867)."""

from dataclasses import dataclass

from torch import Tensor

from scorefield.losses.base import LOSSES, Loss, sum_elements
from scorefield.losses.weighting import sample_weight
from scorefield.noise import spread


@LOSSES.register("dmd")
@dataclass(frozen=True)
class Dmd(Loss):
    """sum (x0 - sg[x0 - G])^2 / 2 with G = (D_psi - D_q) / mean |x0 - D_q|.

    The gradient at x0 is G: Diff-Instruct's direction with each sample normalised. The default weighting,
    SiD's omega, is that normaliser, floored at 1e-5 (DMD2 instead replaces the NaN of 0 / 0). DMD2's own
    code takes the mean over a sample's D elements, so its gradient is 1 / D of this one. With weighting
    "none" the expected gradient is sigma^2 times that of KL(p || q), as for ``diff_instruct``.
    """

    weighting: str = "sid"

    def per_sample(
        self,
        *,
        x0: Tensor,
        x_t: Tensor,
        sigma: Tensor,
        teacher_x0: Tensor,
        online_x0: Tensor,
        **extra: Tensor,
    ) -> Tensor:
        weight = sample_weight(self.weighting, x0=x0, teacher_x0=teacher_x0, sigma=sigma, sigma_data=self.sigma_data)
        step = (spread(weight, x0) * (online_x0 - teacher_x0)).detach()
        target = (x0 - step).detach()
        return sum_elements((x0 - target).square()) / 2
