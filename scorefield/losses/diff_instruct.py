"""Diff-Instruct (Luo et al. 2023, arXiv:2305.18455): integral Kullback-Leibler divergence."""

from dataclasses import dataclass

from torch import Tensor

from scorefield.losses.base import LOSSES, Loss, sum_elements
from scorefield.losses.weighting import sample_weight


@LOSSES.register("diff_instruct")
@dataclass(frozen=True)
class DiffInstruct(Loss):
    """sum sg[D_psi - D_q] * x0, times the weight (default none).

    The gradient at x0 is D_psi - D_q = sigma^2 (s_psi - s_q), so with an exact online score the expected
    gradient is sigma^2 times that of KL(p || q) between the noised distributions at that sigma. Only the
    gradient means
    something: the value changes with the origin of x0.
    """

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
        return weight * sum_elements((online_x0 - teacher_x0).detach() * x0)
