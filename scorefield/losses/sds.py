"""Score distillation sampling (DreamFusion; Poole et al. 2022, arXiv:2209.14988)."""

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from scorefield.losses.base import LOSSES, Loss, sum_elements
from scorefield.losses.weighting import sample_weight


@LOSSES.register("sds")
@dataclass(frozen=True)
class Sds(Loss):
    """sum sg[w (eps_q - eps)] * x0 with eps_q - eps = (x0 - D_q) / sigma; there is no online score.

    VSD with the online denoiser replaced by the sample itself. With weighting "none" the expected gradient
    is sigma times that of E over x0 of KL(N(x0, sigma^2) || q) at that sigma, whose minimum is a mode of q
    and not q. Weightings as for ``vsd``.
    """

    needs_online: ClassVar[bool] = False

    weighting: str = "sigma_squared"

    def per_sample(self, *, x0: Tensor, sigma: Tensor, teacher_x0: Tensor, **extra: Tensor) -> Tensor:
        weight = sample_weight(self.weighting, x0=x0, teacher_x0=teacher_x0, sigma=sigma, sigma_data=self.sigma_data)
        return weight / sigma * sum_elements((x0 - teacher_x0).detach() * x0)
