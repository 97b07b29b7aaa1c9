"""Each loss gives the gradient of the divergence that it claims, by quadrature in one and two dimensions."""

import pytest
import torch
from closed_form import (
    F64,
    TEACHERS,
    divergence_gradient,
    kl_gradient,
    loss_gradient,
    loss_values,
    parameters,
    quadrature,
    relative,
    through,
    x_t_nodes,
)

from scorefield import losses
from scorefield.losses import DISTANCES, Distance
from scorefield.noise import EDM, VE, DiscreteVP, RectifiedFlow
from scorefield.teachers.analytic import Gaussian

NODES = {1: 600, 2: 150}
TOLERANCE = 1e-4
C = 0.4

# written out once more, by hand, as the independent side
PLAIN = {
    "squared_l2": lambda y: (y**2).sum(1),
    "l2": lambda y: (y**2).sum(1) ** 0.5,
    "pseudo_huber": lambda y: ((y**2).sum(1) + C**2) ** 0.5 - C,
    "power": lambda y: (y**2).sum(1) ** 1.5,
    "l1": lambda y: y.abs().sum(1),
    "charbonnier": lambda y: ((y**2 + C**2) ** 0.5 - C).sum(1),
    "log_cosh": lambda y: C * (y / C).cosh().log().sum(1),
    "huber": lambda y: torch.where(y.abs() < C, y**2 / 2, C * y.abs() - C**2 / 2).sum(1),
}
SMOOTH = ["squared_l2", "pseudo_huber", "power", "charbonnier", "log_cosh"]


def sim(distance: str, **options):
    known = DISTANCES.get(distance)
    if known.constant:
        options["c"] = C
    if known.exponent:
        options["k"] = 3.0
    return losses.build("sim", distance=distance, **options)


def check_sim(distance, teacher, dimension, sigma, space, kappa, count=None):
    a, b = parameters(dimension)
    count = count or NODES[dimension]
    points = quadrature(a, b, sigma, count)
    got = loss_gradient(sim(distance, space=space, kappa=kappa), a, b, teacher, sigma, points)
    options = {"count": count, "space": space}
    frozen, full = (
        divergence_gradient(PLAIN[distance], a, b, teacher, sigma, stop=stop, **options) for stop in (True, False)
    )
    assert relative(frozen, full) > 10 * TOLERANCE  # the two claims differ: passing one is not passing the other
    assert relative(got, full if kappa else frozen) < TOLERANCE


@pytest.mark.parametrize("space", ["x0", "score"])
@pytest.mark.parametrize("kappa", [0.0, 1.0])
@pytest.mark.parametrize("sigma", [0.5, 1.3, 5.0])
@pytest.mark.parametrize("teacher", TEACHERS)
@pytest.mark.parametrize("distance", SMOOTH)
def test_sim_is_the_score_divergence_in_one_dimension(distance, teacher, sigma, kappa, space):
    check_sim(distance, TEACHERS[teacher](1), 1, sigma, space, kappa)


@pytest.mark.parametrize("kappa", [0.0, 1.0])
@pytest.mark.parametrize("teacher", TEACHERS)
@pytest.mark.parametrize("distance", SMOOTH)
def test_sim_is_the_score_divergence_in_two_anisotropic_dimensions(distance, teacher, kappa):
    check_sim(distance, TEACHERS[teacher](2), 2, 0.8, "x0", kappa)


@pytest.mark.parametrize("kappa", [0.0, 1.0])
def test_huber_with_its_kinks(kappa):
    """d' is continuous, so the claim holds; the kinks only slow the quadrature."""
    check_sim("huber", TEACHERS["gaussian"](1), 1, 1.3, "x0", kappa, count=100_000)


@pytest.mark.parametrize("distance", ["l1", "l2"])
def test_step_distances_where_the_difference_keeps_its_sign(distance):
    """Far means: y varies but never reaches 0, so neither a step nor a pole of d' is in reach."""
    a, b = parameters(2)
    teacher = Gaussian(torch.tensor([9.0, -8.0], dtype=F64), 0.8 * a.detach() @ a.detach().T)
    points = quadrature(a, b, 0.8, NODES[2])
    got = loss_gradient(sim(distance), a, b, teacher, 0.8, points)
    assert relative(got, divergence_gradient(PLAIN[distance], a, b, teacher, 0.8, NODES[2])) < TOLERANCE


