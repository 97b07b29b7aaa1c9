"""What the tests beside it run under torchrun: tiny trainers, whose ends every process writes down.

The scenarios also run in the test's own process, which is what the ranks are compared with.
"""

import copy
import dataclasses
import os
import signal
import sys
from pathlib import Path

import torch

from scorefield import losses
from scorefield.denoiser import Denoiser
from scorefield.generators.one_step import OneStepGenerator
from scorefield.processes import leave
from scorefield.random import Draws
from scorefield.runfolder import RunFolder
from scorefield.task import Players, Task
from scorefield.teachers.online import full_copy
from scorefield.teachers.shared import Adapter, holder, share
from scorefield.training.peers import PeerLost, watched
from scorefield.training.session import Session
from scorefield.training.settings import CheckpointConfig, PlayerConfig, RunConfig, TrainingConfig
from scorefield.training.sharding import held_bytes, whole
from scorefield.training.signals import Interrupted
from scorefield.training.trainer import Trainer

ITERATIONS = 5
BOTH = ("generator", "online")
ALL = ["teacher", "online", "generator"]
SCENARIOS = {
    "plain": {},
    "accumulation": {"accumulation": 4},
    "fresh": {"fresh_samples": True, "accumulation": 2, "online_updates": 2},
    "guided": {"guidance_scale": 3.0, "online_updates": 2, "online_training_guidance_scale": 2.0},
    "sds": {"loss": "sds"},
    "masked": {"poison": True},
}
# whole runs in shares, by the name of their folder
RUNS = {
    "sharded": {"poison": True, "deep": True},
    "sharded-lora": {"deep": True, "lora": BOTH, "asynchronous": True},  # checkpoints written by threads
}
# what is trained in shares by several processes, and whole by one; networks of several blocks
SHARDED = {
    "shared sample": {"deep": True, "guidance_scale": 3.0, "generator": {"clip_norm": 0.5}},
    "accumulation": {"deep": True, "accumulation": 4, "online_updates": 2},
    "fresh": {"deep": True, "loss": "dmd", "fresh_samples": True},
    "checkpointing": {"deep": True, "activation_checkpointing": ["teacher", "online"]},
    "block by block": {"deep": True, "cut": True, "activation_checkpointing": ALL},
    "masked": {"deep": True, "poison": True},
    # roles that are adapters on one frozen bf16 network
    "lora": {"deep": True, "lora": BOTH, "guidance_scale": 3.0, "online_updates": 2, "generator": {"clip_norm": 0.5}},
    "lora accumulation": {"deep": True, "lora": BOTH, "accumulation": 4},
    "lora checkpointing": {"deep": True, "lora": BOTH, "activation_checkpointing": ["teacher", "online"]},
    "lora block by block": {"deep": True, "cut": True, "lora": BOTH, "activation_checkpointing": ALL},
    "lora online": {"deep": True, "lora": ("online",), "fresh_samples": True},
}


class Network(Denoiser):
    """A smooth little network around the identity."""

    sigma_min, sigma_max = 0.01, 50.0

    def __init__(self, deep: bool = False):
        super().__init__()
        with torch.random.fork_rng():
            torch.manual_seed(3)
            self.body = torch.nn.Sequential(torch.nn.Linear(4, 16), torch.nn.SiLU(), torch.nn.Linear(16, 2))
            parts = [torch.nn.Sequential(torch.nn.Linear(2, 7), torch.nn.SiLU(), torch.nn.Linear(7, 2))] * 2 * deep
            self.blocks = torch.nn.ModuleList(copy.deepcopy(part) for part in parts)
        self.register_buffer("scale", torch.ones(2))  # DDP broadcasts buffers: one must be there

    def forward(self, x_t, sigma, condition):
        s = sigma[:, None]
        shrunk = x_t / (1 + s.square()).sqrt()
        told = torch.cat([shrunk, s.log() / 4, condition["label"]], 1)
        x0 = shrunk * self.scale + self.body(told.to(self.scale.dtype))
        for block in self.blocks:
            x0 = x0 + self.ask(block, x0.to(self.scale.dtype))
        return x0.float()

    def ask(self, block, x):
        return block(x)

    def null_condition(self, like):
        return {key: torch.zeros_like(value) for key, value in like.items()}


