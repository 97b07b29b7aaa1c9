"""Regression on the teacher's pairs: the pairs against a closed form, and the map that training ends at."""

import pytest
import torch
from closed_form import F64, cubature, gradient, parameters, random_covariance, relative

from scorefield import losses
from scorefield.errors import UserError
from scorefield.generators.base import Batch, Generator
from scorefield.generators.paired import Paired
from scorefield.teachers.analytic import Gaussian
from scorefield.teachers.base import Teacher
from scorefield.teachers.pairs import draw
from scorefield.teachers.sampling import heun
from scorefield.training.settings import PlayerConfig, TrainingConfig
from scorefield.training.trainer import Trainer

MEAN, HIGHEST = torch.tensor([0.7, -0.5], dtype=F64), 20.0
COVARIANCE = random_covariance(2, 11, 0.15, 2.5)


def root(matrix):
    values, vectors = torch.linalg.eigh(matrix)
    return vectors @ torch.diag(values.sqrt()) @ vectors.T


def ode_map():
    """A*, b* of y = b* + A* z: the flow of dx / dsigma = (x - D) / sigma from HIGHEST z down to 0.

    x - mean keeps its coordinates in the eigenvectors of C up to the factor sqrt(c + sigma^2), for every sigma.
    """
    shrink = root(COVARIANCE) @ torch.linalg.inv(root(COVARIANCE + HIGHEST**2 * torch.eye(2, dtype=F64)))
    return HIGHEST * shrink, MEAN - shrink @ MEAN


class Sampler(Teacher):
    """A Gaussian teacher with the exact sampler's limit: Heun in many steps."""

    latent_shape = (2,)  # type: ignore[assignment]
    path = "gaussian"

    def __init__(self):
        self.max_tokens = 0

    def sample(self, denoiser, condition, z, *, steps, guidance_scale, batch=128):
        return heun(denoiser, condition, z, steps=steps)


TEACHER = Gaussian(MEAN, COVARIANCE, sigma_max=HIGHEST)


def test_pairs_are_the_closed_form_flow():
    wanted = {"count": 500, "steps": 200, "guidance_scale": 1.0, "seed": 3}
    pairs = draw(Sampler(), TEACHER, lambda rows: {}, 7, wanted, "cpu")
    a, b = (value.float() for value in ode_map())
    assert (pairs.x0 - (pairs.z @ a.T + b)).abs().max() < 2e-3
    assert pairs.rows.tolist()[:8] == [0, 1, 2, 3, 4, 5, 6, 0]
    few = draw(Sampler(), TEACHER, lambda rows: {}, 7, wanted | {"steps": 4}, "cpu")
    assert (few.x0 - (few.z @ a.T + b)).abs().max() > 0.01  # the measure can tell
    again = draw(Sampler(), TEACHER, lambda rows: {}, 7, wanted | {"steps": 4}, "cpu")
    assert again.x0.equal(few.x0)


def test_the_gradient_leads_to_that_map():
    """Of E |A z + b - y|^2 = |A - A*|^2 + |b - b*|^2 with z ~ N(0, I)."""
    a, b = parameters(2)
    wanted_a, wanted_b = ode_map()
    z, _, weights = cubature(2)
    x0, y = z @ a.T + b, z @ wanted_a.T + wanted_b
    sigma = torch.ones(len(z), dtype=F64)
    given = {"x0": x0, "x_t": x0, "sigma": sigma, "teacher_x0": torch.zeros_like(x0), "paired_x0": y}
    loss = losses.build("regression", distance="squared_l2")
    got = gradient((weights * loss(**given)).sum(), a, b)
    wanted = torch.cat([2 * (a - wanted_a).flatten(), 2 * (b - wanted_b)]).detach()
    assert relative(got, wanted) < 1e-9
    huber = losses.build("regression", c=0.3)(**given)
    torch.testing.assert_close(huber, ((x0 - y).square().sum(1) + 0.09).sqrt() - 0.3)
    mine = losses.build("regression", distance=lambda x, y: (x - y).abs().sum(1))(**given)
    torch.testing.assert_close(mine, (x0 - y).abs().sum(1))


class Affine(Generator):
    def __init__(self, a, b):
        super().__init__()
        self.a, self.b = torch.nn.Parameter(a.float()), torch.nn.Parameter(b.float())

    def draw(self, draws):
        return Batch({"z": draws.normal("z", 2)})

    def forward(self, batch):
        return batch.latents["z"] @ self.a.T + self.b


@pytest.mark.parametrize("distance", ["pseudo_huber", "squared_l2"])
def test_training_ends_at_the_teachers_map(distance):
    """From -A*, whose samples are the teacher's already: a distribution has nothing to tell, the pairs do."""
    a, b = ode_map()
    wanted = {"count": 400, "steps": 40, "guidance_scale": 1.0, "seed": 0}
    pairs = draw(Sampler(), TEACHER, lambda rows: {}, 1, wanted, "cpu")
    generator = Paired(Affine(-a, b), pairs.z, pairs.x0, lambda rows: {})
    player = PlayerConfig(learning_rate=0.05, betas=(0.0, 0.99), decay="cosine")
    config = TrainingConfig(iterations=250, batch=64, device="cpu", generator=player, online=player)
    unused = torch.nn.Linear(1, 1)
    unused.sigma_min, unused.sigma_max = 0.002, 80.0

    def never(*_):
        raise AssertionError("the loss asks no network")

    teacher = Gaussian(MEAN, COVARIANCE, sigma_max=HIGHEST).float()
    teacher.forward = unused.forward = never
    trainer = Trainer(config, teacher, unused, generator, losses.build("regression", distance=distance))
    gaps = [(generator.inner.a - a).norm().item()]
    for k in range(250):
        trainer.iteration(k)
    gaps.append((generator.inner.a - a).norm().item())
    assert gaps[0] > 1
    assert gaps[1] < 0.02
    assert (generator.inner.b - b).norm() < 0.02
    figures = trainer.figures(250)
    assert "x0_gap/rms" not in figures
    assert figures["nan_samples"] == 0
    assert [name for name, _ in generator.averaged()] == ["a", "b"]


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"distance": "pseudohuber"}, 'did you mean "pseudo_huber"'),
        ({"distance": "lpips"}, "needs trunk"),
        ({"distance": "lpips", "trunk": "x", "net": "squeeze"}, "net"),
        ({"distance": "l2", "c": 0.1}, "takes no constant"),
        ({"c": -1.0}, "must be positive"),
        ({"weighting": "sid"}, "weighting must be none"),
        ({"distance": 3}, "a name or a callable"),
    ],
)
def test_what_it_refuses(options, said):
    with pytest.raises(UserError, match=said):
        losses.build("regression", **options)