def test_l1_misses_what_its_step_adds():
    """The documented limit of l1: autograd does not see the step of sign(y); charbonnier does not suffer."""
    a, b, teacher, sigma, _ = reference_setting()
    points = quadrature(a, b, sigma, NODES[1])
    wanted = divergence_gradient(PLAIN["l1"], a, b, teacher, sigma, NODES[1])
    assert relative(loss_gradient(sim("l1"), a, b, teacher, sigma, points), wanted) > 0.05
    close = losses.build("sim", distance="charbonnier", c=0.01)
    assert relative(loss_gradient(close, a, b, teacher, sigma, points), wanted) < 0.01


@pytest.mark.parametrize("power", [1.0, 1.4])
def test_user_distance(power):
    def d(y):
        return (1 + (y**2).sum(1)) ** (power / 2) - 1

    a, b = parameters(2)
    teacher = TEACHERS["mixture"](2)
    for space in ("x0", "score"):
        points = quadrature(a, b, 0.8, NODES[2])
        got = loss_gradient(losses.build("sim", distance=d, space=space), a, b, teacher, 0.8, points)
        wanted = divergence_gradient(d, a, b, teacher, 0.8, NODES[2], space=space)
        assert relative(got, wanted) < TOLERANCE


@pytest.mark.parametrize("sigma", [0.5, 1.3, 5.0])
@pytest.mark.parametrize("teacher", TEACHERS)
@pytest.mark.parametrize("dimension", [1, 2])
@pytest.mark.parametrize(("name", "power"), [("diff_instruct", 2), ("dmd", 2), ("vsd", 1)])
def test_kullback_leibler_family(name, power, dimension, teacher, sigma):
    """sigma^power times the gradient of KL(p || q)."""
    a, b = parameters(dimension)
    q = TEACHERS[teacher](dimension)
    points = quadrature(a, b, sigma, NODES[dimension])
    got = loss_gradient(losses.build(name, weighting="none"), a, b, q, sigma, points)
    assert relative(got, sigma**power * kl_gradient(a, b, q, sigma, NODES[dimension])) < TOLERANCE


@pytest.mark.parametrize("sigma", [0.5, 1.3, 5.0])
@pytest.mark.parametrize("teacher", TEACHERS)
@pytest.mark.parametrize("dimension", [1, 2])
def test_sds_seeks_modes(dimension, teacher, sigma):
    """sigma times the gradient of -E log q_sigma(x_t): the KL without the generator's entropy."""
    a, b = parameters(dimension)
    q = TEACHERS[teacher](dimension)
    got = loss_gradient(
        losses.build("sds", weighting="none"), a, b, q, sigma, quadrature(a, b, sigma, NODES[dimension])
    )
    u, weight = x_t_nodes(dimension, NODES[dimension])
    total = a @ a.T + sigma**2 * torch.eye(dimension, dtype=F64)
    x_t = b + u @ torch.linalg.cholesky(total).T
    cross = -(weight * q.log_density(x_t, torch.full((len(u),), sigma, dtype=F64))).sum()
    wanted = sigma * torch.cat([g.flatten() for g in torch.autograd.grad(cross, (a, b))])
    assert relative(got, wanted) < TOLERANCE


@pytest.mark.parametrize(("alpha", "stop"), [(1.0, True), (0.5, False)])
@pytest.mark.parametrize("sigma", [0.5, 1.3, 5.0])
@pytest.mark.parametrize("teacher", TEACHERS)
def test_sid_is_half_the_squared_divergence(teacher, sigma, alpha, stop):
    a, b = parameters(1)
    q = TEACHERS[teacher](1)
    points = quadrature(a, b, sigma, NODES[1])
    got = loss_gradient(losses.build("sid", alpha=alpha, weighting="none"), a, b, q, sigma, points)
    wanted = 0.5 * divergence_gradient(PLAIN["squared_l2"], a, b, q, sigma, NODES[1], stop=stop)
    assert relative(got, wanted) < TOLERANCE


