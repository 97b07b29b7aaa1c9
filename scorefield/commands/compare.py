"""``scorefield compare FILE``: the same task, start, seeds and budget for several variants, side by side."""

import argparse
import os
import shlex
import sys
import time
from pathlib import Path
from typing import Any

from scorefield.errors import UserError


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The verb's own flags."""
    parser.add_argument(
        "overrides",
        nargs="*",
        default=[],
        metavar="FILE key=value",
        help="a comparison's YAML file or name (configs/compare); then overrides for all variants",
    )
    parser.add_argument(
        "--variant",
        action="append",
        default=[],
        metavar='"NAME: key=value …"',
        help="one more variant; several of them make a file unnecessary",
    )
    parser.add_argument("--task", help="a task's name or folder; the file's, or text_to_image, if left out")
    parser.add_argument("--config", help="YAML preset of the task; the file's, or its default, if left out")
    parser.add_argument("--seeds", help="for example 0,1,2")
    parser.add_argument(
        "--budget", help="images=N, network_evaluations=N or minutes=M (of iterations), spent by every run"
    )
    parser.add_argument("--out", type=Path, help="folder; runs/compare-NAME-TIME if left out")
    parser.add_argument("--jobs", type=int, default=1, help="runs at once; more than 1 suits a GPU")
    parser.add_argument(
        "--resume", action="store_true", help="go on in --out; without FILE, with what it was asked before"
    )
    parser.add_argument("--dry-run", action="store_true", help="check everything, print runs and cost, and stop")


def say(text: str) -> None:
    """Status goes to stderr."""
    print(text, file=sys.stderr, flush=True)


def read_request(arguments: argparse.Namespace):
    """The ``Spec`` that file and flags ask for; the flags go before the file. Raises UserError.

    A resumed comparison without a file is what its folder says, with the given variants added (or, of the same name,
    in the place of the old ones).
    """
    from scorefield.compare import spec as asked
    from scorefield.files import read_json

    words = list(arguments.overrides)
    files = [word for word in words if "=" not in word or (word.endswith((".yaml", ".yml")) and Path(word).is_file())]
    common = [word for word in words if word not in files]
    if len(files) > 1:
        raise UserError(f"one comparison at a time: {files[0]} or {files[1]}")
    if files:
        spec = asked.read(asked.find(files[0]))
    elif arguments.resume:
        spec = asked.Spec.from_dict(read_json(arguments.out / "comparison.json")["asked"])
        common = [word for word in common if word not in spec.common]
    else:
        spec = asked.Spec()
    given = [asked.variant_of_text(text) for text in arguments.variant]
    if arguments.resume and not files:
        spec.variants = [v for v in spec.variants if v.name not in {new.name for new in given}]
    for variant in given:
        spec.add(variant)
    refuse_vain(spec, common)
    spec.common += asked.overrides_of(common, "the command line")
    spec.task, spec.config = arguments.task or spec.task, arguments.config or spec.config
    if arguments.seeds is not None:
        spec.seeds = asked.seeds_of(arguments.seeds)
    if arguments.budget is not None:
        spec.budget = asked.budget_of(arguments.budget)
    return spec


def refuse_vain(spec, words: list[str]) -> None:
    """Raise UserError for an override of the command line that every variant overrides again."""
    own = [{word.partition("=")[0] for word in variant.overrides} for variant in spec.variants]
    for word in words:
        if own and all(word.partition("=")[0] in keys for keys in own):
            raise UserError(f"{word} would have no effect: every variant sets {word.partition('=')[0]} itself")


def execute(arguments: argparse.Namespace) -> int:
    """Compare; returns 0, 1 when a variant failed, 128 + signal when stopped."""
    from scorefield.compare import plan as planning
    from scorefield.compare import runner as running
    from scorefield.runfolder import default_folder

    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    if arguments.resume and arguments.out is None:
        raise UserError("--resume needs --out, the folder of the comparison to go on with")
    if arguments.jobs < 1:
        raise UserError(f"--jobs must be at least 1, not {arguments.jobs}")
    spec = read_request(arguments)
    plan = planning.make_plan(spec)
    out = arguments.out or default_folder(spec.name if spec.name == "compare" else f"compare-{spec.name}")
    if arguments.dry_run:
        print("\n".join(plan.lines(out)))
        return 0
    folder = running.open_folder(out, [job.folder for job in plan.jobs(out)], arguments.resume)
    try:
        return compare(plan, out, arguments.jobs)
    finally:
        folder.release()


def history(out: Path, at_once: int) -> dict[str, Any]:
    """When it was first started, and every command so far."""
    from scorefield.report.source import load_json

    before = load_json(out / "comparison.json", {})
    command = " ".join(["scorefield", *(shlex.quote(word) for word in sys.argv[1:])])
    said = [*str(before.get("command") or "").splitlines(), command]
    started = before.get("started") or time.strftime("%Y-%m-%dT%H:%M:%S%z")
    return {"at_once": at_once, "started": started, "command": "\n".join(dict.fromkeys(said))}


def compare(plan, out: Path, at_once: int) -> int:
    """Run what is missing, keeping tables and page up to date, and say what came out."""
    from scorefield.compare import runner as running
    from scorefield.compare.page import build_page
    from scorefield.compare.progress import CompareProgress
    from scorefield.compare.table import markdown_text, write_all

    extra = history(out, at_once)
    if "minutes" in plan.spec.budget:
        extra["seconds_per_evaluation"] = speed = running.known_speed(plan, out, at_once, say)
        plan.set_speed(speed)
    jobs = plan.jobs(out)
    for job in jobs:
        running.refuse_changed(plan, job)
    say("\n".join(plan.lines(out)))

    def changed(job) -> None:
        progress.ended(job)
        build_page(plan, jobs, write_all(plan, jobs, out, extra), out)

    write_all(plan, jobs, out, extra)
    with CompareProgress(len(jobs)) as progress:
        runner = running.Runner(plan, jobs, out, at_once, progress.show, changed)
        stopped = runner.run()
    table = write_all(plan, jobs, out, extra)
    page = build_page(plan, jobs, table, out)
    print(markdown_text(plan, table))
    print(f"page: {page}")
    if stopped:
        say(f"stopped; go on with: scorefield compare --out {out} --resume")
        return 128 + stopped
    failed = [job for job in jobs if job.state == "failed"]
    for job in failed:
        say(f"failed: {job.name}: {job.error} (see {out / 'logs' / job.name}.log)")
    return 1 if failed else 0
