"""A linear generator x = A z + b, its exact denoiser, and divergences computed without the losses."""

from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

from scorefield.noise import convert
from scorefield.teachers.analytic import Gaussian, GaussianMixture

F64 = torch.float64
Denoise = Callable[[Tensor, Tensor], Tensor]


def random_covariance(dimension: int, seed: int, lowest: float = 0.2, highest: float = 2.0) -> Tensor:
    """Anisotropic and rotated; eigenvalues spread evenly in log."""
    rng = torch.Generator().manual_seed(seed)
    q, _ = torch.linalg.qr(torch.randn(dimension, dimension, generator=rng, dtype=F64))
    ends = (np.log10(lowest), np.log10(highest)) if dimension > 1 else 2 * (np.log10(lowest * highest) / 2,)
    values = torch.logspace(*ends, dimension, dtype=F64)
    return q @ torch.diag(values) @ q.T


def parameters(dimension: int, seed: int = 3) -> tuple[Tensor, Tensor]:
    """A [D, D] and b [D] of a generator, leaves with gradient."""
    rng = torch.Generator().manual_seed(seed)
    a = torch.linalg.cholesky(random_covariance(dimension, seed)) * 1.3
    b = 0.4 * torch.randn(dimension, generator=rng, dtype=F64) - 0.2
    return a.clone().requires_grad_(), b.requires_grad_()


def gaussian_teacher(dimension: int) -> Gaussian:
    mean = torch.linspace(0.7, -0.5, dimension, dtype=F64)
    return Gaussian(mean, random_covariance(dimension, 11, 0.15, 2.5))


def mixture_teacher(dimension: int) -> GaussianMixture:
    rng = torch.Generator().manual_seed(5)
    means = 1.2 * torch.randn(3, dimension, generator=rng, dtype=F64)
    covariances = torch.stack([random_covariance(dimension, seed, 0.1, 0.8) for seed in (21, 22, 23)])
    return GaussianMixture(torch.tensor([0.5, 0.3, 0.2], dtype=F64), means, covariances)


TEACHERS = {"gaussian": gaussian_teacher, "mixture": mixture_teacher}


def own_denoiser(a: Tensor, b: Tensor) -> Denoise:
    """D of the generator's own distribution N(b, A A^T), written without the class under test."""

    def denoise(x_t: Tensor, sigma: Tensor) -> Tensor:
        covariance = a @ a.T
        eye = torch.eye(len(b), dtype=F64)
        shrink = torch.linalg.solve(covariance + sigma[0] ** 2 * eye, covariance)
        return b + (x_t - b) @ shrink

    return denoise


def through(process, form: str, denoise: Denoise) -> Denoise:
    """``denoise`` as a network of ``process`` that predicts ``form``, and back through an adapter.

    The network only knows its native coordinate; the adapter only knows sigma.
    """

    def network(native: Tensor, coordinate: Tensor) -> Tensor:
        alpha, sigma = process.alpha(coordinate), process.sigma(coordinate)
        x0 = denoise(native / alpha[:, None], sigma / alpha)
        return convert(x0, "x0", form, x_t=native, alpha=alpha, sigma=sigma)

    def adapter(x_t: Tensor, sigma: Tensor) -> Tensor:
        alpha, native_sigma = process.scales(sigma)
        native = alpha[:, None] * x_t
        output = network(native, process.timestep(sigma))
        return convert(output, form, "x0", x_t=native, alpha=alpha, sigma=native_sigma)

    return adapter


# ---------------------------------------------------------------------- quadrature


def x_t_nodes(dimension: int, count: int) -> tuple[Tensor, Tensor]:
    """Nodes [N, D] of a standard normal on [-9, 9]^D, count per axis, and weights [N].

    The midpoint rule, which converges faster than any power of the step for smooth integrands that die out,
    and still like the step itself where d'' jumps.
    """
    step = 18 / count
    place = step * (torch.arange(count, dtype=F64) + 0.5) - 9
    weight = step * (-0.5 * place**2).exp() / (2 * torch.pi) ** 0.5
    if dimension == 1:
        return place[:, None], weight
    return torch.cartesian_prod(place, place), torch.outer(weight, weight).flatten()