PROCESSES = {
    "ve": (VE(), "x0"),
    "edm": (EDM(), "edm"),
    "linear": (DiscreteVP.linear(), "eps"),
    "scaled_linear": (DiscreteVP.scaled_linear(), "eps"),
    "cosine": (DiscreteVP.cosine(), "score"),
    "zero_snr": (DiscreteVP.scaled_linear().zero_terminal_snr(), "v"),
    "flow": (RectifiedFlow(shift=3.0), "flow"),
}


@pytest.mark.parametrize("sigma", [0.5, 5.0])
@pytest.mark.parametrize("name", ["sim", "sid", "diff_instruct", "dmd", "vsd", "sds"])
@pytest.mark.parametrize("process", PROCESSES)
def test_the_native_process_does_not_matter(process, name, sigma):
    """Networks that only know their own coordinate and prediction form give the same, proven, gradients."""
    process, form = PROCESSES[process]
    a, b = parameters(1)
    q = TEACHERS["mixture"](1)
    loss = losses.build(name, weighting="none", **({"c": C} if name == "sim" else {}))
    points = quadrature(a, b, sigma, NODES[1])
    got = loss_gradient(loss, a, b, q, sigma, points, wrap=lambda d: through(process, form, d))
    if name == "sim":
        wanted = divergence_gradient(PLAIN["pseudo_huber"], a, b, q, sigma, NODES[1])
    elif name in ("diff_instruct", "dmd", "vsd"):
        wanted = sigma ** (1 if name == "vsd" else 2) * kl_gradient(a, b, q, sigma, NODES[1])
    else:
        wanted = loss_gradient(loss, a, b, q, sigma, points)
    assert relative(got, wanted) < TOLERANCE


@pytest.mark.parametrize("form", ["x0", "eps", "v", "flow", "score", "edm"])
@pytest.mark.parametrize("process", PROCESSES)
def test_any_form_under_any_process(process, form):
    a, b = parameters(1)
    q = TEACHERS["gaussian"](1)
    points = quadrature(a, b, 1.3, 400)
    got = loss_gradient(
        sim("pseudo_huber"), a, b, q, 1.3, points, wrap=lambda d: through(PROCESSES[process][0], form, d)
    )
    assert relative(got, divergence_gradient(PLAIN["pseudo_huber"], a, b, q, 1.3, 400)) < TOLERANCE


# ---------------------------------------------------------------------- published numbers, negative controls


def reference_setting():
    """Generator -0.2 + 1.4 z, teacher N(0.7, 0.9^2), sigma 1.3, constant 0.3 in score space."""
    a = torch.tensor([[1.4]], dtype=F64, requires_grad=True)
    b = torch.tensor([-0.2], dtype=F64, requires_grad=True)
    teacher = Gaussian(torch.tensor([0.7], dtype=F64), torch.tensor([[0.81]], dtype=F64))
    return a, b, teacher, 1.3, quadrature(a, b, 1.3, 600)


SQUARED = {"distance": "squared_l2", "space": "score"}
HUBER = {"distance": "pseudo_huber", "space": "score", "c": 0.3}


@pytest.mark.parametrize(
    ("loss", "factor", "wanted"),
    [
        (losses.build("sim", **SQUARED), 1.0, (-0.19726, 0.19336)),
        (losses.build("sim", **SQUARED, kappa=1.0), 1.0, (-0.28800, 0.23783)),
        (losses.build("sid", alpha=1.0, weighting="none"), 2 / 1.3**4, (-0.19726, 0.19336)),
        (losses.build("sid", alpha=0.5, weighting="none"), 2 / 1.3**4, (-0.28800, 0.23783)),
        (losses.build("sim", **HUBER), 1.0, (-0.17630, 0.11806)),
        (losses.build("diff_instruct"), 1 / 1.3**2, (-0.36000, 0.17644)),
    ],
)
def test_numbers_from_an_independent_calculation(loss, factor, wanted):
    a, b, *rest = reference_setting()
    scale, shift = (factor * loss_gradient(loss, a, b, *rest)).tolist()
    assert (shift, scale) == pytest.approx(wanted, abs=6e-6)


