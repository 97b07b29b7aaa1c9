"""What tests/training/test_ranks.py runs under torchrun: tiny trainers, whose ends every process writes down.

The scenarios also run in the test's own process, which is what the ranks are compared with.
"""

import os
import signal
import sys
from pathlib import Path

import torch

from scorefield import losses
from scorefield.denoiser import Denoiser
from scorefield.generators.one_step import OneStepGenerator
from scorefield.runfolder import RunFolder
from scorefield.task import Players, Task
from scorefield.teachers.online import full_copy
from scorefield.training.session import Interrupted, Session
from scorefield.training.settings import CheckpointConfig, PlayerConfig, RunConfig, TrainingConfig
from scorefield.training.trainer import Trainer

ITERATIONS = 5
SCENARIOS = {
    "plain": {},
    "accumulation": {"accumulation": 4},
    "fresh": {"fresh_samples": True, "accumulation": 2, "online_updates": 2},
    "guided": {"guidance_scale": 3.0, "online_updates": 2, "online_training_guidance_scale": 2.0},
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


def players(poison: bool = False) -> Players:
    """Three small networks on samples of two numbers that differ, so that the first step has something to learn."""
    teacher, student = PoisonedNetwork() if poison else Network(), Network()
    online = full_copy(Network())
    with torch.no_grad():
        student.body[2].bias.add_(0.3)
        online.body[2].weight.mul_(0.5)
    generator = OneStepGenerator(student, (2,), 2.5, poisoned_conditions if poison else conditions)
    return Players(teacher, online, generator)


def training(**settings) -> TrainingConfig:
    """A few iterations of sixteen samples."""
    player = PlayerConfig(learning_rate=0.01, betas=(0.0, 0.99))
    noise = {"name": "log_normal", "mean": -0.5, "std": 1.0}
    return TrainingConfig(
        iterations=ITERATIONS, batch=16, device="cpu", generator=player, online=player,
        generator_noise=noise, online_noise=noise, **settings,
    )  # fmt: skip


def make(loss="sim", poison=False, **settings) -> Trainer:
    """A trainer of these players."""
    three = players(poison)
    return Trainer(training(**settings), three.teacher, three.online, three.generator, losses.build(loss))


class Tiny(Task):
    """The same players in a whole run, whose preview leaves a line of figures."""

    name = "tiny"

    def preview(self, generator, iteration):
        return {"eval/bias": generator.denoiser.body[2].bias.sum().item()}


def session(path: Path, poison: bool = False) -> Session:
    """A run in ``path``, checkpoint and figures at every second iteration."""
    config = RunConfig(training=training(log_every=2), checkpoints=CheckpointConfig(every=2, keep=9))
    path.mkdir(exist_ok=True)
    folder = RunFolder(path)
    return Session(Tiny(config, folder, "cpu"), players(poison), folder, say=print)


def interrupted_run(path: Path) -> dict:
    """A run that SIGTERM reaches in the last process only, after its first iteration; then it is resumed."""
    first = session(path, poison=True)
    last = first.trainer.accelerator.is_last_process
    first.generator.after_step = lambda k: os.kill(os.getpid(), signal.SIGTERM) if last and k == 0 else None
    stopped = 0
    try:
        first.run()
    except Interrupted:
        stopped = first.iteration
    first.trainer.accelerator.wait_for_everyone()  # rank 0 has saved
    second = session(path, poison=True)
    assert second.resume()
    second.run()
    return {"stopped": stopped, "weights": dict(second.generator.state_dict()), "totals": second.totals()}


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
    folder = Path(sys.argv[1])
    torch.save({name: finish(name) for name in SCENARIOS}, folder / f"rank-{rank}.pt")
    torch.save(interrupted_run(folder / "run"), folder / f"run-{rank}.pt")
    torch.distributed.destroy_process_group()
