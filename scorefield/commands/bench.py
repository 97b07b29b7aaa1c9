"""``scorefield bench``: what an iteration costs, beside the bare network passes that it cannot do without."""

import argparse
import json
import sys
import tempfile
from pathlib import Path


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The verb's own flags."""
    parser.add_argument("--task", default="text_to_image", help="a task's name or folder")
    parser.add_argument("--config", type=Path, action="append", help="preset; default if left out; may be repeated")
    parser.add_argument("--rounds", type=int, default=5, help="timed iterations, after two untimed ones")
    parser.add_argument(
        "--reduced", action="store_true", help="small networks of the same kinds, batch 4: to see on a CPU that it runs"
    )
    parser.add_argument("--json", action="store_true", help="print nothing but one JSON object on stdout")
    parser.add_argument("overrides", nargs="*", default=[], metavar="key=value", help="for example training.batch=8")


def execute(arguments: argparse.Namespace) -> int:
    """Time each preset with random weights; nothing is fetched and no run folder is made."""
    from scorefield.bench import bench
    from scorefield.commands.common import build_config, resolve_device
    from scorefield.errors import UserError
    from scorefield.plugins import load_task
    from scorefield.teachers.reduced import SIZES, reduce_teacher

    if arguments.rounds < 1:
        raise UserError(f"--rounds must be at least 1, not {arguments.rounds}")
    task_class, rows = load_task(arguments.task), []
    for preset in arguments.config or [None]:
        small = [f"{key}={value}" for key, value in SIZES.items()] if arguments.reduced else []
        config = build_config(task_class, preset, [*small, *arguments.overrides])
        name = preset.stem if preset else "default"
        print(f"timing {name}", file=sys.stderr, flush=True)
        with tempfile.TemporaryDirectory() as folder:
            if arguments.reduced:
                reduce_teacher(config, Path(folder))
            row = bench(task_class, config, resolve_device(config.training.device), arguments.rounds)
        rows.append({"preset": name, "reduced": arguments.reduced, **row})
    if arguments.json:
        print(json.dumps({"rows": rows}))
    else:
        print("\n\n".join(described(row) for row in rows))
    return 0


def described(row: dict) -> str:
    """One preset in lines for people."""
    memory = ", ".join(f"{role} {size / 1e9:.3g} GB" for role, size in row["memory_bytes"].items())
    size = " (reduced)" if row["reduced"] else ""
    lines = [
        f"{row['preset']}{size}: {row['device']}, {row['precision']}, batch {row['batch']} (x{row['accumulation']})",
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