def _half_detached(y, c, k):
    return y / ((y**2).sum(1) + c**2).sqrt()[:, None].detach()


def _detached(y, c, k):
    return DISTANCES.get("pseudo_huber").gradient(y, c, k).detach()


@pytest.mark.parametrize(("gradient", "wanted"), [(_half_detached, 0.1655), (_detached, 0.0590)])
def test_detaching_biases_the_gradient(gradient, wanted):
    a, b, *rest = reference_setting()
    wrong = Distance(DISTANCES.get("pseudo_huber").value, gradient, constant=True)
    loss = losses.build("sim", distance=wrong, space="score", c=0.3)
    assert loss_gradient(loss, a, b, *rest)[0].item() == pytest.approx(wanted, abs=1e-4)


def tampered(which: str):
    """Losses with one mistake each, and the true gradient they have to miss."""
    huber = DISTANCES.get("pseudo_huber")
    wrong = {
        "first term": Distance(huber.value, lambda y, c, k: -huber.gradient(y, c, k), constant=True),
        "path term": Distance(lambda y, c, k: -huber.value(y, c, k), huber.gradient, constant=True),
        "denominator": Distance(huber.value, _half_detached, constant=True),
        "d'": Distance(huber.value, _detached, constant=True),
    }[which]
    return losses.build("sim", distance=wrong, c=C, kappa=1.0)


@pytest.mark.parametrize("which", ["first term", "path term", "denominator", "d'"])
@pytest.mark.parametrize("dimension", [1, 2])
def test_negative_controls_of_sim(dimension, which):
    a, b = parameters(dimension)
    q = TEACHERS["mixture"](dimension)
    points = quadrature(a, b, 1.3, NODES[dimension])
    wanted = divergence_gradient(PLAIN["pseudo_huber"], a, b, q, 1.3, NODES[dimension], stop=False)
    assert relative(loss_gradient(tampered(which), a, b, q, 1.3, points), wanted) > 100 * TOLERANCE


def test_a_per_element_distance_cannot_pass_for_a_per_sample_one():
    a, b = parameters(2)
    q = TEACHERS["gaussian"](2)
    points = quadrature(a, b, 0.8, NODES[2])
    got = loss_gradient(sim("charbonnier"), a, b, q, 0.8, points)
    assert relative(got, divergence_gradient(PLAIN["pseudo_huber"], a, b, q, 0.8, NODES[2])) > 0.05


@pytest.mark.parametrize("flip", [lambda t, o, x: (o, t, x), lambda t, o, x: (t, o, 2 * o - x)])
@pytest.mark.parametrize("name", ["sim", "sid", "diff_instruct", "dmd", "vsd"])
def test_negative_controls_of_the_differences(name, flip):
    """D_q - D_psi turned round, and D_psi - x0 turned round."""
    a, b = parameters(1)
    q = TEACHERS["gaussian"](1)
    z, eps, weights = quadrature(a, b, 1.3, 400)
    loss = losses.build(name, weighting="none", **({"alpha": 1.0} if name == "sid" else {}))

    def flipped(*, teacher_x0, online_x0, x0, **rest):
        t, o, x = flip(teacher_x0, online_x0, x0)
        return loss(teacher_x0=t, online_x0=o, x0=x, **rest)

    good, bad = (loss_gradient(f, a, b, q, 1.3, (z, eps, weights)) for f in (loss, flipped))
    assert relative(bad, good) > 0.1


def test_the_loss_is_finite_at_every_point():
    a, b = parameters(2)
    z, eps, _ = quadrature(a, b, 0.002, 20)
    values = loss_values(losses.build("sim", space="score"), a, b, TEACHERS["gaussian"](2), 0.002, z, eps)
    assert values.isfinite().all()
