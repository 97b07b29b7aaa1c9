"""Eight anisotropic dimensions: closed forms where there are any, else paired Monte Carlo."""

import pytest
import torch
from closed_form import (
    F64,
    TEACHERS,
    cubature,
    divergence,
    gaussian_teacher,
    gradient,
    loss_gradient,
    loss_values,
    parameters,
    random_covariance,
    relative,
    through,
)

from scorefield import losses
from scorefield.losses import DISTANCES, Distance
from scorefield.noise import EDM, VE, DiscreteVP, RectifiedFlow

D = 8
C = 0.5
TOLERANCE = 1e-4
TEACHER = gaussian_teacher(D)
MEAN = torch.linspace(0.7, -0.5, D, dtype=F64)
COVARIANCE = random_covariance(D, 11, 0.15, 2.5)
EYE = torch.eye(D, dtype=F64)


def squared_divergence(a, b, sigma: float, stop: bool):
    """E |D_psi - D_q|^2 of two Gaussians: y is affine in x_t, so it is a trace."""
    own = a @ a.T
    total = own + sigma**2 * EYE
    p = torch.linalg.solve(total, own).T
    q = torch.linalg.solve(COVARIANCE + sigma**2 * EYE, COVARIANCE).T
    # y = p (x_t - b) + b - q (x_t - mean) - mean = (p - q) x_t + (1 - p) b - (1 - q) mean
    slope, offset = p - q, (EYE - p) @ b - (EYE - q) @ MEAN
    spread, centre = (total.detach(), b.detach()) if stop else (total, b)
    return torch.trace(slope @ spread @ slope.T) + (slope @ centre + offset).square().sum()


def kullback_leibler(a, b, sigma: float):
    total, other = a @ a.T + sigma**2 * EYE, COVARIANCE + sigma**2 * EYE
    offset = b - MEAN
    ratio = torch.trace(torch.linalg.solve(other, total)) + offset @ torch.linalg.solve(other, offset)
    return 0.5 * (ratio - D + torch.logdet(other) - torch.logdet(total))


def cross_entropy(a, b, sigma: float):
    return kullback_leibler(a, b, sigma) + 0.5 * torch.logdet(a @ a.T + sigma**2 * EYE)


CLAIMS = {
    "sim, law stopped": (
        ("sim", {"distance": "squared_l2"}),
        lambda a, b, s: squared_divergence(a, b, s, True),
    ),
    "sim, full": (
        ("sim", {"distance": "squared_l2", "kappa": 1.0}),
        lambda a, b, s: squared_divergence(a, b, s, False),
    ),
    "sim on scores": (
        ("sim", {"distance": "squared_l2", "space": "score"}),
        lambda a, b, s: squared_divergence(a, b, s, True) / s**4,
    ),
    "power 2": (("sim", {"distance": "power", "k": 2.0}), lambda a, b, s: squared_divergence(a, b, s, True)),
    "sid 1": (("sid", {"alpha": 1.0}), lambda a, b, s: squared_divergence(a, b, s, True) / 2),
    "sid 0.5": (("sid", {"alpha": 0.5}), lambda a, b, s: squared_divergence(a, b, s, False) / 2),
    "diff_instruct": (("diff_instruct", {}), lambda a, b, s: s**2 * kullback_leibler(a, b, s)),
    "dmd": (("dmd", {}), lambda a, b, s: s**2 * kullback_leibler(a, b, s)),
    "vsd": (("vsd", {}), lambda a, b, s: s * kullback_leibler(a, b, s)),
    "sds": (("sds", {}), lambda a, b, s: s * cross_entropy(a, b, s)),
}
PROCESSES = {
    "none": lambda d: d,
    "edm": lambda d: through(EDM(), "edm", d),
    "ve": lambda d: through(VE(), "x0", d),
    "linear": lambda d: through(DiscreteVP.linear(), "eps", d),
    "scaled_linear": lambda d: through(DiscreteVP.scaled_linear(), "eps", d),
    "cosine": lambda d: through(DiscreteVP.cosine(), "score", d),
    "zero_snr": lambda d: through(DiscreteVP.scaled_linear().zero_terminal_snr(), "v", d),
    "flow": lambda d: through(RectifiedFlow(shift=3.0), "flow", d),
}


