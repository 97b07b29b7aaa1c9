"""``scorefield run TASK``: train, measure, report."""

import argparse
import os
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from scorefield import config as configuration
from scorefield import mirror
from scorefield.commands.common import build_config, check_task, preset_name, resolve_device, usual_preset
from scorefield.errors import UserError
from scorefield.files import read_json, write_text
from scorefield.plugins import lasting_name, load_task
from scorefield.processes import check_launch, is_main, world
from scorefield.runfolder import RunFolder, default_folder


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The verb's own flags."""
    parser.add_argument("task", help="a task's name or folder, for example tasks/text_to_image")
    parser.add_argument("--config", type=Path, help="YAML preset; configs/TASK/default.yaml if left out")
    parser.add_argument("--out", type=mirror.place, help="run folder or URL; runs/TASK-TIME if left out")
    parser.add_argument("--resume", action="store_true", help="go on from the newest whole checkpoint in --out")
    parser.add_argument(
        "--dry-run", action="store_true", help="check everything, print the plan with its cost in memory, and stop"
    )
    parser.add_argument("--device-memory", metavar="SIZE", help="with --dry-run: plan for a GPU of 80GB, say")
    parser.add_argument("--devices", type=int, help="with --dry-run: plan for that many; those at hand if left out")
    parser.add_argument("overrides", nargs="*", default=[], metavar="key=value", help="such as training.iterations=100")


def say(text: str) -> None:
    """Status goes to stderr, beside the progress line; one of several processes speaks."""
    if is_main():
        print(text, file=sys.stderr, flush=True)


def execute(arguments: argparse.Namespace) -> int:
    """Run or resume; returns the exit status."""
    from scorefield.monitors.watch import Watch
    from scorefield.training import optimizers, trackers

    started = time.monotonic()
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    if arguments.resume and arguments.out is None:
        raise UserError("--resume needs --out, the run folder to go on with")
    task_class = load_task(arguments.task)
    config = build_config(task_class, arguments.config, arguments.overrides)
    usual = usual_preset(task_class, arguments.overrides)
    check_launch(config.training.batch, config.training.accumulation)
    by_hand = arguments.dry_run and arguments.device_memory  # for a device that need not be here
    device = "cpu" if by_hand else resolve_device(config.training.device)
    folder = RunFolder(arguments.out or agreed(default_folder(task_class.name)))
    if (copy := mirror.of(folder.path)) is not None:
        copy.open()
    task = task_class(config, folder, device)
    task.say = say
    if arguments.dry_run:
        task.stand_in()
    elif arguments.device_memory or arguments.devices is not None:
        raise UserError("--device-memory and --devices plan a run: give --dry-run as well")
    check_task(task)
    Watch(config.monitors, config.training.iterations)  # refuses unknown monitors
    trackers.check(config.trackers)
    optimizers.check(config.training)
    if arguments.config is None and usual != "default":
        say(f"settings: the preset {usual}, as the default is made for the networks that come along")
    if arguments.dry_run:
        from scorefield.commands.plan import print_plan

        if is_main():
            target = config.training.device.replace("auto", "cuda") if by_hand else device
            devices = world() if arguments.devices is None else arguments.devices
            print_plan(task, target, arguments.device_memory, devices)
        return 0
    if is_main():
        prepare_folder(folder, config, arguments, task.inputs(), usual)
    try:
        with apart(task):
            return train(task, folder, arguments, device, started)
    finally:
        folder.release()


def agreed(path: Path) -> Path:
    """The first process's choice in all of them: names made of the time differ."""
    import torch.distributed as dist

    chosen = [path]
    if dist.is_available() and dist.is_initialized():
        dist.broadcast_object_list(chosen)
    return chosen[0]


@contextmanager
def apart(task) -> Iterator[None]:
    """Let all but the first of several processes draw and measure into a folder that is thrown away."""
    if is_main():
        yield
        return
    with tempfile.TemporaryDirectory() as scratch:
        cache = task.folder.cache  # which all make together
        task.folder = RunFolder(Path(scratch))
        task.folder.cache = cache
        yield


def prepare_folder(
    folder: RunFolder, config, arguments: argparse.Namespace, inputs: dict[str, str], usual: str
) -> None:
    """Lock the folder, refuse to overwrite another run, and write down what is about to happen."""
    copy = mirror.of(folder.path)
    if copy is not None and arguments.resume:
        copy.pull()
    used = (folder.path / "config.yaml").exists() or (copy is not None and copy.exists())
    if used and not arguments.resume:
        name = mirror.name_of(folder.path)
        raise UserError(f"{name} already holds a run: give --resume to go on with it, or another --out")
    folder.lock()
    text = configuration.to_yaml(config)
    if used and list(folder.checkpoints.glob("iteration-*")):
        refuse_changes(folder, config)
        refuse_other_inputs(folder, inputs)
    folder.write_config(text)
    write_text(folder.path / "task.txt", lasting_name(arguments.task) + "\n")
    preset = preset_name(arguments.config, config.task, usual)
    folder.write_environment(config.training.seed, device_name(config.training.device), preset, inputs)
    folder.publish()


def refuse_other_inputs(folder: RunFolder, inputs: dict[str, str]) -> None:
    """What a run learns from may not change under it, such as the lines of its prompt file."""
    before = read_json(folder.path / "environment.json").get("inputs", {})
    for key, digest in before.items():
        if inputs.get(key, digest) != digest:
            raise UserError(
                f"{folder.path} was started with other inputs: {key} does not give what it gave then; bring that"
                " back, or start anew"
            )


