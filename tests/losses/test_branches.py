"""CSD, NFSD, ISM and SDI: the expected gradient is that of the log densities, or the stated direction, found without
the losses."""

import pytest
import torch
from closed_form import F64, cubature, gradient, parameters, quadrature, random_covariance, relative, x_t_nodes

from scorefield import losses
from scorefield.errors import UserError
from scorefield.teachers.analytic import Gaussian, GaussianMixture

NODES = {1: 600, 2: 150}
TOLERANCE = 1e-4


def densities(dimension: int):
    """What the teacher believes of pictures with the prompt, of all pictures, and of bad ones."""
    rng = torch.Generator().manual_seed(8)
    means = 1.1 * torch.randn(3, dimension, generator=rng, dtype=F64)
    covariances = torch.stack([random_covariance(dimension, seed, 0.2, 0.9) for seed in (31, 32, 33)])
    cond = Gaussian(means[0], covariances[0])
    uncond = GaussianMixture(torch.tensor([0.4, 0.6], dtype=F64), means[:2], covariances[:2])
    return cond, uncond, Gaussian(means[2], covariances[2])


def got(loss, a, b, sigma: float, points, progress: float = 0.0, swap=lambda tensors: tensors):
    """Gradient of the expected loss at one noise level."""
    z, eps, weights = points
    level = torch.full((len(z),), sigma, dtype=F64)
    x0 = z @ a.T + b
    x_t = x0 + sigma * eps
    cond, uncond, negative = (density(x_t, level) for density in densities(len(b)))
    tensors = {"teacher_cond": cond, "teacher_uncond": uncond, "teacher_negative": negative}
    tensors = swap(tensors) | {"progress": torch.full_like(level, progress)}
    given = {name: tensors[name] for name in loss.needs}
    value = loss(x0=x0, x_t=x_t, sigma=level, teacher_x0=uncond + 3 * (cond - uncond), **given)
    return gradient((weights * value).sum(), a, b)


def log_gradients(a, b, sigma: float, count: int):
    """Gradients of E log q(x_t) for the three densities, by quadrature over x_t."""
    u, weight = x_t_nodes(len(b), count)
    total = a @ a.T + sigma**2 * torch.eye(len(b), dtype=F64)
    root, level = torch.linalg.cholesky(total), torch.full((len(u),), sigma, dtype=F64)
    found = []
    for q in densities(len(b)):
        (through_root, through_b) = torch.autograd.grad(
            (weight * q.log_density(b + u @ root.T, level)).sum(), (root, b), retain_graph=True
        )
        (through_a,) = torch.autograd.grad(root, a, through_root, retain_graph=True)
        found.append(torch.cat([through_a.flatten(), through_b]))
    return found


@pytest.mark.parametrize("sigma", [0.3, 1.3, 5.0])
@pytest.mark.parametrize("dimension", [1, 2])
def test_csd_climbs_the_teachers_own_classifier(dimension, sigma):
    a, b = parameters(dimension)
    points = quadrature(a, b, sigma, NODES[dimension])
    cond, uncond, negative = log_gradients(a, b, sigma, NODES[dimension])
    plain = got(losses.build("csd", weighting="none"), a, b, sigma, points)
    assert relative(plain, -sigma * (cond - uncond)) < TOLERANCE
    away = losses.build("csd", weighting="none", negative=0.8, negative_end=0.2)
    for progress, share in ((0.0, 0.8), (0.5, 0.5), (1.0, 0.2)):
        wanted = -sigma * ((cond - uncond) + share * (uncond - negative))
        assert relative(got(away, a, b, sigma, points, progress), wanted) < TOLERANCE
        assert relative(plain, wanted) > 0.05


@pytest.mark.parametrize("sigma", [0.3, 1.3, 5.0])
@pytest.mark.parametrize("dimension", [1, 2])
def test_nfsd_adds_the_direction_to_pictures_at_large(dimension, sigma):
    a, b = parameters(dimension)
    points = quadrature(a, b, sigma, NODES[dimension])
    cond, uncond, negative = log_gradients(a, b, sigma, NODES[dimension])
    loss = losses.build("nfsd", weighting="none", scale=3.0, switch_sigma=0.5)
    domain = uncond if sigma < 0.5 else uncond - negative
    wanted = -sigma * (3.0 * (cond - uncond) + domain)
    assert relative(got(loss, a, b, sigma, points), wanted) < TOLERANCE
    other = losses.build("nfsd", weighting="none", scale=3.0, switch_sigma=0.0 if sigma < 0.5 else 9.0)
    assert relative(got(other, a, b, sigma, points), wanted) > 0.01


def exchange(one: str, two: str):
    return lambda tensors: tensors | {one: tensors[two], two: tensors[one]}


@pytest.mark.parametrize("pair", [("teacher_cond", "teacher_uncond"), ("teacher_uncond", "teacher_negative")])
@pytest.mark.parametrize(("name", "options"), [("csd", {"negative": 0.8}), ("nfsd", {})])
def test_negative_controls_of_the_branches(name, options, pair):
    a, b = parameters(1)
    points = quadrature(a, b, 1.3, 400)
    loss = losses.build(name, weighting="none", **options)
    assert relative(got(loss, a, b, 1.3, points, swap=exchange(*pair)), got(loss, a, b, 1.3, points)) > 0.1


def test_ism_and_sdi_give_the_direction_that_they_state():
    """At the generator's output: w (eps_q(x_t) - eps(x_s)), and w (eps_q(x_t) - (x_t - x0) / sigma)."""
    a, b = parameters(2)
    z, eps, _ = cubature(2)
    x0 = (z @ a.T + b).detach().requires_grad_()
    sigma = torch.linspace(0.2, 6, len(z), dtype=F64)
    x_t = x0 + (sigma[:, None] * eps).detach()
    teacher_x0, before = 0.4 * x_t.detach().sin(), 0.3 * eps.cos()
    given = {"x0": x0, "x_t": x_t, "sigma": sigma, "teacher_x0": teacher_x0}
    predicted = (x_t - teacher_x0).detach() / sigma[:, None]
    for loss, extra, noise, weight in (
        (losses.build("ism"), {"inversion_eps": before}, before, sigma),
        (losses.build("sdi"), {}, eps, sigma**2 / (1 + sigma**2)),
    ):
        (found,) = torch.autograd.grad(loss(**given, **extra).sum(), x0)
        torch.testing.assert_close(found, weight[:, None] * (predicted - noise))


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("csd", {"negative": -1.0}, "at least 0"),
        ("csd", {"negativ": 1.0}, 'did you mean "negative"'),
        ("nfsd", {"scale": "much"}, "finite number"),
        ("nfsd", {"switch_sigma": -0.1}, "at least 0"),
        ("ism", {"interval": 1.0}, "between 0 and 1"),
        ("ism", {"steps": 0}, "at least 1"),
        ("sdi", {"eta": -0.1}, "at least 0"),
        ("sdi", {"steps": 0}, "at least 1"),
    ],
)
def test_refusals(name, options, message):
    with pytest.raises(UserError, match=message):
        losses.build(name, **options)


def test_what_is_needed_follows_the_options():
    assert losses.build("csd").needs == ("teacher_cond", "teacher_uncond")
    assert losses.build("csd", negative_end=0.5).needs[2:] == ("teacher_negative", "progress")
    x = torch.zeros(2, 3)
    given = dict.fromkeys(("x0", "x_t", "teacher_x0", "teacher_cond", "teacher_uncond", "teacher_negative"), x)
    with pytest.raises(UserError, match="progress has shape"):
        losses.build("csd", negative=1.0)(**given, sigma=torch.ones(2), progress=x)