def quadrature(a: Tensor, b: Tensor, sigma: float, count: int) -> tuple[Tensor, Tensor, Tensor]:
    """z [N, D], eps [N, D] and weights [N] that integrate over the joint normal.

    Fine in x_t; given x_t every loss gradient is a polynomial of degree two in z, which the 2 D points of a
    symmetric cubature integrate exactly.
    """
    a, dimension = a.detach(), len(b)
    u, weight = x_t_nodes(dimension, count)
    eye = torch.eye(dimension, dtype=F64)
    total = a @ a.T + sigma**2 * eye
    offset = u @ torch.linalg.cholesky(total).T  # x_t - b
    spread = torch.linalg.cholesky(eye - a.T @ torch.linalg.solve(total, a))
    w = dimension**0.5 * torch.cat([eye, -eye])
    z = (offset @ torch.linalg.solve(total, a))[:, None] + w @ spread.T
    eps = (offset[:, None] - z @ a.T) / sigma
    weights = weight[:, None].expand(-1, 2 * dimension) / (2 * dimension)
    return z.flatten(0, 1), eps.flatten(0, 1), weights.flatten()


def cubature(dimension: int) -> tuple[Tensor, Tensor, Tensor]:
    """Points of (z, eps) that integrate polynomials of degree three over the joint normal exactly."""
    joint = 2 * dimension
    points = joint**0.5 * torch.cat([torch.eye(joint, dtype=F64), -torch.eye(joint, dtype=F64)])
    return points[:, :dimension], points[:, dimension:], torch.full((2 * joint,), 0.5 / joint, dtype=F64)


# ---------------------------------------------------------------------- gradients


def gradient(value: Tensor, a: Tensor, b: Tensor) -> Tensor:
    """Of a scalar with respect to all parameters, flat; a parameter that is not reached counts as 0."""
    grads = torch.autograd.grad(value, (a, b), allow_unused=True)
    return torch.cat([(torch.zeros_like(p) if g is None else g).flatten() for g, p in zip(grads, (a, b), strict=True)])


def loss_values(loss, a, b, teacher: Denoise, sigma: float, z, eps, wrap=lambda d: d) -> Tensor:
    """Per-sample loss at given draws; the online score is the generator's own, parameters frozen."""
    level = torch.full((len(z),), sigma, dtype=F64)
    x0 = z @ a.T + b
    x_t = x0 + sigma * eps
    online = wrap(own_denoiser(a.detach(), b.detach()))
    return loss(x0=x0, x_t=x_t, sigma=level, teacher_x0=wrap(teacher)(x_t, level), online_x0=online(x_t, level))


def loss_gradient(loss, a, b, teacher, sigma, points, wrap=lambda d: d) -> Tensor:
    """Gradient of the expected loss; ``points`` are (z, eps, weights)."""
    z, eps, weights = points
    return gradient((weights * loss_values(loss, a, b, teacher, sigma, z, eps, wrap)).sum(), a, b)


def divergence(d, a, b, teacher, sigma: float, z, eps, *, stop: bool, space: str) -> Tensor:
    """d(y) [N] at x_t = A z + b + sigma eps, differentiable in the parameters inside the score, and through
    x_t only if the sampling law is not stopped."""
    level = torch.full((len(z),), sigma, dtype=F64)
    x_t = z @ a.T + b + sigma * eps
    x_t = x_t.detach() if stop else x_t
    y = own_denoiser(a, b)(x_t, level) - teacher(x_t, level)
    return d(y if space == "x0" else y / sigma**2)


def divergence_gradient(d, a, b, teacher, sigma: float, count: int, *, stop: bool = True, space: str = "x0") -> Tensor:
    """Of E d(y) by quadrature over x_t alone: x_t = b + chol(A A^T + sigma^2 I) u."""
    u, weight = x_t_nodes(len(b), count)
    total = a @ a.T + sigma**2 * torch.eye(len(b), dtype=F64)
    x_t = b + u @ torch.linalg.cholesky(total).T
    x_t = x_t.detach() if stop else x_t
    level = torch.full((len(u),), sigma, dtype=F64)
    y = own_denoiser(a, b)(x_t, level) - teacher(x_t, level)
    return gradient((weight * d(y if space == "x0" else y / sigma**2)).sum(), a, b)


def kl_gradient(a: Tensor, b: Tensor, teacher, sigma: float, count: int) -> Tensor:
    """Of KL(p_sigma || q_sigma): minus the entropy in closed form, minus E log q by quadrature."""
    u, weight = x_t_nodes(len(b), count)
    total = a @ a.T + sigma**2 * torch.eye(len(b), dtype=F64)
    x_t = b + u @ torch.linalg.cholesky(total).T
    level = torch.full((len(u),), sigma, dtype=F64)
    cross = -(weight * teacher.log_density(x_t, level)).sum()
    return gradient(cross - 0.5 * torch.logdet(total), a, b)


def relative(got: Tensor, wanted: Tensor) -> float:
    return ((got - wanted).norm() / wanted.norm()).item()
