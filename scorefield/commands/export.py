"""``scorefield export RUN``: the generator in the form that other tools load."""

import argparse
import inspect
from pathlib import Path

from scorefield import mirror

OPTIONS = {
    "only": 'of a LoRA student: "pipeline" (merged), "lora" or "kohya"; all if left out',
    "base_model": "hub id of the teacher, for the model card, where its path does not tell",
    "license": "licence of the result, for the model card; the teacher's own if left out",
    "license_link": "where a licence is to be read that the hub has no identifier for",
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The verb's own flags."""
    parser.add_argument("run", type=mirror.place, help="run folder")
    parser.add_argument("--out", type=Path, help="folder to write; RUN/export if left out")
    for name, text in OPTIONS.items():
        parser.add_argument(f"--{name.replace('_', '-')}", help=text)


def execute(arguments: argparse.Namespace) -> int:
    """Write the folder and say how to use it."""
    from scorefield.commands.common import open_run
    from scorefield.errors import UserError

    task, weights, _ = open_run(arguments.run, "cpu")
    asked = {name: value for name in OPTIONS if (value := getattr(arguments, name)) is not None}
    known = inspect.signature(task.export).parameters
    for name in asked:
        if name not in known:
            raise UserError(f"task {task.name} is exported as it is: it knows no --{name.replace('_', '-')}")
    out = task.export(weights, arguments.out or task.folder.export, **asked)
    print(f"wrote {out}; {out / 'README.md'} shows how to load it")
    return 0