@pytest.mark.parametrize("sigma", [0.3, 1.3, 6.0])
@pytest.mark.parametrize("process", PROCESSES)
@pytest.mark.parametrize("claim", CLAIMS)
def test_closed_forms(claim, process, sigma):
    """These losses are quadratic in (z, eps), so the cubature integrates them exactly."""
    (name, options), divergence_of = CLAIMS[claim]
    a, b = parameters(D)
    loss = losses.build(name, weighting="none", **options)
    got = loss_gradient(loss, a, b, TEACHER, sigma, cubature(D), wrap=PROCESSES[process])
    assert relative(got, gradient(divergence_of(a, b, sigma), a, b)) < TOLERANCE


@pytest.mark.parametrize("process", [name for name in PROCESSES if name != "none"])
@pytest.mark.parametrize("distance", DISTANCES)
def test_every_distance_is_blind_to_the_native_process(distance, process):
    """What Monte Carlo shows below for bare denoisers holds, draw by draw, behind every adapter."""
    a, b = parameters(D)
    rng = torch.Generator().manual_seed(9)
    z, eps = (torch.randn(50, D, generator=rng, dtype=F64) for _ in range(2))
    loss = losses.build("sim", distance=distance, kappa=1.0)
    bare, native = (
        gradient(loss_values(loss, a, b, TEACHERS["mixture"](D), 0.8, z, eps, wrap).mean(), a, b)
        for wrap in (PROCESSES["none"], PROCESSES[process])
    )
    assert relative(native, bare) < 1e-9


@pytest.mark.parametrize("weighting", ["edm", "snr", "min_snr", "snr_plus_one", "one_minus_t"])
def test_weights_of_sigma_only_scale_the_gradient(weighting):
    a, b = parameters(D)
    plain = losses.build("sim", distance="squared_l2")
    loss = losses.build("sim", distance="squared_l2", weighting=weighting, sigma_data=0.7)
    factor = {
        "edm": (0.8**2 + 0.7**2) / (0.8 * 0.7) ** 2,
        "snr": 1 / 0.64,
        "min_snr": 1 / 0.64,
        "snr_plus_one": 1.64 / 0.64,
        "one_minus_t": 1 / 1.8,
    }[weighting]
    got, base = (loss_gradient(f, a, b, TEACHER, 0.8, cubature(D)) for f in (loss, plain))
    assert relative(got, factor * base) < 1e-12


# ---------------------------------------------------------------------- Monte Carlo

PLAIN = {
    "pseudo_huber": lambda y: ((y**2).sum(1) + C**2) ** 0.5 - C,
    "l2": lambda y: (y**2).sum(1) ** 0.5,
    "power": lambda y: (y**2).sum(1) ** 1.5,
    "charbonnier": lambda y: ((y**2 + C**2) ** 0.5 - C).sum(1),
    "log_cosh": lambda y: C * (y / C).cosh().log().sum(1),
    "huber": lambda y: torch.where(y.abs() < C, y**2 / 2, C * y.abs() - C**2 / 2).sum(1),
}
OPTIONS = {"power": {"k": 3.0}, "l2": {}}
BATCHES, BATCH = 40, 3000
LEVELS = [0.8, 2.5]  # of the noise


def gap(loss, plain, teacher, sigma: float, stop: bool, space: str = "x0"):
    """Loss gradient minus divergence gradient on the same draws: mean, standard error, size of the latter."""
    a, b = parameters(D)
    rng = torch.Generator().manual_seed(7)
    gaps, size = [], 0
    for _ in range(BATCHES):
        z, eps = (torch.randn(BATCH, D, generator=rng, dtype=F64) for _ in range(2))
        wanted = gradient(divergence(plain, a, b, teacher, sigma, z, eps, stop=stop, space=space).mean(), a, b)
        got = gradient(loss_values(loss, a, b, teacher, sigma, z, eps).mean(), a, b)
        gaps.append(got - wanted)
        size = size + wanted / BATCHES
    gaps = torch.stack(gaps)
    return gaps.mean(0), gaps.std(0) / BATCHES**0.5, size


def assert_within_errors(mean, error, size, share: float = 0.05):
    assert error.norm() < share * size.norm()  # else 5 standard errors would let anything pass
    assert bool((mean.abs() < 5 * error).all())


