"""``scorefield export RUN``: the generator in the form that other tools load."""

import argparse
from pathlib import Path

from scorefield import mirror


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The verb's own flags."""
    parser.add_argument("run", type=mirror.place, help="run folder")
    parser.add_argument("--out", type=Path, help="folder to write; RUN/export if left out")


def execute(arguments: argparse.Namespace) -> int:
    """Write the folder and say how to use it."""
    from scorefield.commands.common import open_run

    task, weights, _ = open_run(arguments.run, "cpu")
    out = task.export(weights, arguments.out or task.folder.export)
    print(f"wrote {out}; {out / 'README.md'} shows how to load it")
    return 0
