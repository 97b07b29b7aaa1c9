"""Timing of an iteration against the bare passes that its loss needs, each timed by itself at its own cost."""

import statistics
import time
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from scorefield.commands.run import passes_per_iteration
from scorefield.denoiser import Denoiser, join
from scorefield.runfolder import peak_memory
from scorefield.task import Players
from scorefield.training.parameters import frozen, trainable
from scorefield.training.trainer import Trainer

WARM_UP = 2
PEAKS = {"H100": 989e12, "H200": 989e12, "A100": 312e12, "B200": 2250e12}  # dense bf16 FLOP/s of the data sheets


@dataclass
class Pass:
    """A bare pass of one network: what is timed, and how often an iteration needs it."""

    count: float
    call: Callable[[], object]
    forward: Callable[[], object]  # the same without a graph, of which FLOPs are counted
    cost: int  # in those: 1, 2 (input gradient) or 3 (parameter gradient)
    branches: int = 1  # 2 where guidance doubles the batch
    counted: bool = True  # in forward-equivalents: a generator counts once, however many steps it has


def bench(task_class, config, device: str, rounds: int) -> dict[str, Any]:
    """Figures of one configuration; see the keys of the result.

    ``overhead_ratio`` is the median iteration over the sum of the median bare passes; iterations and passes alternate,
    so that a busy machine slows both; ``overhead_ratio_cpu_time`` is the same in processor time, which waiting for
    others does not change (CPU only).
    """
    import tempfile
    from pathlib import Path

    from scorefield.runfolder import RunFolder

    torch.manual_seed(config.training.seed)
    with tempfile.TemporaryDirectory() as folder:
        players = task_class(config, RunFolder(Path(folder)), device).rehearse()
    trainer = Trainer(config.training, players.teacher, players.online, players.generator, config.build_loss())
    for k in range(WARM_UP):
        trainer.iteration(config.training.online_warmup + k)
    memory = memory_by_role(trainer, players)
    passes = bare_passes(trainer)
    flops = {name: each.cost * count_flops(each.forward) for name, each in passes.items()}
    for each in passes.values():
        each.call()
    trainer.clock.read()
    steps: list[tuple[float, float]] = []
    seconds: dict[str, list[tuple[float, float]]] = {name: [] for name in passes}
    for k in range(rounds):
        number = config.training.online_warmup + WARM_UP + k
        steps.append(timed(partial(trainer.iteration, number), device))
        for name, each in passes.items():
            seconds[name].append(timed(each.call, device))
    phases = {name: value / rounds for name, value in trainer.clock.read().items()}
    step, busy = (statistics.median(values) for values in zip(*steps, strict=True))
    bare = {name: statistics.median(wall for wall, _ in values) for name, values in seconds.items()}
    least = sum(passes[name].count * value for name, value in bare.items())
    spent = sum(passes[name].count * statistics.median(cpu for _, cpu in values) for name, values in seconds.items())
    rate = sum(passes[name].count * flops[name] for name in passes) / step
    peak = next((value for name, value in PEAKS.items() if device.startswith("cuda") and name in device_name()), None)
    return {
        "device": device_name() if device.startswith("cuda") else device,
        "threads": torch.get_num_threads(),
        "precision": config.training.precision,
        "batch": config.training.batch,
        "accumulation": config.training.accumulation,
        "rounds": rounds,
        "step_seconds": step,
        "images_per_second": config.training.batch / step,
        "forward_equivalents": passes_per_iteration(trainer.loss, config.training),
        "overhead_ratio": step / least,
        "overhead_ratio_cpu_time": busy / spent if device == "cpu" else None,
        "bare_seconds": least,
        "passes": {
            name: {
                "count": each.count,
                "seconds": bare[name],
                "forward_equivalents": each.counted
                * each.count
                * each.cost
                * each.branches
                / config.training.accumulation,
                "share": each.count * bare[name] / step,
            }
            for name, each in passes.items()
        },
        "phases": {name: phases[name] for name in ("optimizer",) if name in phases},
        "teraflops_per_second": rate / 1e12,
        "flop_utilisation": rate / peak if peak and config.training.precision == "bf16" else None,
        "memory_bytes": memory | {"peak": peak_memory(device)},
    }


