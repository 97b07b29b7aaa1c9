"""Score identity Distillation (Zhou et al. 2024, arXiv:2404.04057), the loss as its authors compute it."""

from dataclasses import dataclass

from torch import Tensor

from scorefield.losses.base import LOSSES, Loss, check_number, sum_elements
from scorefield.losses.weighting import sample_weight


@LOSSES.register("sid")
@dataclass(frozen=True)
class Sid(Loss):
    """sum (D_q - D_psi) * [(D_q - x0) - alpha (D_q - D_psi)], times the weight (default 1 / omega).

    Equals (D_q - D_psi)^T (D_psi - x0) + (1 - alpha) |D_q - D_psi|^2. With weighting "none" its expected
    gradient is half that of E |D_psi - D_q|^2 over x_t ~ p, the sampling law stopped (alpha = 1) or not
    (alpha = 0.5). SiD's best alpha, 1.2, is beyond both and empirical. SiD's code multiplies the sum by a
    further 100.
    """

    weighting: str = "sid"
    alpha: float = 1.2

    def __post_init__(self) -> None:
        super().__post_init__()
        check_number("alpha", self.alpha)

    @property
    def needs_jacobian(self) -> bool:
        return True

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
        gap = teacher_x0 - online_x0
        loss = sum_elements(gap * ((teacher_x0 - x0) - self.alpha * gap))
        weight = sample_weight(self.weighting, x0=x0, teacher_x0=teacher_x0, sigma=sigma, sigma_data=self.sigma_data)
        return weight * loss