class CutNetwork(Network):
    """Lets its blocks be recomputed, as networks of diffusers do."""

    _supports_gradient_checkpointing = True

    def enable_gradient_checkpointing(self, call):
        self.call = call

    def ask(self, block, x):
        return self.call(block, x) if torch.is_grad_enabled() else block(x)


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


def players(poison: bool = False, deep: bool = False, lora: tuple[str, ...] = (), cut: bool = False) -> Players:
    """Three small networks on samples of two numbers that differ, so that the first step has something to learn.

    ``lora``: the roles that are adapters on the teacher's weights, moved away from it.
    """
    kind = CutNetwork if cut else Network
    if lora:
        return on_one_base(kind(deep), deep, lora)
    teacher, student = (PoisonedNetwork if poison else kind)(deep), kind(deep)
    online = full_copy(kind(deep))
    with torch.no_grad():
        student.body[2].bias.add_(0.3)
        online.body[2].weight.mul_(0.5)
    generator = OneStepGenerator(student, (2,), 2.5, poisoned_conditions if poison else conditions)
    return Players(teacher, online, generator)


def on_one_base(base: Network, deep: bool, lora: tuple[str, ...]) -> Players:
    """The players with some of them in adapters of all linear layers of a frozen bf16 teacher."""
    rng = torch.Generator().manual_seed(4)
    adapter = Adapter(3, ("body.0", "body.2", *(f"blocks.{k}.{place}" for k in range(2) for place in (0, 2))))
    teacher, views = share(base.bfloat16(), dict.fromkeys(lora, adapter))
    for view in views.values():
        for value in view.parameters():
            value.data = 0.3 * torch.randn(value.shape, generator=rng)
    student = views.get("generator") or Network(deep)
    return Players(teacher, views["online"], OneStepGenerator(student, (2,), 2.5, conditions))


def training(**settings) -> TrainingConfig:
    """A few iterations of sixteen samples."""
    player = PlayerConfig(learning_rate=0.01, betas=(0.0, 0.99))
    own = dataclasses.replace(player, **settings.pop("generator", {}))
    noise = {"name": "log_normal", "mean": -0.5, "std": 1.0}
    return TrainingConfig(
        iterations=settings.pop("iterations", ITERATIONS), batch=16, device="cpu", generator=own, online=player,
        generator_noise=noise, online_noise=noise, **settings,
    )  # fmt: skip


def make(loss="sim", poison=False, deep=False, lora=(), cut=False, **settings) -> Trainer:
    """A trainer of these players."""
    three = players(poison, deep, lora, cut)
    return Trainer(training(**settings), three.teacher, three.online, three.generator, losses.build(loss))


class Tiny(Task):
    """The same players in a whole run, whose preview leaves a line of figures."""

    name = "tiny"

    @torch.no_grad()
    def preview(self, generator, iteration):
        drawn = generator(generator.draw(Draws(0, -1, torch.arange(8))))
        return {"eval/mean": drawn.mean().item()}


def session(path: Path, poison=False, deep=False, lora=(), asynchronous=False, **settings) -> Session:
    """A run in ``path``, checkpoint and figures at every second iteration."""
    checkpoints = CheckpointConfig(every=2, keep=9, asynchronous=asynchronous)
    config = RunConfig(training=training(log_every=2, **settings), checkpoints=checkpoints)
    path.mkdir(exist_ok=True)
    folder = RunFolder(path)
    return Session(Tiny(config, folder, "cpu"), players(poison, deep, lora), folder, say=print)


def interrupted_run(path: Path, **settings) -> dict:
    """A run that SIGTERM reaches in the last process only, after its first iteration; then it is resumed."""
    first = session(path, **settings)
    last = first.trainer.accelerator.is_last_process
    first.generator.after_step = lambda k: os.kill(os.getpid(), signal.SIGTERM) if last and k == 0 else None
    stopped = 0
    try:
        first.run()
    except Interrupted:
        stopped = first.iteration
    first.trainer.accelerator.wait_for_everyone()  # rank 0 has saved
    second = session(path, **settings)
    assert second.resume()
    second.run()
    return {"stopped": stopped, "weights": plain(second.generator.state_dict()), "totals": second.totals()}


