"""Relations between the losses that hold at every draw, not only in expectation."""

import pytest
import torch
from closed_form import (
    F64,
    TEACHERS,
    cubature,
    loss_gradient,
    loss_values,
    own_denoiser,
    parameters,
    relative,
)

from scorefield import losses

D = 8
C = 0.3
SIGMA = 0.8


def draws(count: int = 40):
    rng = torch.Generator().manual_seed(0)
    return [torch.randn(count, D, generator=rng, dtype=F64) for _ in range(2)]


def per_sample(loss):
    """Loss [N] and its gradient [N, P] at single draws, with a mixture as teacher."""
    a, b = parameters(D)
    values = loss_values(loss, a, b, TEACHERS["mixture"](D), SIGMA, *draws())
    rows = [torch.autograd.grad(value, (a, b), retain_graph=True) for value in values]
    return values.detach(), torch.stack([torch.cat([g.flatten() for g in row]) for row in rows])


def assert_same(first, second, factor=1.0):
    for got, wanted in zip(per_sample(first), per_sample(second), strict=True):
        torch.testing.assert_close(got, factor * wanted, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("weighting", ["none", "sid", "edm"])
@pytest.mark.parametrize(("alpha", "kappa"), [(1.0, 0.0), (0.5, 1.0), (1.2, -0.4)])
def test_sim_with_squared_l2_is_twice_sid(alpha, kappa, weighting):
    sim = losses.build("sim", distance="squared_l2", kappa=kappa, weighting=weighting)
    assert_same(sim, losses.build("sid", alpha=alpha, weighting=weighting), 2.0)


def test_sid_in_the_authors_form_and_rearranged():
    def rearranged(*, x0, teacher_x0, online_x0, **rest):
        gap = teacher_x0 - online_x0
        omega = (x0 - teacher_x0).abs().mean(1).clamp(min=1e-5).detach()
        return ((gap * (online_x0 - x0)).sum(1) + (1 - 1.2) * (gap**2).sum(1)) / omega

    assert_same(losses.build("sid"), rearranged)


def test_pseudo_huber_in_the_papers_form():
    def by_hand(*, x0, teacher_x0, online_x0, **rest):
        y = online_x0 - teacher_x0
        return ((teacher_x0 - online_x0) * (online_x0 - x0)).sum(1) / ((y**2).sum(1) + C**2).sqrt()

    assert_same(losses.build("sim", c=C), by_hand)


@pytest.mark.parametrize(("distance", "c"), [("pseudo_huber", C), ("l2", None), ("squared_l2", None)])
@pytest.mark.parametrize("attached", [True, False])
def test_without_jacobian_it_is_weighted_diff_instruct(distance, c, attached):
    """Gradient at x0 is d'(y) = factor * (D_psi - D_q) per sample, whether or not graphs are handed in."""
    a, b = parameters(D)
    z, eps = draws()
    x0 = (z @ a.T + b).detach().requires_grad_()
    x_t = x0 + SIGMA * eps if attached else (x0 + SIGMA * eps).detach()
    level = torch.full((len(z),), SIGMA, dtype=F64)
    teacher_x0 = TEACHERS["mixture"](D)(x_t, level)
    online_x0 = own_denoiser(a.detach(), b.detach())(x_t, level)
    given = {"x0": x0, "x_t": x_t, "sigma": level, "teacher_x0": teacher_x0, "online_x0": online_x0}
    sim = losses.build("sim", distance=distance, c=c, jacobian="none")
    assert not sim.needs_jacobian
    (got,) = torch.autograd.grad(sim(**given).sum(), x0, retain_graph=True)
    (instruct,) = torch.autograd.grad(losses.build("diff_instruct")(**given).sum(), x0)
    square = (online_x0 - teacher_x0).square().sum(1).detach()
    factor = {"pseudo_huber": (square + C**2) ** -0.5, "l2": square**-0.5, "squared_l2": 2 + 0 * square}[distance]
    torch.testing.assert_close(got, factor[:, None] * instruct, rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize("name", ["diff_instruct", "dmd", "vsd", "sds"])
def test_losses_without_jacobian_ignore_graphs(name):
    a, b = parameters(D)
    z, eps = draws()
    level = torch.full((len(z),), SIGMA, dtype=F64)
    grads = []
    for attached in (True, False):
        x0 = (z @ a.T + b).detach().requires_grad_()
        x_t = x0 + SIGMA * eps if attached else (x0 + SIGMA * eps).detach()
        loss = losses.build(name)
        assert not loss.needs_jacobian
        value = loss(x0=x0, x_t=x_t, sigma=level, teacher_x0=TEACHERS["mixture"](D)(x_t, level), online_x0=0.9 * x_t)
        grads.append(torch.autograd.grad(value.sum(), x0)[0])
    assert torch.equal(*grads)


def test_score_space_is_x0_space_with_a_rescaled_constant():
    """d_c(y / s) for Pseudo-Huber is d_(c s)(y) / s with s = sigma^2."""
    score = losses.build("sim", space="score", c=C, kappa=0.5)
    assert_same(score, losses.build("sim", c=C * SIGMA**2, kappa=0.5), 1 / SIGMA**2)


@pytest.mark.parametrize(
    ("distance", "options"),
    [
        ("pseudo_huber", {"c": C}),
        ("charbonnier", {"c": C}),
        ("log_cosh", {"c": C}),
        ("huber", {"c": C}),
        ("power", {"k": 2.5}),
        ("l1", {}),
        ("l2", {}),
        ("squared_l2", {}),
    ],
)
def test_score_space_divides_y_by_sigma_squared(distance, options):
    """The moved constant gives what dividing y by sigma^2 and a callable's autograd give."""
    from scorefield.losses import DISTANCES

    known = DISTANCES.get(distance)
    constant = torch.full((40,), options.get("c", 1.0), dtype=F64)
    plain = losses.build(
        "sim", distance=lambda y: known.value(y, constant, options.get("k", 1.5)), space="score", kappa=1
    )
    assert_same(losses.build("sim", distance=distance, space="score", kappa=1, **options), plain)


def test_dmd_is_diff_instruct_with_each_sample_normalised():
    a, b = parameters(D)
    z, eps = draws()
    x0 = (z @ a.T + b).detach().requires_grad_()
    teacher_x0, online_x0 = 0.7 * x0.detach() + 0.1 * eps, 0.5 * x0.detach()
    given = {"x0": x0, "x_t": x0 + eps, "sigma": torch.ones(len(z), dtype=F64)}
    value = losses.build("dmd")(**given, teacher_x0=teacher_x0, online_x0=online_x0)
    step = (online_x0 - teacher_x0) / (x0 - teacher_x0).abs().mean(1, keepdim=True).detach()
    torch.testing.assert_close(torch.autograd.grad(value.sum(), x0)[0], step, rtol=1e-10, atol=1e-12)
    torch.testing.assert_close(value.detach(), 0.5 * (step**2).sum(1), rtol=1e-10, atol=1e-12)


def test_vsd_and_sds_defaults_are_the_native_weights():
    """The gradient at x0 is (1 - alpha^2) (eps_q - eps_psi), with eps itself for SDS."""
    a, b = parameters(D)
    z, eps = draws()
    x0 = (z @ a.T + b).detach().requires_grad_()
    x_t = (x0 + SIGMA * eps).detach()
    teacher_x0, online_x0 = 0.7 * x_t, 0.5 * x_t
    given = {"x0": x0, "x_t": x_t, "sigma": torch.full((len(z),), SIGMA, dtype=F64), "teacher_x0": teacher_x0}
    eps_q, eps_psi = (x_t - teacher_x0) / SIGMA, (x_t - online_x0) / SIGMA
    weight = 1 - 1 / (1 + SIGMA**2)
    for loss, other, extra in (("vsd", eps_psi, {"online_x0": online_x0}), ("sds", eps, {})):
        (got,) = torch.autograd.grad(losses.build(loss)(**given, **extra).sum(), x0)
        torch.testing.assert_close(got, weight * (eps_q - other), rtol=1e-9, atol=1e-12)


def test_unfused_sid_losses_match_in_value_and_not_in_gradient():
    """E |D_q - D_psi|^2 = E (D_q - D_psi)^T (D_q - x0) at an exact online score, but with its parameters
    frozen the
    two have different gradients, neither of which is half the true one or the true one (SiD's argument)."""

    def norm_form(*, teacher_x0, online_x0, **rest):
        return (teacher_x0 - online_x0).square().sum(1)

    def projected_form(*, x0, teacher_x0, online_x0, **rest):
        return ((teacher_x0 - online_x0) * (teacher_x0 - x0)).sum(1)

    a, b = parameters(D)
    teacher, points = TEACHERS["gaussian"](D), cubature(D)
    z, eps, weights = points
    values = [(weights * loss_values(form, a, b, teacher, SIGMA, z, eps)).sum() for form in (norm_form, projected_form)]
    torch.testing.assert_close(*values, rtol=1e-10, atol=0)
    naive, projected = (loss_gradient(form, a, b, teacher, SIGMA, points) for form in (norm_form, projected_form))
    assert relative(naive, projected) > 0.1
    full = 2 * loss_gradient(losses.build("sid", alpha=0.5, weighting="none"), a, b, teacher, SIGMA, points)
    assert relative(naive, full) > 0.1
    assert relative(projected, full) > 0.1
    # the fused loss is their combination: projected - alpha * norm, which at alpha 0.5 is half the truth
    assert relative(2 * projected - naive, full) < 1e-10
