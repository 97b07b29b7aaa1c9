"""``scorefield sample RUN PROMPT …``: pictures in seconds."""

import argparse
from pathlib import Path

from scorefield import mirror


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The verb's own flags."""
    parser.add_argument("run", type=mirror.place, help="run folder")
    parser.add_argument("prompts", nargs="+", help="one or more prompts")
    parser.add_argument("--out", type=Path, help="folder for the pictures; RUN/pictures if left out")
    parser.add_argument("--seed", type=int, default=0, help="start noise")
    parser.add_argument("--device", default="auto")


def execute(arguments: argparse.Namespace) -> int:
    """Write one picture per prompt and print their paths."""
    from scorefield.commands.common import open_run

    task, weights, _ = open_run(arguments.run, arguments.device)
    out = arguments.out or arguments.run / "pictures"
    for path in task.sample(weights, arguments.prompts, arguments.seed, out):
        print(path)
    return 0