def resumed_run(path: Path, **settings) -> dict:
    """A sharded run in ``path`` taken to its end, by however many processes there are; its generator and average."""
    again = session(path, **settings, sharding="fsdp2")
    assert again.resume()
    assert again.iteration == 2
    again.run()
    return {part: plain(again.weights()[part]) for part in ("generator", "ema", "online")}


def lost_run(path: Path) -> None:
    """A run whose last process is killed after its fourth iteration; what the others say goes to stderr."""
    run = session(path, poison=True)
    last = run.trainer.accelerator.is_last_process
    run.generator.after_step = lambda k: os.kill(os.getpid(), signal.SIGKILL) if last and k == 3 else None
    try:
        with watched(run, "the same command with --resume"):
            run.run()
    except PeerLost as lost:
        print(lost, file=sys.stderr, flush=True)
        sys.exit(lost.status)


def plain(tensors) -> dict[str, torch.Tensor]:
    """Whole copies of tensors that may be sharded."""
    return {name: whole(value.detach()).clone() for name, value in tensors.items()}


def finish(name: str, scenarios: dict = SCENARIOS, **settings) -> dict:
    """Train a scenario; its weights, figures, how often gradients were exchanged and what this process held."""
    trainer = make(**scenarios[name], **settings)
    exchanges = {"generator": 0, "online": 0}
    if trainer.accelerator.num_processes > 1 and trainer.sharding is None:
        from torch.distributed.algorithms.ddp_comm_hooks.default_hooks import allreduce_hook

        def counted(who, bucket):
            exchanges[who] += 1
            return allreduce_hook(None, bucket)

        trainer.generator_call.register_comm_hook("generator", counted)
        trainer.online_call.register_comm_hook("online", counted)
    for k in range(ITERATIONS):
        trainer.iteration(k)
    parts = {"generator": trainer.generator, "online": trainer.online}
    left = [f"{part}.{n}" for part, m in parts.items() for n, p in m.named_parameters() if p.grad is not None]
    weights = {f"{part}.{n}": p for part, m in parts.items() for n, p in m.named_parameters()}
    weights |= {f"ema.{n}": p for n, p in trainer.average.state_dict().items()}
    players = trainer.generator_player, trainer.online_player
    kept = [value for player in players for state in player.optimizer.state.values() for value in state.values()]
    base = holder(trainer.teacher.denoiser)
    tensors = {"teacher": base.parameters(), "moments": kept, "trained": weights.values()}
    return {
        "weights": plain(weights),
        "figures": trainer.figures(ITERATIONS),
        "exchanges": exchanges,
        "bytes": {what: held_bytes(values) for what, values in tensors.items()},
        "gradients left": left,
    }


def several(folder: Path, rank: str) -> None:
    """All that two processes are asked for."""
    torch.save({name: finish(name) for name in SCENARIOS}, folder / f"rank-{rank}.pt")
    torch.save(interrupted_run(folder / "run", poison=True), folder / f"run-{rank}.pt")
    torch.save({name: finish(name, SHARDED, sharding="fsdp2") for name in SHARDED}, folder / f"sharded-{rank}.pt")
    for name, settings in RUNS.items():
        ended = interrupted_run(folder / name, **settings, sharding="fsdp2")
        torch.save(ended, folder / f"{name}-run-{rank}.pt")


if __name__ == "__main__":
    torch.set_num_threads(1)
    what, folder, number = sys.argv[1], Path(sys.argv[2]), os.environ["RANK"]
    if what == "several":
        several(folder, number)
    elif what == "resumed":
        found = {name: resumed_run(folder / name, **settings) for name, settings in RUNS.items()}
        torch.save(found, folder / f"resumed-{number}.pt")
    elif what == "equal":
        found = {name: finish(name) for name in SCENARIOS}, {n: finish(n, SHARDED, sharding="fsdp2") for n in SHARDED}
        torch.save(found, folder / f"equal-{number}.pt")
    elif what == "lost":
        lost_run(folder / "lost")
    leave()
