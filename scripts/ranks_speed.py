"""Iterations of a preset with random weights in the processes that torchrun started, whole and in shares.

    torchrun --standalone --nproc_per_node=2 scripts/ranks_speed.py --config pixart_512 --sharding none fsdp2 \
        training.batch=16 training.accumulation=1 --out runs/ranks.json

One line a setting, of the first process: seconds of an iteration (median), images/s of all processes, its peak memory,
and losses and gradient norms of the first iteration, which do not depend on the number of processes. One process alone
takes this script as well. ``scorefield bench`` takes no other: a bare pass of a sharded network has no meaning.
"""

import argparse
import gc
import statistics
from functools import partial
from pathlib import Path

import torch

from scorefield.bench import rehearsed
from scorefield.commands.common import build_config, resolve_device
from scorefield.cost.speed import timed
from scorefield.files import write_json
from scorefield.plugins import load_task
from scorefield.processes import is_main, rank, world
from scorefield.runfolder import peak_memory
from scorefield.teachers.reduced import SIZES


def run(arguments: argparse.Namespace, sharding: str) -> dict[str, object]:
    """Figures of one setting."""
    task_class = load_task("text_to_image")
    small = [f"{key}={value}" for key, value in SIZES.items()] if arguments.reduced else []
    config = build_config(task_class, arguments.config, [*small, *arguments.overrides, f"training.sharding={sharding}"])
    device = resolve_device(config.training.device)
    trainer, _ = rehearsed(task_class, config, device, arguments.reduced)
    first = config.training.online_warmup
    seconds = [timed(partial(trainer.iteration, first), device)[0]]
    start = trainer.figures(1)
    seconds += [timed(partial(trainer.iteration, first + k), device)[0] for k in range(1, arguments.iterations)]
    step = statistics.median(seconds[2:] or seconds)
    return {
        "sharding": sharding,
        "processes": world(),
        "batch": config.training.batch,
        "accumulation": config.training.accumulation,
        "step_seconds": step,
        "images_per_second": config.training.batch / step,
        "peak_memory_bytes": peak_memory(device),
        "figures": start,
    }


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--config", type=Path, required=True)
    parser.add_argument("--sharding", nargs="+", default=["none"], help="settings of training.sharding, in turn")
    parser.add_argument("--iterations", type=int, default=6, help="the first two are not timed")
    parser.add_argument("--reduced", action="store_true", help="small networks, as in scorefield bench")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("overrides", nargs="*", metavar="key=value")
    arguments = parser.parse_intermixed_args()
    if torch.cuda.is_available():
        torch.cuda.set_device(rank() % torch.cuda.device_count())
    rows = []
    for sharding in arguments.sharding:
        row = run(arguments, sharding)
        rows.append(row)
        gc.collect()
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
            torch.cuda.reset_peak_memory_stats()
        if is_main():
            figures = {name: value for name, value in row["figures"].items() if name.startswith(("loss", "grad_norm"))}
            shown = " ".join(f"{name}={value:.6g}" for name, value in figures.items())
            print(
                f"{row['processes']} processes, {sharding}: {row['step_seconds']:.3g} s, "
                f"{row['images_per_second']:.3g} images/s, {row['peak_memory_bytes'] / 1e9:.3g} GB; {shown}",
                flush=True,
            )
            write_json(arguments.out, {"rows": rows})
    if world() > 1:
        torch.distributed.destroy_process_group()
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
