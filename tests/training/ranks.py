"""What tests/training/test_ranks.py runs under torchrun: tiny trainers, whose ends every process writes down.

The scenarios also run in the test's own process, which is what the ranks are compared with.
"""

import os
import sys
from pathlib import Path

import torch

from scorefield import losses
from scorefield.denoiser import Denoiser
from scorefield.generators.one_step import OneStepGenerator
from scorefield.teachers.online import full_copy
from scorefield.training.settings import PlayerConfig, TrainingConfig
from scorefield.training.trainer import Trainer

ITERATIONS = 5
SCENARIOS = {
    "plain": {},
    "accumulation": {"accumulation": 4},
    "fresh": {"fresh_samples": True, "accumulation": 2, "online_updates": 2},
    "guided": {"guidance_scale": 3.0, "online_updates": 2},
    "sds": {"loss": "sds"},
    "masked": {"poison": True},
}


class Network(Denoiser):
    """A smooth little network around the identity."""

    sigma_min, sigma_max = 0.01, 50.0

    def __init__(self):
        super().__init__()
        with torch.random.fork_rng():
            torch.manual_seed(3)
            self.body = torch.nn.Sequential(torch.nn.Linear(4, 16), torch.nn.SiLU(), torch.nn.Linear(16, 2))
        self.register_buffer("scale", torch.ones(2))  # DDP broadcasts buffers: one must be there

    def forward(self, x_t, sigma, condition):
        s = sigma[:, None]
        shrunk = x_t / (1 + s.square()).sqrt()
        return shrunk * self.scale + self.body(torch.cat([shrunk, s.log() / 4, condition["label"]], 1))

    def null_condition(self, like):
        return {key: torch.zeros_like(value) for key, value in like.items()}


class PoisonedNetwork(Network):
    """Answers NaN, in its graph too, where the condition says so."""

    def forward(self, x_t, sigma, condition):
        return super().forward(x_t, sigma, condition) * (1 + condition["poison"])


def conditions(draws):
    """A label for both; nothing poisoned."""
    told = {"label": draws.normal("label", 1)}
    return told, told


def poisoned_conditions(draws):
    """As above, but the teacher answers NaN for the global samples 1, 5 and 13."""
    told, _ = conditions(draws)
    broken = torch.isin(draws.indices, torch.tensor([1, 5, 13], device=draws.device))[:, None]
    return {**told, "poison": torch.where(broken, torch.nan, 0.0)}, told


def make(loss="sim", poison=False, **settings) -> Trainer:
    """A trainer on samples of two numbers."""
    player = PlayerConfig(learning_rate=0.01, betas=(0.0, 0.99))
    noise = {"name": "log_normal", "mean": -0.5, "std": 1.0}
    config = TrainingConfig(
        iterations=ITERATIONS, batch=16, device="cpu", generator=player, online=player,
        generator_noise=noise, online_noise=noise, **settings,
    )  # fmt: skip
    teacher, student = PoisonedNetwork() if poison else Network(), Network()
    online = full_copy(Network())
    with torch.no_grad():  # three players that differ, so that there is something to learn from the first step
        student.body[2].bias.add_(0.3)
        online.body[2].weight.mul_(0.5)
    generator = OneStepGenerator(student, (2,), 2.5, poisoned_conditions if poison else conditions)
    return Trainer(config, teacher, online, generator, losses.build(loss))


def finish(name: str) -> dict:
    """Train a scenario; its weights, figures, and how often gradients were exchanged."""
    trainer, exchanges = make(**SCENARIOS[name]), []
    if trainer.accelerator.num_processes > 1:
        from torch.distributed.algorithms.ddp_comm_hooks.default_hooks import allreduce_hook

        def counted(state, bucket):
            exchanges.append(1)
            return allreduce_hook(state, bucket)

        trainer.generator_call.register_comm_hook(None, counted)
    for k in range(ITERATIONS):
        trainer.iteration(k)
    parts = {"generator": trainer.generator, "online": trainer.online}
    weights = {f"{part}.{n}": p.detach().clone() for part, m in parts.items() for n, p in m.named_parameters()}
    weights |= {f"ema.{n}": p.clone() for n, p in trainer.average.state_dict().items()}
    return {"weights": weights, "figures": trainer.figures(ITERATIONS), "exchanges": len(exchanges)}


if __name__ == "__main__":
    torch.set_num_threads(1)
    rank = os.environ["RANK"]
    torch.save({name: finish(name) for name in SCENARIOS}, Path(sys.argv[1]) / f"rank-{rank}.pt")
    torch.distributed.destroy_process_group()
