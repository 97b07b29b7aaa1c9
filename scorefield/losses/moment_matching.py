"""Moment matching (Salimans et al. 2024, arXiv:2406.04103), the alternating form with an auxiliary denoiser."""

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from scorefield.errors import UserError
from scorefield.losses.base import LOSSES, Loss, check_number, sum_elements
from scorefield.losses.weighting import sample_weight


@LOSSES.register("moment_matching")
@dataclass(frozen=True)
class MomentMatching(Loss):
    """sum sg[D_psi - D_q] * x0 with an auxiliary D_psi that is held to the teacher as well as to the samples.

    The auxiliary network is the online score, trained on |D_psi - x0|^2 + pull |D_psi - D_q|^2. Its optimum is
    (D_p + pull D_q) / (1 + pull), D_p = E[x0 | x_t] under the generator, so that D_psi - D_q is 1 / (1 + pull) of the
    difference of the two conditional means, and the expected gradient sigma^2 / (1 + pull) times that of KL(p || q):
    half of Diff-Instruct's at the paper's pull of 1, none at which the means agree.

    x_t is x0 noised, which is the paper's z_s for a generator of one step: its z_t is all noise and tells nothing of
    data. For more steps the paper noises real data to z_t, so generators of more steps are refused.

    Attributes:
        pull: weight of the auxiliary network's second term, at least 0; 0 is Diff-Instruct with its online score.

    Raises:
        UserError: a pull below 0.
    """

    one_step: ClassVar[bool] = True

    pull: float = 1.0

    def __post_init__(self) -> None:
        super().__post_init__()
        check_number("pull", self.pull)
        if self.pull < 0:
            raise UserError(f"pull must be at least 0, not {self.pull}")

    @property
    def online_pull(self) -> float:
        return self.pull

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
