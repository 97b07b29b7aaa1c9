"""The teachers in closed form against numerical integration and autograd."""

import math

import pytest
import torch

from scorefield.errors import UserError
from scorefield.teachers.analytic import Gaussian, GaussianMixture, eight_modes

torch.set_num_threads(1)
F64 = torch.float64


def mixture(dimension: int, count: int = 3) -> GaussianMixture:
    rng = torch.Generator().manual_seed(0)
    roots = torch.randn(count, dimension, dimension, generator=rng, dtype=F64) / dimension**0.5
    means = torch.randn(count, dimension, generator=rng, dtype=F64)
    return GaussianMixture(torch.tensor([1.0, 2.0, 3.0], dtype=F64), means, roots @ roots.mT)


@pytest.mark.parametrize("dimension", [1, 2, 8])
@pytest.mark.parametrize("sigma", [0.05, 0.7, 10.0])
def test_score_is_the_gradient_of_the_log_density(dimension, sigma):
    teacher = mixture(dimension)
    x = torch.randn(20, dimension, dtype=F64, requires_grad=True)
    level = torch.full((20,), sigma, dtype=F64)
    (wanted,) = torch.autograd.grad(teacher.log_density(x, level).sum(), x)
    torch.testing.assert_close(teacher.score(x, level), wanted, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("sigma", [0.2, 1.5])
def test_density_and_denoiser_by_integration(sigma):
    """One dimension: density and posterior mean from the components written out on a grid of clean values."""
    teacher = mixture(1)
    weights, variance = teacher.log_weights.exp(), teacher.eigenvalues[:, 0]
    grid = torch.linspace(-12, 12, 24_001, dtype=F64)
    normal = torch.distributions.Normal
    clean = (weights * normal(teacher.means[:, 0], variance.sqrt()).log_prob(grid[:, None]).exp()).sum(1)
    for point in (-1.3, 0.2, 2.0):
        joint = clean * normal(grid, sigma).log_prob(torch.tensor(point, dtype=F64)).exp()
        total, mean = joint.sum() * 1e-3, (joint * grid).sum() / joint.sum()
        x, level = torch.tensor([[point]], dtype=F64), torch.tensor([sigma], dtype=F64)
        assert teacher.log_density(x, level).exp().item() == pytest.approx(total.item(), rel=1e-5)
        assert teacher(x, level).item() == pytest.approx(mean.item(), rel=1e-5, abs=1e-7)


def test_gaussian_closed_form():
    root = torch.randn(8, 8, dtype=F64, generator=torch.Generator().manual_seed(1))
    covariance, mean = root @ root.T, torch.linspace(-1, 1, 8, dtype=F64)
    teacher = Gaussian(mean, covariance)
    x, level = torch.randn(5, 8, dtype=F64), torch.tensor([0.1, 0.5, 1.0, 3.0, 40.0], dtype=F64)
    for row, sigma, got, log in zip(x, level, teacher(x, level), teacher.log_density(x, level), strict=True):
        total = covariance + sigma**2 * torch.eye(8, dtype=F64)
        torch.testing.assert_close(got, mean + covariance @ torch.linalg.solve(total, row - mean))
        wanted = torch.distributions.MultivariateNormal(mean, total).log_prob(row)
        torch.testing.assert_close(log, wanted)


def test_denoiser_minimises_the_denoising_error():
    teacher = mixture(2)
    rng = torch.Generator().manual_seed(3)
    x0 = teacher.sample(100_000, rng)
    x_t = x0 + 0.6 * torch.randn(x0.shape, generator=rng, dtype=F64)
    residual = x0 - teacher(x_t, torch.full((len(x0),), 0.6, dtype=F64))
    for probe in (
        torch.ones_like(x_t),
        x_t,
        x_t.sin(),
        x_t**2,
    ):  # the error is orthogonal to functions of x_t
        product = (residual * probe).sum(1)
        assert abs(product.mean().item()) < 5 * product.std().item() / len(x0) ** 0.5


def test_samples_have_the_moments():
    teacher = mixture(3)
    x = teacher.sample(200_000, torch.Generator().manual_seed(2))
    weights = teacher.log_weights.exp()
    mean = weights @ teacher.means
    parts = torch.einsum("kde,ke,kfe->kdf", teacher.eigenvectors, teacher.eigenvalues, teacher.eigenvectors)
    offset = teacher.means - mean
    covariance = torch.einsum("k,kdf->df", weights, parts + offset[:, :, None] * offset[:, None])
    torch.testing.assert_close(x.mean(0), mean, rtol=0, atol=0.02)
    torch.testing.assert_close(x.T.cov(), covariance, rtol=0, atol=0.04)


def test_it_is_a_denoiser_of_any_shape():
    teacher = mixture(8).float()
    x = torch.randn(4, 2, 2, 2, requires_grad=True)
    out = teacher(x, torch.full((4,), 0.5), {})
    assert out.shape == x.shape
    assert out.dtype == torch.float32
    (grad,) = torch.autograd.grad(out.sum(), x)
    assert grad.isfinite().all()
    assert teacher.null_condition({}) == {}
    assert not list(teacher.parameters())


def test_far_and_near_points_are_finite():
    teacher = eight_modes()
    x = torch.tensor([[0.0, 0.0], [1e3, -1e3], [2.0, 0.0]])
    for sigma in (0.002, 1.0, 80.0):
        out = teacher(x, torch.full((3,), sigma))
        assert out.isfinite().all()
    assert out.abs().max() < 1e3


def test_eight_modes_lie_on_a_ring():
    teacher = eight_modes(radius=3.0, std=0.2)
    torch.testing.assert_close(teacher.means.norm(dim=1), torch.full((8,), 3.0))
    neighbours = (teacher.means - teacher.means.roll(1, 0)).norm(dim=1)
    torch.testing.assert_close(neighbours, torch.full((8,), 6 * math.sin(math.pi / 8)))
    torch.testing.assert_close(teacher.eigenvalues, torch.full((8, 2), 0.04))


def test_bad_mixtures_are_refused():
    eye = torch.eye(2)[None]
    with pytest.raises(UserError, match="covariances"):
        GaussianMixture(torch.ones(2), torch.zeros(2, 2), eye)
    with pytest.raises(UserError, match="positive"):
        GaussianMixture(torch.tensor([-1.0]), torch.zeros(1, 2), eye)
    with pytest.raises(UserError, match="semidefinite"):
        GaussianMixture(torch.ones(1), torch.zeros(1, 2), -eye)
