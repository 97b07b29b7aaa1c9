"""Distances: values, gradients, and what happens at the edges of floating point."""

import math

import pytest
import torch

from scorefield import losses
from scorefield.losses import DISTANCES
from scorefield.losses.distances import gradient_of

F64 = torch.float64
K = 2.5
SHAPE = (6, 3, 4, 2)


def sample(dtype=F64):
    """Anisotropic: element scales from 0.05 to 5, so that norms and elements cannot be mixed up."""
    rng = torch.Generator().manual_seed(0)
    scales = torch.logspace(math.log10(0.05), math.log10(5), math.prod(SHAPE[1:]), dtype=dtype)
    return torch.randn(SHAPE, generator=rng, dtype=dtype) * scales.view(SHAPE[1:])


def constant(dtype=F64):
    return torch.linspace(0.2, 0.9, SHAPE[0], dtype=dtype)


BY_HAND = {
    "squared_l2": lambda y, c: (y**2).sum(),
    "l2": lambda y, c: y.norm(),
    "pseudo_huber": lambda y, c: (y.norm() ** 2 + c**2).sqrt() - c,
    "power": lambda y, c: y.norm() ** K,
    "l1": lambda y, c: y.abs().sum(),
    "charbonnier": lambda y, c: sum((v**2 + c**2).sqrt() - c for v in y.flatten()),
    "log_cosh": lambda y, c: sum(c * (v / c).cosh().log() for v in y.flatten()),
    "huber": lambda y, c: sum(v**2 / 2 if v.abs() <= c else c * v.abs() - c**2 / 2 for v in y.flatten()),
}


def test_every_distance_is_tested():
    assert set(BY_HAND) == set(DISTANCES)


@pytest.mark.parametrize("name", BY_HAND)
def test_value(name):
    y, c = sample(), constant()
    got = DISTANCES.get(name).value(y, c, K)
    wanted = torch.stack([BY_HAND[name](row, level) for row, level in zip(y, c, strict=True)])
    torch.testing.assert_close(got, wanted, rtol=1e-12, atol=1e-12)
    zero = DISTANCES.get(name).value(torch.zeros_like(y), c, K)
    assert torch.equal(zero, torch.zeros(len(y), dtype=F64))


@pytest.mark.parametrize("name", BY_HAND)
def test_gradient_is_autograd_of_the_value(name):
    distance, y, c = DISTANCES.get(name), sample().requires_grad_(), constant()
    (wanted,) = torch.autograd.grad(distance.value(y, c, K).sum(), y)
    torch.testing.assert_close(distance.gradient(y, c, K), wanted, rtol=1e-12, atol=1e-14)
    torch.testing.assert_close(gradient_of(lambda v: distance.value(v, c, K), y), wanted, rtol=0, atol=0)


@pytest.mark.parametrize("name", [n for n in BY_HAND if n != "l1"])
def test_gradient_is_itself_differentiable_in_y(name):
    distance, c = DISTANCES.get(name), constant()[:2]
    y = sample()[:2].flatten(1)[:, ::4].clone().requires_grad_()
    torch.autograd.gradcheck(lambda v: distance.gradient(v, c, K), (y,))


@pytest.mark.parametrize("name", BY_HAND)
def test_scaling_law(name):
    """d_c(y / s) = s^-degree d_(c s)(y)."""
    distance, y, c = DISTANCES.get(name), sample(), constant()
    s = torch.logspace(-2, 1, len(y), dtype=F64)
    got = s ** -distance.degree(K) * distance.value(y, c * s, K)
    torch.testing.assert_close(got, distance.value(y / s[:, None, None, None], c, K), rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("name", BY_HAND)
def test_norms_are_per_sample_where_the_table_says(name):
    """Per-element distances are sums over elements; per-sample ones see only the norm of the whole sample."""
    distance, y, c = DISTANCES.get(name), sample(), constant()
    split = sum(distance.value(y[..., i : i + 1, j : j + 1], c, K) for i in range(SHAPE[2]) for j in range(SHAPE[3]))
    turned = torch.zeros_like(y)
    turned[:, 0, 0, 0] = y.flatten(1).norm(dim=1)
    sums, rotates = (
        torch.allclose(distance.value(y, c, K), other, rtol=1e-9) for other in (split, distance.value(turned, c, K))
    )
    assert sums == (distance.per_element or name == "squared_l2")
    assert rotates != distance.per_element


@pytest.mark.parametrize("dtype", [torch.float32, F64])
@pytest.mark.parametrize("space", ["x0", "score"])
@pytest.mark.parametrize("c", [0.0, 1e-30, None])
@pytest.mark.parametrize("name", BY_HAND)
def test_agreement_of_the_scores_is_not_nan(name, c, space, dtype):
    """y = 0 and y near 0, sigma from 0.002 to 80: loss and gradient stay finite, also with c = 0."""
    if not DISTANCES.get(name).constant or (c == 0.0 and name in ("log_cosh", "huber")):
        c = None
    loss = losses.build("sim", distance=name, c=c, space=space, kappa=1.0)
    for tiny in (0.0, 1e-38, 1e-22, 1e-13, 1e-6):
        x0 = torch.linspace(-1, 1, 12, dtype=dtype).view(3, 4).requires_grad_()
        sigma = torch.tensor([0.002, 1.0, 80.0], dtype=dtype)
        x_t = x0 + sigma[:, None]
        teacher_x0 = 0.5 * x_t
        value = loss(x0=x0, x_t=x_t, sigma=sigma, teacher_x0=teacher_x0, online_x0=teacher_x0 + tiny * x_t.tanh())
        (grad,) = torch.autograd.grad(value.sum(), x0)
        assert value.isfinite().all()
        assert grad.isfinite().all(), (name, tiny)


def test_large_differences_do_not_overflow():
    y = torch.full((1, 4), 1e15)
    for name in ("pseudo_huber", "charbonnier", "log_cosh", "huber", "l2", "l1"):
        distance = DISTANCES.get(name)
        assert distance.value(y, torch.tensor([0.03]), K).isfinite().all()
        assert distance.gradient(y, torch.tensor([0.03]), K).isfinite().all()


def test_small_pseudo_huber_values_do_not_cancel():
    y = torch.full((1, 1), 1e-5)
    got = DISTANCES.get("pseudo_huber").value(y, torch.tensor([1.0]), K)
    assert got.item() == pytest.approx(0.5e-10, rel=1e-5)