@pytest.mark.parametrize("sigma", LEVELS)
@pytest.mark.parametrize(("teacher", "kappa", "space"), [("gaussian", 0.0, "x0"), ("mixture", 1.0, "score")])
@pytest.mark.parametrize("distance", PLAIN)
def test_monte_carlo(distance, teacher, kappa, space, sigma):
    loss = losses.build("sim", distance=distance, kappa=kappa, space=space, **OPTIONS.get(distance, {"c": C}))
    assert_within_errors(*gap(loss, PLAIN[distance], TEACHERS[teacher](D), sigma, kappa == 0, space))


def half_square(y):
    return (y**2).sum(1) / 2


# what the closed forms above hold against a Gaussian, against a mixture: the loss, d, whether the law is stopped
SQUARES = {
    "sim, law stopped": (("sim", {"distance": "squared_l2"}), lambda y: 2 * half_square(y), True),
    "sim, full path": (("sim", {"distance": "squared_l2", "kappa": 1.0}), lambda y: 2 * half_square(y), False),
    "power 2": (("sim", {"distance": "power", "k": 2.0}), lambda y: 2 * half_square(y), True),
    "sid 1": (("sid", {"alpha": 1.0, "weighting": "none"}), half_square, True),
    "sid 0.5": (("sid", {"alpha": 0.5, "weighting": "none"}), half_square, False),
}


@pytest.mark.parametrize("sigma", [0.3, *LEVELS])
@pytest.mark.parametrize("claim", SQUARES)
def test_monte_carlo_of_squares_with_a_mixture(claim, sigma):
    (name, options), plain, stop = SQUARES[claim]
    assert_within_errors(*gap(losses.build(name, **options), plain, TEACHERS["mixture"](D), sigma, stop))


# sigma^k times the divergence from the mixture: KL(p || q), or for SDS the cross entropy alone
DENSITIES = {"diff_instruct": 2, "dmd": 2, "vsd": 1, "sds": 1}


@pytest.mark.parametrize("sigma", [0.3, *LEVELS])
@pytest.mark.parametrize("name", DENSITIES)
def test_monte_carlo_of_densities_with_a_mixture(name, sigma):
    """E log q on the same draws, and the entropy of p in closed form."""
    a, b = parameters(D)
    teacher = TEACHERS["mixture"](D)
    rng = torch.Generator().manual_seed(8)
    loss = losses.build(name, weighting="none")
    gaps, size = [], 0
    for _ in range(BATCHES):
        z, eps = (torch.randn(BATCH, D, generator=rng, dtype=F64) for _ in range(2))
        got = gradient(loss_values(loss, a, b, teacher, sigma, z, eps).mean(), a, b)
        log_q = teacher.log_density(z @ a.T + b + sigma * eps, torch.full((BATCH,), sigma, dtype=F64))
        entropy = 0.5 * torch.logdet(a @ a.T + sigma**2 * EYE)
        wanted = -log_q.mean() - (0 if name == "sds" else entropy)
        wanted = sigma ** DENSITIES[name] * gradient(wanted, a, b)
        gaps.append(got - wanted)
        size = size + wanted / BATCHES
    gaps = torch.stack(gaps)
    assert_within_errors(gaps.mean(0), gaps.std(0) / BATCHES**0.5, size)


@pytest.mark.parametrize("which", ["per element", "denominator detached", "d' detached", "sign"])
def test_monte_carlo_sees_mistakes(which):
    huber = DISTANCES.get("pseudo_huber")

    def half_detached(y, c, k):
        return y / ((y**2).sum(1) + c**2).sqrt()[:, None].detach()

    gradients = {
        "per element": DISTANCES.get("charbonnier").gradient,
        "denominator detached": half_detached,
        "d' detached": lambda y, c, k: huber.gradient(y, c, k).detach(),
        "sign": lambda y, c, k: -huber.gradient(y, c, k),
    }
    wrong = losses.build("sim", distance=Distance(huber.value, gradients[which], constant=True), c=C)
    mean, error, _ = gap(wrong, PLAIN["pseudo_huber"], TEACHER, 0.8, True)
    assert bool((mean.abs() > 8 * error).any())
