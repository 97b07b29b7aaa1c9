"""Particles under known modes: VSD, SIM and SiD spread over them, SDS falls together, a wrong sign runs off."""

import dataclasses

import pytest
import torch
from torch import nn

from scorefield import losses
from scorefield.generators.particles import Particles
from scorefield.losses import Loss
from scorefield.random import Draws
from scorefield.teachers.analytic import GaussianMixture
from scorefield.teachers.plain import Preconditioned
from scorefield.training.settings import PlayerConfig, TrainingConfig
from scorefield.training.trainer import Trainer

torch.set_num_threads(1)

COUNT, STD = 32, 0.25
WEIGHTS = torch.tensor([0.4, 0.2, 0.2, 0.2])
MODES = torch.tensor([[0.3, 0.2], [2.2, 0.0], [-1.3, 1.7], [-1.1, -1.8]])


def mixture() -> GaussianMixture:
    return GaussianMixture(WEIGHTS, MODES, (STD**2 * torch.eye(2)).expand(4, 2, 2))


def run(loss, iterations: int = 250, seed: int = 0) -> torch.Tensor:
    """Particles [K, 2] after training from noise."""
    torch.manual_seed(seed)
    network = nn.Sequential(nn.Linear(3, 96), nn.SiLU(), nn.Linear(96, 96), nn.SiLU(), nn.Linear(96, 2))
    law = {"name": "log_normal", "mean": -0.3, "std": 1.0}
    config = TrainingConfig(
        iterations=iterations,
        batch=2 * COUNT,
        device="cpu",
        online_updates=2,
        generator=PlayerConfig(learning_rate=0.03, betas=(0.0, 0.99), decay="cosine"),
        online=PlayerConfig(learning_rate=4e-3, betas=(0.0, 0.99), decay="cosine"),
        generator_noise=law,
        online_noise=law,
        sigma_data=1.4,
        ema_half_life_images=0,
        seed=seed,
    )
    generator = Particles.scattered(COUNT, (2,), 1.0, seed)
    trainer = Trainer(config, mixture(), Preconditioned(network, sigma_data=1.4), generator, loss)
    for k in range(iterations):
        trainer.iteration(k)
    return generator.points.detach()


def shares(points: torch.Tensor) -> torch.Tensor:
    """Share of the particles within four standard deviations of each mode."""
    distance, mode = torch.cdist(points, MODES).min(1)
    return torch.bincount(mode[distance < 4 * STD], minlength=4) / len(points)


def spread(points: torch.Tensor) -> float:
    return points.std(0).mean().item()


KEEPING = {
    "vsd": losses.build("vsd"),
    "sim": losses.build("sim", sigma_data=1.4),
    "sid": losses.build("sid", sigma_data=1.4),
}


@pytest.mark.parametrize("name", KEEPING)
def test_it_spreads_over_all_modes(name):
    points = run(KEEPING[name])
    assert shares(points).min() >= 0.09  # a fair share is 0.2
    assert shares(points).sum() > 0.8
    assert spread(points) > 0.7 * spread(mixture().sample(4000, torch.Generator().manual_seed(0)))


def test_sds_falls_together():
    points = run(losses.build("sds"))
    assert shares(points).max() == 1
    assert spread(points) < 0.1


@dataclasses.dataclass(frozen=True)
class Flipped(Loss):
    """A loss turned round, or one whose two networks are exchanged."""

    inner: Loss = dataclasses.field(default_factory=lambda: losses.build("vsd"))
    exchange: bool = False

    @property
    def needs_jacobian(self) -> bool:
        return self.inner.needs_jacobian

    def per_sample(self, *, teacher_x0, online_x0, **rest):
        if self.exchange:
            return self.inner(teacher_x0=online_x0, online_x0=teacher_x0, **rest)
        return -self.inner(teacher_x0=teacher_x0, online_x0=online_x0, **rest)


@pytest.mark.parametrize(("name", "exchange"), [("vsd", False), ("sim", False), ("sim", True)])
def test_with_a_wrong_sign_it_does_not(name, exchange):
    points = run(Flipped(inner=KEEPING[name], exchange=exchange), iterations=120)
    assert shares(points).min() < 0.05


def test_particles_are_drawn_in_turn_and_alike_in_every_process():
    generator = Particles.scattered(5, (2,), 1.0, seed=3)
    whole = generator.draw(Draws(0, 7, torch.arange(10))).latents["particle"]
    assert torch.bincount(whole, minlength=5).tolist() == [2] * 5
    parts = [generator.draw(Draws(0, 7, torch.arange(a, a + 5))).latents["particle"] for a in (0, 5)]
    assert torch.equal(whole, torch.cat(parts))
    few = {int(generator.draw(Draws(0, k, torch.arange(1))).latents["particle"]) for k in range(60)}
    assert few == set(range(5))
    more = Particles.scattered(9, (2,), 1.0, seed=3)
    assert torch.equal(more.points[:5], generator.points)  # a particle depends on its number alone


def test_the_gradient_of_a_particle_is_the_sum_of_its_samples():
    generator = Particles(torch.zeros(3, 2))
    batch = generator.draw(Draws(0, 0, torch.arange(6)))
    weights = torch.arange(6.0)
    (weights[:, None] * generator(batch)).sum().backward()
    wanted = torch.zeros(3).index_add(0, batch.latents["particle"], weights)
    torch.testing.assert_close(generator.points.grad, wanted[:, None].expand(3, 2))
