"""``scorefield report RUN``: rebuild a run's page from its files."""

import argparse
from pathlib import Path


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The verb's own flags."""
    parser.add_argument("run", type=Path, help="run folder, finished or not")


def execute(arguments: argparse.Namespace) -> int:
    """Build the page and print its path."""
    from scorefield.report.page import build_report
    from scorefield.runfolder import RunFolder

    print(build_report(RunFolder.existing(arguments.run).path))
    return 0
