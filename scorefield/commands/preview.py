"""``scorefield preview TASK``: what the teacher would draw, before anything is trained."""

import argparse
from pathlib import Path


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The verb's own flags."""
    parser.add_argument("task", help="a task's name or folder, for example tasks/text_to_3d")
    parser.add_argument("--config", type=Path, help="YAML preset; configs/TASK/default.yaml if left out")
    parser.add_argument("--out", type=Path, default=Path("preview.png"), help="the picture; preview.png if left out")
    parser.add_argument("overrides", nargs="*", metavar="key=value", help='for example prompt="a red chair"')


def execute(arguments: argparse.Namespace) -> int:
    """Draw, and print the picture's path."""
    import os

    from scorefield.commands.common import build_config, resolve_device
    from scorefield.plugins import load_task
    from scorefield.runfolder import RunFolder

    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    task_class = load_task(arguments.task)
    config = build_config(task_class, arguments.config, arguments.overrides)
    task = task_class(config, RunFolder(arguments.out.parent), resolve_device(config.training.device))
    task.check()
    print(task.preview_teacher(arguments.out))
    return 0
