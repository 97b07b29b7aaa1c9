"""``scorefield evaluate RUN``: measure a run's newest weights anew and rebuild its page."""

import argparse

from scorefield import mirror


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The verb's own flags."""
    parser.add_argument("run", type=mirror.place, help="run folder")
    parser.add_argument("--samples", type=int, help="pictures, or held-out prompts; as configured if left out")
    parser.add_argument("--features", help='"judge", or a feature network: Inception weights (.pth), hub:inception …')
    parser.add_argument("--reference", help="an .npz of feature statistics (mu, sigma) to compare with")
    parser.add_argument("--save-reference", help="where to write the statistics of the real pictures (.npz)")
    parser.add_argument("--nearest", type=int, help="show so many pictures beside the nearest real ones")
    parser.add_argument("--device", default="auto")


def execute(arguments: argparse.Namespace) -> int:
    """Measure, update summary.json, rebuild the report."""
    from scorefield.commands.common import open_run
    from scorefield.commands.run import print_result
    from scorefield.errors import UserError
    from scorefield.processes import is_main
    from scorefield.report.page import build_report

    if arguments.samples is not None and arguments.samples < 2:
        raise UserError(f"--samples must be at least 2, not {arguments.samples}")
    task, weights, newest = open_run(arguments.run, arguments.device)
    adapt(task, arguments)
    if is_main():
        task.folder.lock()
    figures = task.evaluate(weights, arguments.samples or task.config.evaluation.samples)
    if not is_main():  # the others drew and read their share of the pictures
        return 0
    summary = task.folder.summary() | figures | {"evaluated_checkpoint": newest.name}
    task.folder.write_summary(summary)
    page = build_report(task.folder.path)
    print_result(summary)
    print(f"report: {page}")
    return 0


def adapt(task, arguments: argparse.Namespace) -> None:
    """Measure as the flags say, with all else as configured; UserError for what this task or its files cannot."""
    from scorefield.errors import UserError

    settings = task.config.evaluation
    for name in ("features", "reference", "save_reference", "nearest"):
        value = getattr(arguments, name)
        if value is None:
            continue
        if not hasattr(settings, name):
            raise UserError(f"task {task.name} is measured as configured: it knows no --{name.replace('_', '-')}")
        setattr(settings, name, value)
    if hasattr(settings, "check"):
        settings.samples = arguments.samples or settings.samples
        settings.check()