def device_name() -> str:
    """What the GPU calls itself."""
    return torch.cuda.get_device_name()


def timed(call: Callable[[], object], device: str) -> tuple[float, float]:
    """Seconds of one call, the device waited for, and seconds of this process's processors."""
    if device.startswith("cuda"):
        torch.cuda.synchronize()
    start, busy = time.perf_counter(), time.process_time()
    call()
    if device.startswith("cuda"):
        torch.cuda.synchronize()
    return time.perf_counter() - start, time.process_time() - busy


def count_flops(call: Callable[[], object]) -> int:
    """Floating-point operations of a call, as torch counts them.

    Not by its FlopCounterMode, whose hooks on modules fail where an input asks for gradients and there is no graph.
    """
    from scorefield.cost.ledger import Ledger

    ledger = Ledger(torch.device("meta"))  # it books no tensor of another device
    with ledger:
        call()
    return ledger.flops


# ---------------------------------------------------------------------- passes


def bare_passes(trainer: Trainer) -> dict[str, Pass]:
    """The passes of one iteration, as ``passes_per_iteration`` counts them, on the networks of ``trainer``."""
    config, loss = trainer.config, trainer.loss
    part = trainer._parts(0)[0]
    with torch.no_grad():  # a graph kept from here would stand beside those of the passes
        sample = trainer._render(part)
    z = sample.x0
    noise = torch.ones(len(z), device=z.device)
    accumulation, shared = config.accumulation, config.accumulation == 1 and not config.fresh_samples
    student = getattr(trainer.generator, "denoiser", None)
    batch = sample.batch
    made: dict[str, Pass] = {}

    def add(name: str, count: float, who: Denoiser, scale: float, condition, cost: int) -> None:
        """A pass of ``who`` on the batch, which guidance doubles."""
        x, sigma, told, branches = z, noise, condition, 1
        if scale != 1:
            branches = 2
            told = join(condition, who.null_condition(condition))
            x, sigma = torch.cat([x, x]), torch.cat([sigma, sigma])
        network = torch.compile(bare(who)) if config.compile else bare(who)
        given = trainer, network, who, x, sigma, told
        call = {1: forward_only, 2: input_gradient, 3: parameter_gradient}[cost](*given)
        made[name] = Pass(count * accumulation, call, forward_only(trainer, bare(who), *given[2:]), cost, branches)

    if isinstance(student, Denoiser):
        add("generator, parameter gradient", 1, student, 1, batch.teacher_condition, 3)
        if not shared and loss.needs_online:
            add("generator, forward", config.online_updates, student, 1, batch.teacher_condition, 1)
    else:
        links = generator_links(trainer, batch)
        for name, (run, forward, cost) in links.items():
            made[name] = Pass(accumulation, run, forward, cost, counted=cost == 3)
        if not shared and loss.needs_online:
            run = trainer_forward(trainer, batch)
            made["generator, forward"] = Pass(config.online_updates * accumulation, run, run, 1)
    cost, label = (2, "input gradient") if loss.needs_jacobian else (1, "forward")
    if loss.needs_teacher:
        add(f"teacher, {label}", 1, trainer.teacher.denoiser, config.guidance_scale, batch.teacher_condition, cost)
    if loss.needs_online:
        online, told = trainer.online, batch.online_condition
        scale = config.online_training_guidance_scale
        add("online score, parameter gradient", config.online_updates, online, scale, told, 3)
        if loss.online_pull:
            given = trainer.teacher.denoiser, config.guidance_scale, batch.teacher_condition
            add("teacher, forward for the online score", config.online_updates, *given, 1)
        add(f"online score, {label}", 1, online, config.online_guidance_scale, told, cost)
    return made