def device_name(asked: str) -> str:
    """The device that a run is on, with the name of the GPU: "cpu", "cuda (NVIDIA H100 80GB HBM3)"."""
    device = resolve_device(asked)
    if device != "cuda":
        return device
    import torch

    return f"{device} ({torch.cuda.get_device_name()})"


def refuse_changes(folder: RunFolder, config) -> None:
    """Only how long to train, how often to look and how to measure may change in a run that goes on."""
    from omegaconf import OmegaConf

    # read through the schema: a key that the run's own version did not have yet stands at its default
    before = configuration.load(type(config), folder.path / "config.yaml")

    free = (
        "training.iterations",
        "training.log_every",
        "training.device",
        "training.ema_device",
        "checkpoints.",
        "evaluation.",
        "monitors.",
        "trackers",
        "assets.",
        "prompts.cache",
        "prompts.resident_gb",
    )
    old, new = (dict(OmegaConf.to_container(OmegaConf.structured(c)) or {}) for c in (before, config))  # type: ignore[arg-type]
    changed = [
        c for c in configuration.differences(old, new) if not c.startswith(free) or c.startswith("evaluation.prompts")
    ]
    if changed:
        raise UserError(
            f"{folder.path} was started with other settings: {'; '.join(changed)}; resume with the same, or start anew"
        )


def passes_per_iteration(loss, training) -> float:
    """Cost of one iteration per image in forward passes (a parameter gradient is 3, an input gradient 2)."""
    from scorefield.training import evaluations

    shared = training.accumulation == 1 and not training.fresh_samples
    teacher = evaluations.passes(loss, training.guidance_scale) * (2 if loss.needs_jacobian else 1)
    online = (1 if training.online_guidance_scale == 1 else 2) * (2 if loss.needs_jacobian else 1)
    online = online if loss.needs_online else 0
    trained = 3 if training.online_training_guidance_scale == 1 else 6
    trained += evaluations.branches_at(training.guidance_scale) if loss.online_pull else 0
    updates = training.online_updates * (trained if shared else trained + 1) if loss.needs_online else 0
    return 3 + updates + teacher + online


def train(task, folder: RunFolder, arguments: argparse.Namespace, device: str, started: float) -> int:
    """The heavy part."""
    from scorefield.report.page import build_report
    from scorefield.training.peers import PeerLost, unlike_devices, watched
    from scorefield.training.session import Session, Stopped
    from scorefield.training.signals import Interrupted, raised

    say(f"run folder: {folder.path}")
    again = f"scorefield run {arguments.task} --out {mirror.name_of(folder.path)} --resume"
    try:
        with raised():
            session = Session(task, task.build(), folder, say)
    except Interrupted as stop:
        say(f"stopped by {stop} before the first iteration: go on with: {again}")
        return stop.status
    together = True  # until the measurements, all processes stop where one does
    try:
        with watched(session, again):
            if warning := unlike_devices(session.trainer.device):
                say(f"warning: {warning}")
            if arguments.resume and not session.resume():
                say("no checkpoint to resume from: starting afresh")
            session.run()
            together = False
            say("measuring")
            overhead = session.overhead()
            with raised(), session.averaged() as generator:
                figures = task.finish(generator)
    except Interrupted as stop:
        say(f"stopped by {stop}, saved at iteration {session.iteration}")
        say(f"go on with: {again}")
        wind_up(folder, together)
        return stop.status
    except Stopped as stop:
        say(f"{stop}; the report shows the figures; change the settings, or go on with --resume monitors.action=warn")
        wind_up(folder, together)
        return stop.status
    except PeerLost as lost:
        print(f"scorefield: {lost}", file=sys.stderr, flush=True)  # whoever is left: the first may be the one lost
        return lost.status
    if not is_main():
        return 0
    summary = session.totals() | overhead | figures
    summary["training_seconds"] = summary["wall_seconds"]
    summary["wall_seconds"] = round(time.monotonic() - started, 2)
    folder.write_summary(summary)
    page = build_report(folder.path)
    print_result(summary)
    print(f"report: {page}")
    return 0


def wind_up(folder: RunFolder, together: bool) -> None:
    """The page and the last copy of a run that was stopped; the other processes wait for the first one where all stop.

    A launcher ends all processes once one has left with a status of its own: the first may still be copying then.
    """
    import torch.distributed as dist

    from scorefield.report.page import build_report

    if is_main():
        build_report(folder.path)
        mirror.finish()
    if together and dist.is_initialized():
        with suppress(RuntimeError):  # a process that died meanwhile: what it is waited for is done
            dist.barrier()


def print_result(summary: dict) -> None:
    """The table that ends a run."""
    rows = [
        (who, summary[who])
        for who in ("real", "network", "teacher", "before", "after", "start", "student")
        if who in summary
    ]
    rows += (summary.get("peers") or {}).items()
    known = ["steps", "prompt_accuracy", "label_accuracy", "frechet", "kid", "inception_score"]
    known += ["precision", "recall", "diversity", *(summary.get("scores") or {}), "seconds_per_image"]
    keys = [key for key in known if any(row.get(key) is not None for _, row in rows)]
    if not rows or not keys:
        return
    names = {"frechet": str(summary.get("frechet_name") or "frechet")}
    width = max(8, *(len(who) + 1 for who, _ in rows))
    print(f"{'':{width}}" + "".join(f"{names.get(key, key):>19}" for key in keys))
    for who, row in rows:
        cells = [row.get(key) for key in keys]
        texts = ["" if c is None else str(c) if isinstance(c, int) else f"{c:.4f}" for c in cells]
        print(f"{who:{width}}" + "".join(f"{text:>19}" for text in texts))
