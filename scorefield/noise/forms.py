"""Prediction forms: the one place that converts between them.

A noisy sample in a process's own ("native") scaling is x_t = alpha * x0 + sigma * eps. Losses only see the
variance-exploding view x_t / alpha = x0 + (sigma / alpha) * eps; ``sigma / alpha`` is called the VE sigma.

Prediction forms, all linear in (x0, eps) at a given native x_t:

    x0     clean sample
    eps    noise
    v      alpha * eps - sigma * x0                        (Salimans and Ho 2022, arXiv:2202.00512)
    flow   eps - x0, the rectified-flow velocity           (Liu et al. 2022, arXiv:2209.03003)
    score  -eps / sigma, gradient of the log density of the native x_t
    edm    F of x0 = c_skip x + c_out F in the VE view     (Karras et al. 2022, arXiv:2206.00364, table 1)
"""

import math
from typing import overload

from torch import Tensor

from scorefield.errors import UserError, suggest

FORMS = ("x0", "eps", "v", "flow", "score", "edm")


@overload
def spread(value: Tensor, like: Tensor) -> Tensor: ...
@overload
def spread(value: float, like: Tensor) -> float: ...
def spread(value: Tensor | float, like: Tensor) -> Tensor | float:
    """A per-sample value [batch] as [batch, 1, …, 1], ready to multiply ``like``; anything else unchanged."""
    if isinstance(value, Tensor) and value.ndim == 1 and like.ndim > 1:
        return value.view(-1, *[1] * (like.ndim - 1))
    return value


def _sqrt(value: Tensor | float) -> Tensor | float:
    return value.sqrt() if isinstance(value, Tensor) else math.sqrt(value)


# Each form gives x0 and eps separately, so that nothing is divided that need not be: v, flow and edm reach
# both without 1/alpha or 1/sigma. h^2 = sigma^2 + (alpha * sigma_data)^2 is EDM's normaliser in native
# scaling.


def _to_x0(p: Tensor, form: str, x_t: Tensor, alpha, sigma, sigma_data: float) -> Tensor:
    if form == "x0":
        return p
    if form == "eps":
        return (x_t - sigma * p) / alpha
    if form == "v":
        return (alpha * x_t - sigma * p) / (alpha**2 + sigma**2)
    if form == "flow":
        return (x_t - sigma * p) / (alpha + sigma)
    if form == "score":
        return (x_t + sigma**2 * p) / alpha
    h2 = sigma**2 + (alpha * sigma_data) ** 2
    return sigma_data**2 * alpha * x_t / h2 + sigma * sigma_data * p / _sqrt(h2)


def _to_eps(p: Tensor, form: str, x_t: Tensor, alpha, sigma, sigma_data: float) -> Tensor:
    if form == "x0":
        return (x_t - alpha * p) / sigma
    if form == "eps":
        return p
    if form == "v":
        return (sigma * x_t + alpha * p) / (alpha**2 + sigma**2)
    if form == "flow":
        return (x_t + alpha * p) / (alpha + sigma)
    if form == "score":
        return -sigma * p
    h2 = sigma**2 + (alpha * sigma_data) ** 2
    return sigma * x_t / h2 - alpha * sigma_data * p / _sqrt(h2)


def convert(
    prediction: Tensor,
    source: str,
    target: str,
    *,
    x_t: Tensor,
    alpha: Tensor | float,
    sigma: Tensor | float,
    sigma_data: float = 0.5,
) -> Tensor:
    """Turn a prediction of one form into another.

    Args:
        prediction: [batch, …] in form ``source``.
        source, target: two of ``FORMS``.
        x_t: [batch, …] native noisy sample, alpha * x0 + sigma * eps.
        alpha, sigma: native scales, both positive; [batch], broadcastable to x_t, or numbers.
        sigma_data: standard deviation of the data in the EDM form; the other forms do not use it.

    Returns:
        [batch, …]. Rounding errors grow at most like 1/alpha (to x0) and 1/sigma (to eps, and its square to
        score).

    Raises:
        UserError: unknown form.
    """
    for form in (source, target):
        if form not in FORMS:
            raise UserError(f'unknown prediction form "{form}": {suggest(form, FORMS)}')
    if source == target:
        return prediction
    alpha, sigma = spread(alpha, x_t), spread(sigma, x_t)
    given = (prediction, source, x_t, alpha, sigma, sigma_data)
    if target == "x0":
        return _to_x0(*given)
    eps = _to_eps(*given)
    if target == "eps":
        return eps
    if target == "score":
        return -eps / sigma
    x0 = _to_x0(*given)
    if target == "v":
        return alpha * eps - sigma * x0
    if target == "flow":
        return eps - x0
    return (sigma * x0 - sigma_data**2 * alpha * eps) / (sigma_data * _sqrt(sigma**2 + (alpha * sigma_data) ** 2))


def score_from_x0(x0: Tensor, x_t: Tensor, sigma: Tensor) -> Tensor:
    """Score of the VE x_t [batch, …] from x0 = D(x_t, sigma): (x0 - x_t) / sigma^2 (Tweedie)."""
    return (x0 - x_t) / spread(sigma, x_t) ** 2
