"""``scorefield evaluate RUN``: measure a run's newest weights anew and rebuild its page."""

import argparse
from pathlib import Path


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The verb's own flags."""
    parser.add_argument("run", type=Path, help="run folder")
    parser.add_argument("--samples", type=int, help="held-out prompts; as configured if left out")
    parser.add_argument("--device", default="auto")


def execute(arguments: argparse.Namespace) -> int:
    """Measure, update summary.json, rebuild the report."""
    from scorefield.commands.common import open_run
    from scorefield.commands.run import print_result
    from scorefield.errors import UserError
    from scorefield.report.page import build_report

    if arguments.samples is not None and arguments.samples < 2:
        raise UserError(f"--samples must be at least 2, not {arguments.samples}")
    task, weights, newest = open_run(arguments.run, arguments.device)
    task.folder.lock()
    figures = task.evaluate(weights, arguments.samples or task.config.evaluation.samples)
    summary = task.folder.summary() | figures | {"evaluated_checkpoint": newest.name}
    task.folder.write_summary(summary)
    page = build_report(task.folder.path)
    print_result(summary)
    print(f"report: {page}")
    return 0
