"""``scorefield report RUN``: rebuild the page of a run, or of a comparison, from its files."""

import argparse

from scorefield import mirror


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The verb's own flags."""
    parser.add_argument("run", type=mirror.place, help="folder of a run or of a comparison, finished or not")


def execute(arguments: argparse.Namespace) -> int:
    """Build the page and print its path."""
    from scorefield.report.page import build_report
    from scorefield.runfolder import RunFolder

    if (arguments.run / "comparison.json").exists():
        from scorefield.compare.page import rebuild

        print(rebuild(arguments.run))
        return 0
    print(build_report(RunFolder.existing(arguments.run).path))
    return 0
