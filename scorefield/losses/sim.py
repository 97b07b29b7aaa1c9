"""Score Implicit Matching (Luo et al. 2024, arXiv:2410.16794).

With y = D_psi(x_t) - D_q(x_t) (online minus teacher; y_s = y / sigma^2 is the difference of the scores) the
per-sample loss is, before the weight,

    space "x0":     -d'(y)^T (D_psi - x0)                 + kappa d(y)
    space "score":  -d'(y_s)^T (D_psi - x0) / sigma^2     + kappa d(y_s)

**What its gradient is.** Let p be the generator's distribution noised to sigma, D_psi its exact denoiser,
parameters of both networks frozen, weighting "none". The expected gradient at that sigma is, with no further
factor, that of

    kappa = 0:  E over x_t ~ sg[p] of d(y)   (SIM theorem 3.1: the sampling law is stopped, the score moves)
    kappa = 1:  E over x_t ~ p of d(y)       (the whole divergence; RealUID states it for squared L2)

with y replaced by y_s in score space. A weight that is a function of sigma multiplies both. SiD's omega
depends on the sample, so with it the gradient is weighted per sample and no longer exactly a divergence's.
SIM with squared L2 in x0 space is 2 x SiD at alpha = 1, and in general 2 x SiD at alpha = 1 - kappa / 2.

``l1``, and ``l2`` on one-dimensional data, have a step in d': autograd does not see what the step adds to the
gradient where y changes sign, so there the claim holds only as long as y keeps its sign. Use charbonnier or
Pseudo-Huber with a small c where that matters.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from scorefield.errors import UserError, suggest
from scorefield.losses.base import LOSSES, Loss, check_number, sum_elements
from scorefield.losses.distances import DISTANCES, Distance, gradient_of
from scorefield.losses.weighting import sample_weight
from scorefield.noise import spread

ICT_SHARE = 0.00054 / 0.5  # iCT's c = 0.00054 sqrt(D) for data of standard deviation 0.5 (arXiv:2310.14189)


@LOSSES.register("sim")
@dataclass(frozen=True)
class Sim(Loss):
    """SIM loss; the module's docstring states formula and gradient.

    Attributes:
        distance: a name in ``DISTANCES``, a ``Distance``, or a callable d(y) [batch, …] -> [batch] whose
            gradient is taken by autograd.
        c: the distance's constant (pseudo_huber, charbonnier, log_cosh, huber), >= 0 (log_cosh, huber: > 0).
            The paper's value is not public. None takes iCT's rule, 0.00054 sqrt(D) at sigma_data 0.5, that is
            0.00108 of the norm of the data: the loss normalises itself (like L2) until the two denoisers
            agree to a thousandth of the data, and is quadratic below, so that nothing is divided by zero. D
            is the number of elements for per-sample distances, 1 for per-element ones. In score space c is
            divided by sigma_data^2, which makes both spaces agree at sigma = sigma_data.
        k: exponent of ``power``, >= 1; None is 1.5.
        space: where y and c live. "x0": the constant means the same disagreement of pictures at every sigma;
            "score": SIM's own form, whose x0-space constant is sigma^2 c.
        kappa: weight of the path term; 0 is SIM, 1 the full divergence, -0.4 mirrors SiD's alpha 1.2.
        jacobian: "exact", or "none": x_t is a constant inside both networks, so the gradient at x0 is d'(y):
            for Pseudo-Huber the Diff-Instruct gradient divided by sqrt(|y|^2 + c^2) (times 1 / sigma^2 in
            score space). Needs no graph through the networks; approximates no divergence of scores.

    Raises:
        UserError: options unknown, out of range, or excluding each other.
    """

    distance: Any = "pseudo_huber"
    c: float | None = None
    k: float | None = None
    space: str = "x0"
    kappa: float = 0.0
    jacobian: str = "exact"

    def __post_init__(self) -> None:
        super().__post_init__()
        for name, value, allowed in (
            ("space", self.space, ("x0", "score")),
            ("jacobian", self.jacobian, ("exact", "none")),
        ):
            if value not in allowed:
                raise UserError(f'unknown {name} "{value}": {suggest(str(value), allowed)}')
        check_number("kappa", self.kappa)
        if self.kappa != 0 and self.jacobian == "none":
            raise UserError(
                'kappa needs jacobian="exact": the path term reaches the generator only through the networks'
            )
        self._check_distance()

    def _check_distance(self) -> None:
        if isinstance(self.distance, str):
            DISTANCES.get(self.distance)
        elif not isinstance(self.distance, Distance) and not callable(self.distance):
            raise UserError(f"distance must be a name or a callable, not {self.distance!r}")
        known, label = self._known(), self.distance if isinstance(self.distance, str) else "of your own"
        if self.c is not None:
            if known is None or not known.constant:
                raise UserError(f'the distance "{label}" takes no constant c')
            check_number("c", self.c)
            if self.c < 0 or (self.c == 0 and self.distance in ("log_cosh", "huber")):
                raise UserError(f"c must be {'positive' if self.c == 0 else 'at least 0'}, not {self.c}")
        if self.k is not None:
            if known is None or not known.exponent:
                raise UserError(f'the distance "{label}" takes no exponent k')
            check_number("k", self.k)
            if self.k < 1:
                raise UserError(f"k must be at least 1, not {self.k}")

    @property
    def needs_jacobian(self) -> bool:
        return self.jacobian == "exact"

    def _known(self) -> Distance | None:
        """The distance with its closed-form gradient, or None for a user's callable."""
        if isinstance(self.distance, str):
            return DISTANCES.get(self.distance)
        return self.distance if isinstance(self.distance, Distance) else None

    def constant(self, like: Tensor) -> float:
        """The constant in force for samples shaped like ``like`` [batch, …], in the units of ``space``."""
        if self.c is not None:
            return float(self.c)
        known = self._known()
        elements = 1 if known is not None and known.per_element else like[0].numel()
        c = ICT_SHARE * self.sigma_data * elements**0.5
        return c if self.space == "x0" else c / self.sigma_data**2

    def value_and_gradient(self, y: Tensor, sigma: Tensor) -> tuple[Callable[[], Tensor], Tensor]:
        """d as a function to call if wanted [batch], and its gradient with respect to the x0-space y."""
        scale = sigma**2 if self.space == "score" else torch.ones_like(sigma)
        known = self._known()
        if known is None:
            scaled = y / spread(scale, y)
            return lambda: self.distance(scaled), gradient_of(self.distance, scaled) / spread(scale, y)
        # d_c(y / s) = s^-p d_(c s)(y): the constant is moved, y is not divided
        c, k = self.constant(y) * scale, 1.5 if self.k is None else float(self.k)
        shrink = scale ** -known.degree(k)
        return lambda: shrink * known.value(y, c, k), spread(shrink, y) * known.gradient(y, c, k)

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
        if self.jacobian == "none":
            teacher_x0, online_x0 = teacher_x0.detach(), online_x0.detach()
        value, gradient = self.value_and_gradient(online_x0 - teacher_x0, sigma)
        if self.jacobian == "none":
            gradient = gradient.detach()
        loss = -sum_elements(gradient * (online_x0 - x0))
        if self.kappa:
            loss = loss + self.kappa * value()
        weight = sample_weight(self.weighting, x0=x0, teacher_x0=teacher_x0, sigma=sigma, sigma_data=self.sigma_data)
        return weight * loss
