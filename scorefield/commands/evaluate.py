"""``scorefield evaluate RUN``: measure a run's newest weights anew and rebuild its page.

A stored network (a .pkl, say) is measured by itself. With ``--pipeline`` any diffusers pipeline is measured on a
run's prompts, and joins its table.
"""

import argparse
from pathlib import Path
from typing import Any

from scorefield import mirror


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The verb's own flags."""
    parser.add_argument(
        "run",
        type=mirror.place,
        help="run folder; or a network by itself: an official .pkl, a converted folder, a pixel-space diffusers folder",
    )
    parser.add_argument("--out", type=Path, help="of a network: file that its figures are written to, as JSON")
    parser.add_argument("--samples", type=int, help="pictures, or held-out prompts; as configured if left out")
    parser.add_argument("--features", help='"judge", or a feature network: Inception weights (.pth), hub:inception …')
    parser.add_argument("--data", help='real pictures: "toybox", an .npz with images and labels, or a folder')
    parser.add_argument("--reference", help="an .npz of feature statistics (mu, sigma) to compare with")
    parser.add_argument("--save-reference", help="where to write the statistics of the real pictures (.npz)")
    parser.add_argument("--nearest", type=int, help="show so many pictures beside the nearest real ones")
    parser.add_argument("--scores", help="of pictures by pretrained models, for example clip,pickscore; none for none")
    parser.add_argument(
        "--score-option",
        action="append",
        default=[],
        metavar="NAME.KEY=VALUE",
        help="where a score's weights lie, for example clip.path=FOLDER; may be repeated",
    )
    parser.add_argument("--device", default="auto")
    parser.add_argument(
        "--pipeline", help="measure this diffusers folder or hub id instead, as a row of the run's table"
    )
    parser.add_argument(
        "overrides",
        nargs="*",
        default=[],
        metavar="key=value",
        help="of a network: steps=18 draws=3 network_key=G_ema …; or how the pipeline is called: steps=1 guidance=0 "
        "scheduler=EulerDiscreteScheduler name=turbo lora=FILE "
        "scheduler_options.timestep_spacing=trailing call.height=512 dtype=float16 variant=fp16 batch=4",
    )


def execute(arguments: argparse.Namespace) -> int:
    """Measure, update summary.json, rebuild the report."""
    from scorefield.commands.common import open_run
    from scorefield.commands.run import apart, print_result, say
    from scorefield.errors import UserError
    from scorefield.processes import is_main
    from scorefield.report.page import build_report

    if arguments.samples is not None and arguments.samples < 2:
        raise UserError(f"--samples must be at least 2, not {arguments.samples}")
    from scorefield.evaluation.stored import is_network

    if is_network(arguments.run) and not arguments.pipeline:
        return measure_network(arguments)
    if arguments.out:
        raise UserError("--out is for the figures of a network by itself; those of a run go to its summary.json")
    if arguments.overrides and not arguments.pipeline:
        raise UserError(f'"{arguments.overrides[0]}" says how a pipeline is called: name one with --pipeline')
    task, weights, newest = open_run(arguments.run, arguments.device)
    adapt(task, arguments)
    if arguments.pipeline:
        return measure_peer(task, arguments)
    if is_main():
        task.folder.lock()
    task.say = say
    with apart(task):
        figures = task.evaluate(weights, arguments.samples or task.config.evaluation.samples)
    if not is_main():  # the others drew and read their share of the pictures
        return 0
    summary = (
        task.folder.summary() | figures | {"evaluated_checkpoint": newest.name, "evaluated_with": asked(arguments)}
    )
    task.folder.write_summary(summary)
    page = build_report(task.folder.path)
    print_result(summary)
    print(f"report: {page}")
    return 0


