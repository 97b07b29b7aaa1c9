"""``scorefield bench``: what an iteration costs, beside the bare network passes that it cannot do without."""

import argparse
import gc
import itertools
import json
import re
import sys
from pathlib import Path
from typing import Any


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The verb's own flags."""
    parser.add_argument("--task", default="text_to_image", help="a task's name or folder")
    parser.add_argument("--config", type=Path, action="append", help="preset; default if left out; may be repeated")
    parser.add_argument("--rounds", type=int, default=5, help="timed iterations, after two untimed ones")
    parser.add_argument(
        "--reduced", action="store_true", help="small networks of the same kinds, batch 4: to see on a CPU that it runs"
    )
    parser.add_argument(
        "--vary", action="append", default=[], metavar="KEY=A,B", help="time each of the values; repeated: all pairs"
    )
    parser.add_argument("--out", type=Path, help="file of the rows as JSON, written anew after each")
    parser.add_argument("--json", action="store_true", help="print nothing but one JSON object on stdout")
    parser.add_argument("overrides", nargs="*", default=[], metavar="key=value", help="for example training.batch=8")


def execute(arguments: argparse.Namespace) -> int:
    """Time each preset with random weights; nothing is fetched and no run folder is made."""
    import torch

    from scorefield.commands.common import build_config
    from scorefield.errors import UserError
    from scorefield.files import write_json
    from scorefield.plugins import load_task
    from scorefield.processes import world
    from scorefield.teachers.reduced import SIZES

    if world() > 1:
        raise UserError("scorefield bench times one process: start it without torchrun or accelerate launch")
    if arguments.rounds < 1:
        raise UserError(f"--rounds must be at least 1, not {arguments.rounds}")
    small = [f"{key}={value}" for key, value in SIZES.items()] if arguments.reduced else []
    task_class, planned = load_task(arguments.task), []
    for preset, varied in itertools.product(arguments.config or [None], variations(arguments.vary)):
        config = build_config(task_class, preset, [*small, *arguments.overrides, *varied])  # all, before any is timed
        planned.append((preset.stem if preset else "default", varied, config))
    found: dict[str, list[dict[str, Any]]] = {"rows": []}
    for name, varied, config in planned:
        print(f"timing {' '.join([name, *varied])}", file=sys.stderr, flush=True)
        about = {"preset": name, "varied": varied, "reduced": arguments.reduced}
        about["overrides"] = [*small, *arguments.overrides, *varied]
        try:
            row = timed_row(task_class, config, arguments.rounds, arguments.reduced)
        except torch.OutOfMemoryError as error:
            if len(planned) == 1:
                raise
            found.setdefault("failed", []).append(about | {"reason": str(error).partition(". ")[0]})
            print("  does not fit into the device's memory", file=sys.stderr, flush=True)
        else:
            found["rows"].append(about | row)
            print(f"  {brief(row)}", file=sys.stderr, flush=True)
        if arguments.out:
            write_json(arguments.out, found)
    if arguments.json:
        print(json.dumps(found))
    else:
        print("\n\n".join(described(row) for row in found["rows"]))
    return 0 if found["rows"] else 1


def timed_row(task_class, config: Any, rounds: int, reduced: bool) -> dict[str, Any]:
    """Figures of one configuration (``scorefield.bench.bench``), which leaves nothing on the device."""
    import torch

    from scorefield.bench import bench
    from scorefield.commands.common import resolve_device

    try:
        return bench(task_class, config, resolve_device(config.training.device), rounds, reduced)
    finally:
        gc.collect()  # graphs hold each other
        if torch.cuda.is_available():
            torch.cuda.empty_cache()


def variations(given: list[str]) -> list[list[str]]:
    """Overrides of every row: one value of each key. Raises UserError for what is no KEY=A,B."""
    from scorefield.errors import UserError

    choices = []
    for text in given:
        key, _, values = text.partition("=")
        found = [value.strip() for value in re.split(r",(?![^\[{]*[\]}])", values)]  # not those within brackets
        if not key or not all(found):
            raise UserError(f'--vary "{text}" is no KEY=A,B, for example --vary loss.name=sim,dmd')
        choices.append([f"{key}={value}" for value in found])
    return [list(chosen) for chosen in itertools.product(*choices)]


def brief(row: dict[str, Any]) -> str:
    """A row in one line."""
    memory = row["memory_bytes"]
    return (
        f"{row['images_per_second']:.3g} images/s, {row['step_seconds']:.3g} s an iteration, "
        f"{row['forward_equivalents']:g} passes, ratio {row['overhead_ratio']:.3f}, "
        f"{row['flop_utilisation']:.1%} of peak, {memory['peak'] / 1e9:.3g} GB "
        f"(activations {memory['activations'] / 1e9:.3g})"
    )


def described(row: dict) -> str:
    """One preset in lines for people."""
    memory = ", ".join(f"{role} {size / 1e9:.3g} GB" for role, size in row["memory_bytes"].items())
    name = " ".join([row["preset"], *row["varied"]]) + (" (reduced)" if row["reduced"] else "")
    lines = [
        f"{name}: {row['device']}, {row['precision']}, batch {row['batch']} (x{row['accumulation']})",
        f"  {row['images_per_second']:.3g} images/s, {row['step_seconds']:.4g} s an iteration, "
        f"{row['forward_equivalents']:g} forward passes an image",
        f"  overhead ratio {row['overhead_ratio']:.3f}: an iteration / the sum of its bare passes"
        + (f" ({row['overhead_ratio_cpu_time']:.3f} in processor time)" if row["overhead_ratio_cpu_time"] else ""),
        *(
            f"    {each['count']:g} x {name}: {each['seconds']:.4g} s, together {each['share']:.0%} of the iteration"
            for name, each in row["passes"].items()
        ),
        "  outside the networks' passes: " + ", ".join(f"{k} {v:.3g} s" for k, v in row["phases"].items()),
        f"  {row['teraflops_per_second']:.3g} TFLOP/s in the networks"
        f", {row['flop_utilisation']:.1%} of the device's {row['flop_peak']['teraflops_per_second']:.3g} "
        f"({row['flop_peak']['source']})",
        f"  memory: {memory}",
    ]
    return "\n".join(lines)
