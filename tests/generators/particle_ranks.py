"""What test_particle_ranks.py runs under torchrun: two particles, one a process, under one online score."""

import os
import sys
from pathlib import Path

import torch
from torch import nn

from scorefield import losses
from scorefield.denoiser import Denoiser
from scorefield.generators.base import Batch
from scorefield.generators.nerf import NerfGenerator, NerfSettings
from scorefield.processes import leave
from scorefield.three_d.settings import BackgroundConfig, CameraConfig, FieldConfig, RegularizerConfig, RenderConfig
from scorefield.training.settings import PlayerConfig, TrainingConfig
from scorefield.training.trainer import Trainer

ITERATIONS, BATCH = 3, 4


class Score(Denoiser):
    """A small network on pictures."""

    sigma_min, sigma_max = 0.01, 50.0

    def __init__(self, seed: int):
        super().__init__()
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            self.body = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.SiLU(), nn.Conv2d(8, 3, 3, padding=1))

    def forward(self, x_t, sigma, condition):
        shrunk = x_t / (1 + sigma.square()).sqrt().view(-1, 1, 1, 1)
        return shrunk + self.body(shrunk)


class Halves(NerfGenerator):
    """Two processes in one: the second half of the batch sees the particle that the second process would draw."""

    def forward(self, batch: Batch):
        half, own, made, terms = BATCH // 2, batch.latents["particle"], [], {}
        for number in range(2):
            rows = slice(number * half, (number + 1) * half)
            latents = {name: value[rows] for name, value in batch.latents.items()}
            latents["particle"] = (own[rows] + number) % self.settings.particles
            made.append(super().forward(Batch(latents)))
            for name, term in super().regularize(made[-1], Batch(latents), 0).items():
                terms[name] = terms.get(name, 0) + term / 2
        self.terms = terms
        return torch.cat(made)

    def regularize(self, x0, batch, iteration):
        return self.terms


def told(view, ground, pose):
    return {}, {}, {}


def trainer(kind=NerfGenerator, particles: int = 3) -> Trainer:
    torch.manual_seed(0)
    settings = NerfSettings(
        particles,
        CameraConfig([8, 30], "uniform", 30.0, [3.5, 3.8], [33, 34]),
        FieldConfig(resolutions=[8], hidden=-1, blob_scale=4.0, density_scale=5.0),
        RenderConfig(size={0: 12}, samples=24, occupancy=8, occupancy_every=2),
        BackgroundConfig(learned={0: 0.0}, named={"grey": [0.5, 0.5, 0.5]}),
        RegularizerConfig(entropy={0: 1.0}),
    )
    generator = kind(settings, told, lambda x: x, lambda z: z, pixels=12)
    player = PlayerConfig(learning_rate=0.05, betas=(0.9, 0.99))
    training = TrainingConfig(iterations=ITERATIONS, batch=BATCH, device="cpu", generator=player, online=player)
    return Trainer(training, Score(1), Score(2), generator, losses.build("vsd"))


def finish(made: Trainer) -> dict[str, torch.Tensor]:
    """Weights of the three particles and of the online score after some iterations."""
    for k in range(ITERATIONS):
        made.iteration(k)
    parts = {"generator": made.generator, "online": made.online}
    return {f"{part}.{n}": p.detach().clone() for part, m in parts.items() for n, p in m.named_parameters()}


if __name__ == "__main__":
    torch.set_num_threads(1)
    ended = finish(trainer())
    torch.save(ended, Path(sys.argv[1]) / f"rank-{os.environ['RANK']}.pt")
    leave()
