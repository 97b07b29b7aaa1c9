"""Timing of an iteration against the bare passes that its loss needs, each timed by itself at its own cost."""

import statistics
import tempfile
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from scorefield.commands.run import passes_per_iteration
from scorefield.cost.estimate import book_state
from scorefield.cost.ledger import ACTIVATIONS, Ledger
from scorefield.cost.passes import bare_passes, needed_flops
from scorefield.cost.speed import device_name, flop_peak, timed
from scorefield.runfolder import RunFolder, peak_memory
from scorefield.task import Players
from scorefield.teachers.reduced import reduce_teacher
from scorefield.training.host_average import HostAverage
from scorefield.training.trainer import Trainer

WARM_UP = 2


def rehearsed(task_class, config, device: str, reduced: bool = False) -> tuple[Trainer, Players]:
    """The trainer of a configuration and its roles, with random weights, ``reduced`` in size or not."""
    torch.manual_seed(config.training.seed)  # the same networks in every process
    with tempfile.TemporaryDirectory() as scratch:
        if reduced:
            reduce_teacher(config, Path(scratch))
        players = task_class(config, RunFolder(Path(scratch) / "run"), device).rehearse()
    return Trainer(config.training, players.teacher, players.online, players.generator, config.build_loss()), players


def bench(task_class, config, device: str, rounds: int, reduced: bool = False) -> dict[str, Any]:
    """Figures of one configuration; see the keys of the result.

    ``overhead_ratio`` is the median iteration over the sum of the median bare passes; iterations and passes alternate,
    so that a busy machine slows both; ``overhead_ratio_cpu_time`` is the same in processor time, which waiting for
    others does not change (CPU only).
    """
    trainer, players = rehearsed(task_class, config, device, reduced)
    for k in range(WARM_UP):
        trainer.iteration(config.training.online_warmup + k)
    memory = memory_by_role(trainer, players)
    memory["activations"] = activations(trainer, players, device, config.training.online_warmup + WARM_UP)
    passes = bare_passes(trainer)
    flops = {name: needed_flops(trainer, each) for name, each in passes.items()}
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
    peak, source = flop_peak(device, config.training.precision)
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
        "flop_utilisation": rate / peak,
        "flop_peak": {"teraflops_per_second": peak / 1e12, "source": source},
        "memory_bytes": memory | {"peak": peak_memory(device)},
    }


# ---------------------------------------------------------------------- memory


def activations(trainer: Trainer, players: Players, device: str, number: int) -> int:
    """Bytes that an iteration holds beside what outlives it and gradients, at its peak; one is run."""
    if device.startswith("cuda"):  # the allocator knows what kernels take as well
        torch.cuda.synchronize()
        held = torch.cuda.memory_allocated()
        torch.cuda.reset_peak_memory_stats()
        trainer.iteration(number)
        torch.cuda.synchronize()
        gradients = sum(p.numel() * p.element_size() for p in trained_by(trainer))
        return max(0, torch.cuda.max_memory_allocated() - held - gradients)
    ledger = Ledger(torch.device(device))
    handles = book_state(ledger, trainer, players)
    try:
        with ledger:
            ledger.reset()
            trainer.iteration(number)
    finally:
        for handle in handles:
            handle.remove()
    return ledger.at_peak[ACTIVATIONS]


def trained_by(trainer: Trainer) -> list[nn.Parameter]:
    """Parameters of both optimizers."""
    return [*trainer.online_player.parameters, *trainer.generator_player.parameters]


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
    place = "average in host memory" if isinstance(trainer.average, HostAverage) else "average"
    averages = {place: trainer.average, "online score's average": trainer.steady.average}
    taken = {name: sum(v.numel() * v.element_size() for v in each.shadow) for name, each in averages.items()}
    return {"teacher": weights(holder(players.teacher)), **trained, **{k: v for k, v in taken.items() if v}, **beside}
