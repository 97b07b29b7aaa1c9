"""``scorefield config TASK``: the resolved configuration, without a run."""

import argparse
from pathlib import Path


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The verb's own flags."""
    parser.add_argument("task", help="a task's name or folder")
    parser.add_argument("--config", type=Path, help="YAML preset")
    parser.add_argument("overrides", nargs="*", default=[], metavar="key=value")


def execute(arguments: argparse.Namespace) -> int:
    """Print it as YAML that --config takes back."""
    from scorefield import config as configuration
    from scorefield.commands.common import build_config
    from scorefield.plugins import load_task

    task_class = load_task(arguments.task)
    config = build_config(task_class, arguments.config, arguments.overrides)
    print(configuration.to_yaml(config), end="")
    return 0
