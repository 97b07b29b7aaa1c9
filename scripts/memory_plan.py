"""Bytes by role of a sharded run, on paper: counts the parameters of a preset's network without allocating them.

python scripts/memory_plan.py --config flux --processes 8,16,32,64
"""

import argparse
import tempfile
from pathlib import Path

import torch

from scorefield.commands.common import build_config
from scorefield.plugins import load_task
from scorefield.teachers.auto import open_teacher
from scorefield.teachers.known import KNOWN, write_known
from scorefield.training.sharding import blocks

GB = 1e9


def network_of(config) -> torch.nn.Module:
    """The teacher's network on the meta device."""
    settings = config.teacher
    with tempfile.TemporaryDirectory() as folder:
        if settings.path in KNOWN:
            settings.path = str(write_known(settings.path, Path(folder)))
        pipeline = open_teacher(settings, "cpu")
        with torch.device("meta"):
            return pipeline.class_of(pipeline.network_part).from_config(pipeline.settings(pipeline.network_part))


def rows(parameters: int, largest: int, teacher_bytes: int, processes: int) -> list[tuple[str, float]]:
    """(what, bytes in one process): shares of all tensors, and what is gathered for a while.

    ``largest``: parameters of the largest block. Two blocks are gathered at a time, one ahead of its use; the gradient
    of one block is whole until it is divided.
    """
    share = parameters / processes
    return [
        ("teacher's weights", teacher_bytes * share),
        ("online score: weights, gradients, two moments", 16 * share),
        ("generator: weights, gradients, two moments", 16 * share),
        ("average", 4 * share),
        ("gathered blocks and one block's gradient", 0 if processes == 1 else (2 + 1) * 4 * largest),
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--config", type=Path, default=Path("flux"))
    parser.add_argument("--processes", default="1,8,16,32")
    arguments = parser.parse_args()
    config = build_config(load_task("text_to_image"), arguments.config, [])
    network = network_of(config)
    parameters = sum(p.numel() for p in network.parameters())
    sizes = [sum(p.numel() for p in block.parameters()) for block in blocks(network)]
    rest = parameters - sum(sizes)
    bytes_each = torch.empty((), dtype=getattr(torch, config.teacher.dtype)).element_size()
    print(f"{parameters:,} parameters: {len(sizes)} blocks, the largest {max(sizes):,}; {rest:,} outside of blocks")
    counts = [int(word) for word in arguments.processes.split(",")]
    table = [rows(parameters, max(*sizes, rest), bytes_each, count) for count in counts]
    print("| GB in each of | " + " | ".join(f"{count} processes" for count in counts) + " |")
    print("|---|" + "---|" * len(counts))
    for line in zip(*table, strict=True):
        print(f"| {line[0][0]} | " + " | ".join(f"{value / GB:.1f}" for _, value in line) + " |")
    totals = [sum(value for _, value in column) for column in table]
    print("| together | " + " | ".join(f"{total / GB:.1f}" for total in totals) + " |")


if __name__ == "__main__":
    main()
