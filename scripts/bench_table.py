"""A markdown table of what ``scorefield bench --out`` wrote, perhaps beside the memory that ``--dry-run`` foresees.

    python scripts/bench_table.py runs/bench/*.json --estimate > runs/bench/table.md

The estimate takes no device: it is of the iteration alone, as embeddings and autoencoder are in no bench.
"""

import argparse
import sys
import tempfile
from pathlib import Path
from typing import Any

from scorefield.commands.common import build_config
from scorefield.cost.estimate import estimate
from scorefield.files import read_json
from scorefield.plugins import load_task
from scorefield.runfolder import RunFolder
from scorefield.teachers.reduced import reduce_teacher

ROLES = ("teacher", "online", "generator", "average", "activations", "peak")
HEAD = ["preset", "varied", "batch", "images/s", "s", "passes", "ratio", "optimizer s", "TFLOP/s", "of peak"]


def foreseen(row: dict[str, Any], task: str) -> int:
    """Bytes that an iteration of a row's configuration takes, by ``--dry-run``'s count."""
    task_class, preset = load_task(task), None if row["preset"] == "default" else Path(row["preset"])
    with tempfile.TemporaryDirectory() as folder:
        config = build_config(task_class, preset, row["overrides"])
        if row["reduced"]:
            reduce_teacher(config, Path(folder))
        made = task_class(config, RunFolder(Path(folder) / "run"), "cpu")
        made.memory_beside = dict
        return estimate(made, config, "cpu" if row["device"] == "cpu" else "cuda").per_device


def line(row: dict[str, Any], estimated: int | None) -> list[str]:
    """A row's cells."""
    memory = row["memory_bytes"]
    peak = memory["peak"]
    cells = [
        row["preset"],
        " ".join(row["varied"]),
        f"{row['batch']} (x{row['accumulation']})",
        f"{row['images_per_second']:.3g}",
        f"{row['step_seconds']:.3g}",
        f"{row['forward_equivalents']:g}",
        f"{row['overhead_ratio']:.3f}",
        f"{row['phases'].get('optimizer', 0):.3g}",
        f"{row['teraflops_per_second']:.3g}",
        f"{row['flop_utilisation']:.1%}",
        *(f"{memory.get(role, 0) / 1e9:.3g}" for role in ROLES),
    ]
    return cells if estimated is None else [*cells, f"{estimated / 1e9:.3g} ({estimated / peak - 1:+.1%})"]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("files", nargs="+", type=Path)
    parser.add_argument("--estimate", action="store_true", help="beside the memory that was measured")
    parser.add_argument("--task", default="text_to_image", help="of the rows")
    arguments = parser.parse_args()
    head = [*HEAD, *(f"{role} GB" for role in ROLES), *(["estimated GB"] if arguments.estimate else [])]
    print("|" + "|".join(head) + "|\n" + "|" + "---|" * len(head))
    for file in arguments.files:
        found = read_json(file)
        for row in found["rows"]:
            print("|" + "|".join(line(row, foreseen(row, arguments.task) if arguments.estimate else None)) + "|")
            sys.stdout.flush()
        for row in found.get("failed", []):
            print(f"|{row['preset']}|{' '.join(row['varied'])}|did not fit|" + "|" * (len(head) - 3))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
