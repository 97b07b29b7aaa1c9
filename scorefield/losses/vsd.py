"""Variational score distillation (ProlificDreamer; Wang et al. 2023, arXiv:2305.16213)."""

from dataclasses import dataclass

from torch import Tensor

from scorefield.losses.base import LOSSES, Loss, sum_elements
from scorefield.losses.weighting import sample_weight


@LOSSES.register("vsd")
@dataclass(frozen=True)
class Vsd(Loss):
    """sum sg[w (eps_q - eps_psi)] * x0 with eps_q - eps_psi = (D_psi - D_q) / sigma.

    The default weighting "sigma_squared", w = sigma^2 / (1 + sigma^2), is the native 1 - alpha^2 of the
    public implementations; "alpha_sigma_squared" is another in use. With weighting "none" the expected
    gradient at an exact online score is sigma times that of KL(p || q) between the noised distributions.
    """

    weighting: str = "sigma_squared"

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
        return weight / sigma * sum_elements((online_x0 - teacher_x0).detach() * x0)