def bare(denoiser: Denoiser) -> Callable[[Tensor, Tensor, Any], Tensor]:
    """The network inside a denoiser, without scaling and conversion; the denoiser itself where there is none."""
    from scorefield.teachers.native import NativeDenoiser
    from scorefield.teachers.shared import AdapterView

    if isinstance(denoiser, AdapterView):
        inner = bare(denoiser.base)

        def switched(x: Tensor, sigma: Tensor, condition) -> Tensor:
            denoiser._switch(denoiser.role)
            try:
                return inner(x, sigma, condition)
            finally:
                denoiser._switch("")

        return switched
    if isinstance(denoiser, NativeDenoiser):
        middle = denoiser.process.timestep(torch.ones(1)).item() * denoiser.time_scale
        dtype = denoiser.dtype
        return lambda x, sigma, condition: denoiser.call(x.to(dtype), torch.full_like(sigma, middle), condition)
    return denoiser


def forward_only(trainer, network, owner, x, sigma, condition):
    """A pass without a graph."""

    def run() -> None:
        with torch.no_grad(), trainer._autocast():
            network(x, sigma, condition)

    return run


def input_gradient(trainer, network, owner, x, sigma, condition):
    """Forward and backward to the input, parameters frozen."""

    def run() -> None:
        leaf = x.detach().requires_grad_(True)
        with frozen(owner) if isinstance(owner, nn.Module) else nullcontext():
            with trainer._autocast():
                output = network(leaf, sigma, condition)
            torch.autograd.grad(output, leaf, torch.ones_like(output))

    return run


def parameter_gradient(trainer, network, owner, x, sigma, condition):
    """Forward and backward to the parameters."""
    parameters = trainable(owner)

    def run() -> None:
        with trainer._autocast():
            output = network(x, sigma, condition)
        torch.autograd.grad(output, parameters, torch.ones_like(output), allow_unused=True)

    return run


def generator_links(trainer: Trainer, batch) -> dict[str, tuple[Callable[[], object], Callable[[], object], int]]:
    """By name, each step of a generator that is no denoiser: with its backward, without a graph, and its cost.

    The first step holds the parameters (3 forwards), a further one hands on the gradient of what it was given (2).
    """
    parameters, made = trainable(trainer.generator), {}
    given: tuple[Any, ...] = ()

    def timed_link(link: Callable[..., Tensor], *inputs: Tensor) -> tuple[Callable[[], object], Callable[[], object]]:
        def run() -> None:
            leaves = [value.detach().requires_grad_(True) for value in inputs]
            with trainer._autocast():
                output = link(*leaves)
            torch.autograd.grad(output, leaves or parameters, torch.ones_like(output), allow_unused=True)

        def forward() -> Tensor:
            with torch.no_grad(), trainer._autocast():
                return link(*inputs)

        return run, forward

    for place, (name, link) in enumerate(trainer.generator.links(batch)):
        run, forward = timed_link(link, *given)
        label = f"generator{name and f': {name}'}, {'input' if place else 'parameter'} gradient"
        made[label] = run, forward, 2 if place else 3
        given = (forward(),)
    return made


def trainer_forward(trainer: Trainer, batch) -> Callable[[], object]:
    """A generator's forward without a graph."""

    def run() -> None:
        with torch.no_grad(), trainer._autocast():
            trainer.generator(batch)

    return run


# ---------------------------------------------------------------------- memory


def memory_by_role(trainer: Trainer, players: Players) -> dict[str, int]:
    """Bytes of weights, gradients at their largest, optimizer states and average; shared weights count once."""
    from scorefield.teachers.shared import holder

    seen: set[int] = set()

    def weights(module: nn.Module) -> int:
        fresh = {id(p): p for p in module.parameters() if id(p) not in seen}
        seen.update(fresh)
        return sum(p.numel() * p.element_size() for p in fresh.values())

    def states(player) -> int:
        tensors = [v for state in player.optimizer.state.values() for v in state.values() if isinstance(v, Tensor)]
        return sum(value.numel() * value.element_size() for value in (*tensors, *player.parameters))  # and gradients

    trained = {
        "online": weights(players.online) + states(trainer.online_player),
        "generator": weights(players.generator) + states(trainer.generator_player),
    }
    beside = {name: weights(module) for name, module in players.beside.items()}
    average = sum(value.numel() * value.element_size() for value in trainer.average.shadow)
    return {"teacher": weights(holder(players.teacher)), **trained, "average": average, **beside}
