"""Distances d of the score difference y, each with its value and its gradient d'(y).

"Per sample" distances see one norm of a whole sample (all channels and pixels); "per element" ones are a sum
over elements. Every distance scales: d_c(y / s) = s^-degree * d_(c s)(y), so a constant that lives in score
space is moved to x0 space instead of dividing a small y by a small sigma^2.

Squared L2, L2 and Pseudo-Huber are SIM's (arXiv:2410.16794); the others satisfy its theorem and are our
choice.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from scorefield.errors import UserError
from scorefield.noise import spread
from scorefield.registry import Registry

NORM_FLOOR = 1e-12  # a sample whose |y| is below counts as y = 0, where d' of a norm is set to 0


@dataclass(frozen=True)
class Distance:
    """One distance; y is [batch, …], c a per-sample constant [batch] (ignored where ``constant`` is False).

    Attributes:
        value: (y, c, k) to d(y) [batch].
        gradient: (y, c, k) to d'(y), shaped like y and differentiable in y.
        degree: (k) to p in d_c(y / s) = s^-p d_(c s)(y).
        constant: whether c means something; exponent: whether k does.
        per_element: sum over elements rather than a function of the whole sample's norm.
    """

    value: Callable[[Tensor, Tensor, float], Tensor]
    gradient: Callable[[Tensor, Tensor, float], Tensor]
    degree: Callable[[float], float] = lambda k: 1.0
    constant: bool = False
    exponent: bool = False
    per_element: bool = False


DISTANCES: Registry[Distance] = Registry(
    "distance",
    group="scorefield.distances",
    wanted=("a scorefield.losses.Distance", lambda part: isinstance(part, Distance)),
)


def _square(y: Tensor) -> Tensor:
    return y.square().flatten(1).sum(1)


def _root(square: Tensor) -> tuple[Tensor, Tensor]:
    """Square root with a finite gradient at 0, and where the root is above the floor."""
    far = square > NORM_FLOOR**2
    return torch.where(far, square, torch.ones_like(square)).sqrt(), far


def _norm_power(y: Tensor, k: float) -> Tensor:
    norm, far = _root(_square(y))
    return torch.where(far, norm**k, torch.zeros_like(norm))


def _norm_power_gradient(y: Tensor, k: float) -> Tensor:
    norm, far = _root(_square(y))
    factor = torch.where(far, k * norm ** (k - 2), torch.zeros_like(norm))
    return spread(factor, y) * y


def _pseudo_huber(y: Tensor, c: Tensor) -> Tensor:
    # sqrt(a + c^2) - c cancels for small y; a / (sqrt(a + c^2) + c) does not
    square = _square(y)
    root, far = _root(square + c**2)
    return torch.where(far, square / (root + c), torch.zeros_like(square))


def _pseudo_huber_gradient(y: Tensor, c: Tensor) -> Tensor:
    root, far = _root(_square(y) + c**2)
    return y * spread(torch.where(far, 1 / root, torch.zeros_like(root)), y)


def _charbonnier(y: Tensor, c: Tensor) -> Tensor:
    wide = spread(c, y)
    root, far = _root(y**2 + wide**2)
    return torch.where(far, y**2 / (root + wide), torch.zeros_like(y)).flatten(1).sum(1)


def _charbonnier_gradient(y: Tensor, c: Tensor) -> Tensor:
    root, far = _root(y**2 + spread(c, y) ** 2)
    return torch.where(far, y / root, torch.zeros_like(y))


def _log_cosh_gradient(y: Tensor, c: Tensor) -> Tensor:
    return (y / spread(c.clamp(min=NORM_FLOOR), y)).tanh()


def _log_cosh(y: Tensor, c: Tensor) -> Tensor:
    wide = spread(c.clamp(min=NORM_FLOOR), y)  # y / c must not overflow
    a = (y / wide).abs()
    # log cosh a without overflow: a - log 2 + log1p(exp(-2 a))
    return (wide * (a + torch.log1p(torch.expm1(-2 * a) / 2))).flatten(1).sum(1)


def _huber(y: Tensor, c: Tensor) -> Tensor:
    wide = spread(c, y)
    inside = torch.minimum(y.abs(), wide)
    return (inside * (y.abs() - inside / 2)).flatten(1).sum(1)


def _huber_gradient(y: Tensor, c: Tensor) -> Tensor:
    wide = spread(c, y)
    return torch.maximum(torch.minimum(y, wide), -wide)


def _two(k: float) -> float:
    return 2.0


def _same(k: float) -> float:
    return k


# |y|^2, per sample; d' = 2 y. SIM with it is twice SiD's alpha = 1.
DISTANCES.register("squared_l2")(Distance(lambda y, c, k: _square(y), lambda y, c, k: 2 * y, _two))

# |y|, per sample; d' = y / |y|. Unstable where the two scores agree: prefer Pseudo-Huber with a small c.
DISTANCES.register("l2")(Distance(lambda y, c, k: _norm_power(y, 1.0), lambda y, c, k: _norm_power_gradient(y, 1.0)))

# sqrt(|y|^2 + c^2) - c, per sample; d' = y / sqrt(|y|^2 + c^2) (SIM eq 3.8)
DISTANCES.register("pseudo_huber")(
    Distance(lambda y, c, k: _pseudo_huber(y, c), lambda y, c, k: _pseudo_huber_gradient(y, c), constant=True)
)

# |y|^k, per sample, k >= 1; d' = k |y|^(k-2) y
DISTANCES.register("power")(
    Distance(lambda y, c, k: _norm_power(y, k), lambda y, c, k: _norm_power_gradient(y, k), _same, exponent=True)
)

# sum |y_i|; d' = sign(y_i), a step: see the note in sim.py on what that costs
DISTANCES.register("l1")(
    Distance(lambda y, c, k: y.abs().flatten(1).sum(1), lambda y, c, k: y.sign(), per_element=True)
)

# sum sqrt(y_i^2 + c^2) - c; d' = y_i / sqrt(y_i^2 + c^2)
DISTANCES.register("charbonnier")(
    Distance(
        lambda y, c, k: _charbonnier(y, c),
        lambda y, c, k: _charbonnier_gradient(y, c),
        constant=True,
        per_element=True,
    )
)

# sum c log cosh(y_i / c); d' = tanh(y_i / c)
DISTANCES.register("log_cosh")(
    Distance(
        lambda y, c, k: _log_cosh(y, c),
        lambda y, c, k: _log_cosh_gradient(y, c),
        constant=True,
        per_element=True,
    )
)

# sum y_i^2 / 2 up to |y_i| = c, then c |y_i| - c^2 / 2; d' = clip(y_i, -c, c)
DISTANCES.register("huber")(
    Distance(
        lambda y, c, k: _huber(y, c),
        lambda y, c, k: _huber_gradient(y, c),
        _two,
        constant=True,
        per_element=True,
    )
)


def gradient_of(function: Callable[[Tensor], Tensor], y: Tensor) -> Tensor:
    """d'(y) of a user's ``function`` of y [batch, …] to [batch] by autograd; differentiable through y.

    Raises:
        UserError: the function does not return one number per sample, or does not depend on y.
    """
    with torch.enable_grad():
        y = y if y.requires_grad else y.detach().requires_grad_()
        value = function(y)
        if not isinstance(value, Tensor) or value.shape != y.shape[:1]:
            got = list(value.shape) if isinstance(value, Tensor) else type(value).__name__
            raise UserError(f"a distance must return one number per sample, shape [{len(y)}], not {got}")
        if not value.requires_grad:
            raise UserError("a distance must be differentiable in y")
        return torch.autograd.grad(value.sum(), y, create_graph=True)[0]