def measure_network(arguments: argparse.Namespace) -> int:
    """Measure a stored network by itself: print its table, and write it where --out says."""
    from scorefield import config as configuration
    from scorefield.commands.common import resolve_device
    from scorefield.commands.run import print_result
    from scorefield.errors import UserError
    from scorefield.evaluation.stored import StoredConfig, measure
    from scorefield.files import write_json
    from scorefield.processes import is_main

    if arguments.nearest or arguments.scores or arguments.score_option:
        raise UserError("--nearest, --scores and --score-option are for a run, which has a page to show them on")
    flags = {"samples", "features", "data", "reference", "save_reference"}
    told = [f"{name}={value}" for name in sorted(flags) if (value := getattr(arguments, name)) is not None]
    settings = configuration.load(StoredConfig, None, [*told, *arguments.overrides])
    figures = measure(arguments.run, settings, resolve_device(arguments.device))
    if not is_main():  # the others drew and read their share of the pictures
        return 0
    print_result(figures)
    low, high = figures["network"].get("frechet_interval", (None, None))
    spread = "" if low is None else f", 95 % interval {low:.4f} to {high:.4f} over {settings.draws} draws"
    print(f"{figures['frechet_name']} in {figures['feature_network']} against {figures['reference']}{spread}")
    if arguments.out:
        write_json(arguments.out, {"measured": str(arguments.run)} | figures)
        print(f"wrote {arguments.out}")
    return 0


def measure_peer(task, arguments: argparse.Namespace) -> int:
    """Measure a pipeline on the run's prompts and put it into the run's table."""
    from scorefield import config as configuration
    from scorefield.commands.run import print_result
    from scorefield.evaluation.peers import PeerConfig
    from scorefield.report.page import build_report

    settings = configuration.load(PeerConfig, None, [f"pipeline={arguments.pipeline}", *arguments.overrides])
    task.folder.lock()
    row = task.evaluate_peer(settings, arguments.samples or task.config.evaluation.samples)
    row["told"]["evaluated_with"] = asked(arguments)
    summary = task.folder.summary()
    told = row.pop("scores", {})
    if told:
        summary["scores"] = told | (summary.get("scores") or {})
    summary["peers"] = (summary.get("peers") or {}) | {settings.name: row}
    task.folder.write_summary(summary)
    print_result(summary)
    print(f"report: {build_report(task.folder.path)}")
    return 0


def asked(arguments: argparse.Namespace) -> dict[str, Any]:
    """The scores that were asked for on the command line, as the summary keeps them."""
    names = getattr(arguments, "scores", None) or ""
    return {"scores": names.split(",") if names else [], "options": list(getattr(arguments, "score_option", []))}


def adapt(task, arguments: argparse.Namespace) -> None:
    """Measure as the flags say, with all else as configured; UserError for what this task or its files cannot."""
    from scorefield.errors import UserError

    settings = task.config.evaluation
    for name in ("features", "data", "reference", "save_reference", "nearest"):
        value = getattr(arguments, name)
        if value is None:
            continue
        if not hasattr(settings, name):
            raise UserError(f"task {task.name} is measured as configured: it knows no --{name.replace('_', '-')}")
        setattr(settings, name, value)
    adapt_scores(task, arguments.scores, arguments.score_option)
    if hasattr(settings, "check"):
        settings.samples = arguments.samples or settings.samples
        settings.check()


def adapt_scores(task, names: str | None, options: list[str]) -> None:
    """Take --scores and --score-option over what is configured; UserError for what is unknown or not there."""
    from scorefield.errors import UserError

    settings = task.config.evaluation
    if names is None and not options:
        return
    if not hasattr(settings, "check_scores"):
        raise UserError(f"task {task.name} is measured as configured: it knows no --scores")
    if names is not None:
        settings.scores = [] if names == "none" else [name.strip() for name in names.split(",") if name.strip()]
    for text in options:
        place, equals, value = text.partition("=")
        name, dot, key = place.partition(".")
        if not (equals and dot and name and key):
            raise UserError(f'--score-option "{text}" must read NAME.KEY=VALUE, for example clip.path=FOLDER')
        settings.score_options[name] = settings.options_of(name) | {key: value}
    settings.check_scores()
