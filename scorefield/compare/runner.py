"""Runs of a comparison as subprocesses of the public ``run`` command: some at once, resumable, failures kept apart."""

import os
import signal
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from scorefield import config as configuration
from scorefield.compare.plan import Job, Plan
from scorefield.errors import UserError
from scorefield.report.source import load_json, load_lines, number
from scorefield.runfolder import RunFolder

PROBE_LINES, PROBE_SECONDS = 8, 300.0  # logged iterations that a speed is read from, and when to give up
MAY_CHANGE = ("training.iterations", "training.log_every", "training.device", "checkpoints.")  # in a resumed run
SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)


def command(plan: Plan, job: Job, out: Path, words: list[str]) -> list[str]:
    """The ``scorefield run`` of one job; it goes on where the folder already holds a run."""
    preset = ["--config", plan.spec.config] if plan.spec.config else []
    resume = ["--resume"] if (out / "config.yaml").exists() else []
    return [sys.executable, "-m", "scorefield", "run", plan.spec.task, "--out", str(out), *preset, *resume, *words]


def environment(jobs: int, gpu: str | None = None) -> dict[str, str]:
    """Environment of the runs: this very package, the cores shared out among runs at once, and the ``gpu`` to see."""
    package = str(Path(__file__).resolve().parents[2])
    paths = [package, *filter(None, [os.environ.get("PYTHONPATH")])]
    threads = {} if jobs == 1 else {"OMP_NUM_THREADS": str(max(1, (os.cpu_count() or 1) // jobs))}
    sees = {} if gpu is None else {"CUDA_VISIBLE_DEVICES": gpu}
    return threads | dict(os.environ) | {"PYTHONPATH": os.pathsep.join(paths)} | sees


def visible_gpus() -> list[str]:
    """What CUDA_VISIBLE_DEVICES may name, one entry a GPU that this process sees; empty without any."""
    import torch

    given = [name for name in os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",") if name]
    return given or [str(number) for number in range(torch.cuda.device_count())]


def finished(job: Job) -> bool:
    """Whether the run has its summary, of all the iterations that are asked for now."""
    done = number(load_json(job.folder / "summary.json", {}).get("iterations"))
    return done is not None and done >= job.variant.iterations


def refuse_changed(plan: Plan, job: Job) -> None:
    """Raise UserError when the job's folder holds a run with other settings, and more of it than its beginning."""
    import yaml

    path = job.folder / "config.yaml"
    begun = (job.folder / "summary.json").exists() or any((job.folder / "checkpoints").glob("iteration-*"))
    if not path.exists() or not begun:
        return
    old, new = (yaml.safe_load(t) or {} for t in (path.read_text(), configuration.to_yaml(plan.resolved(job))))
    if changed := [c for c in configuration.differences(old, new) if not c.startswith(MAY_CHANGE)]:
        raise UserError(
            f"{job.folder} was run with other settings: {'; '.join(changed)}; give the variant another name, "
            "or compare into another --out"
        )


class Runner:
    """Works through jobs; ``changed`` is called when one ends, so that tables and page follow.

    Args:
        plan: what to run. jobs: as made by ``Plan.jobs``. out: the comparison's folder. at_once: processes at a time.
        show: gets this runner now and then, for the progress line. changed: called after a run has ended.
    """

    def __init__(
        self,
        plan: Plan,
        jobs: list[Job],
        out: Path,
        at_once: int = 1,
        show: Callable[["Runner"], Any] = lambda runner: None,
        changed: Callable[[Job], Any] = lambda job: None,
    ):
        self.plan, self.jobs, self.out, self.at_once = plan, jobs, out, at_once
        self.show, self.changed = show, changed
        self.processes: dict[str, subprocess.Popen] = {}
        self.gpus = visible_gpus()
        self.gpu_of: dict[str, str] = {}
        self.log_starts: dict[str, int] = {}
        self.signal = 0
        self.started = time.monotonic()
        self.work_before = 0.0

    # ------------------------------------------------------------------ the loop

    def run(self, poll: float = 0.25) -> int:
        """Run what is not finished; returns the number of the signal that stopped it, 0 without one."""
        for job in self.jobs:
            job.state = "done" if finished(job) else "waiting"
        self.work_before = self.work_done()
        old = {number: signal.signal(number, self._note) for number in SIGNALS}
        try:
            while not self.signal and any(job.state in ("waiting", "running") for job in self.jobs):
                self._start_some()
                self._reap()
                self.show(self)
                time.sleep(poll)
        finally:
            self._stop_all()
            for number_, handler in old.items():
                signal.signal(number_, handler)
        self.show(self)
        return self.signal

    def _note(self, number: int, frame: Any) -> None:
        self.signal = number

    def _start_some(self) -> None:
        states = {job.name: job for job in self.jobs}
        for job in self.jobs:
            if job.state != "waiting":
                continue
            starts = [states[f"{name}-seed{job.seed}"] for name in job.variant.starts]
            if broken := [s.name for s in starts if s.state == "failed"]:
                self._end(job, "failed", f"{broken[0]}, which it starts from, failed")
            elif len(self.processes) < self.at_once and all(s.state == "done" for s in starts):
                self._start(job)

    def _least_used_gpu(self, name: str) -> str | None:
        """The GPU on which fewest runs are going on, noted for the run ``name``; None where there is no choice."""
        if len(self.gpus) < 2 or self.at_once < 2:
            return None
        busy = [self.gpu_of[other] for other in self.processes if other in self.gpu_of]
        self.gpu_of[name] = min(self.gpus, key=busy.count)
        return self.gpu_of[name]

    def _start(self, job: Job) -> None:
        log = self.out / "logs" / f"{job.name}.log"
        log.parent.mkdir(parents=True, exist_ok=True)
        with log.open("ab") as file:
            self.log_starts[job.name] = file.tell()
            self.processes[job.name] = subprocess.Popen(
                command(self.plan, job, job.folder, self.plan.words(job)),
                stdin=subprocess.DEVNULL,
                stdout=file,
                stderr=subprocess.STDOUT,
                env=environment(self.at_once, self._least_used_gpu(job.name)),
                start_new_session=True,  # Ctrl-C reaches this process alone, which passes it on once
            )
        job.state = "running"

    def _reap(self) -> None:
        for job in self.jobs:
            process = self.processes.get(job.name)
            if process is None or process.poll() is None:
                continue
            del self.processes[job.name]
            if process.returncode == 0 and finished(job):
                self._end(job, "done")
            else:
                self._end(job, "failed", self.last_line(job) or f"ended with status {process.returncode}")

    def _end(self, job: Job, state: str, error: str = "") -> None:
        job.state, job.error = state, error
        self.changed(job)

    def last_line(self, job: Job) -> str:
        """What the run said last, without the command's name."""
        with (self.out / "logs" / f"{job.name}.log").open("rb") as file:
            file.seek(self.log_starts.get(job.name, 0))
            lines = file.read().decode("utf-8", "replace").split("\n")
        said = [line.strip() for line in lines if line.strip()]
        return said[-1].removeprefix("scorefield: ")[:300] if said else ""

    def _stop_all(self, patience: float = 120.0) -> None:
        """Let running runs save themselves; kill those that do not end."""
        for process in self.processes.values():
            process.terminate()
        for job in self.jobs:
            if job.name in self.processes:
                process = self.processes.pop(job.name)
                try:
                    process.wait(patience)
                except subprocess.TimeoutExpired:
                    process.kill()
                    process.wait()
                job.state = "done" if finished(job) else "stopped"

    # ------------------------------------------------------------------ how far it is

    def share(self, job: Job) -> float:
        """Part of a run that is done, 0 to 1, by its metrics."""
        if job.state in ("done", "failed"):
            return 1.0
        if job.state == "waiting":
            return 0.0
        return min(1.0, last_iteration(job.folder) / max(1, job.variant.iterations))

    def work(self) -> float:
        """Network evaluations of all runs."""
        return sum(job.variant.network_evaluations for job in self.jobs)

    def work_done(self) -> float:
        return sum(self.share(job) * job.variant.network_evaluations for job in self.jobs)

    def seconds_left(self) -> float | None:
        """Estimate from the network evaluations done since the start; None while there are none."""
        done = self.work_done() - self.work_before
        spent = time.monotonic() - self.started
        return None if done <= 0 or spent < 5 else spent * (self.work() - self.work_done()) / done


def last_iteration(folder: Path) -> int:
    """Iteration of the last whole line of metrics.jsonl, 0 without one; reads the file's end only."""
    import json

    try:
        with open(folder / "metrics.jsonl", "rb") as file:
            file.seek(max(0, file.seek(0, os.SEEK_END) - 4096))
            lines = file.read().split(b"\n")[:-1]
        return int(json.loads(lines[-1])["iteration"])
    except (OSError, IndexError, ValueError, KeyError, TypeError):
        return 0


def measure_speed(plan: Plan, out: Path, at_once: int) -> float:
    """Seconds per network evaluation of one run, from the first iterations of the first variant.

    As many probes run at once as runs will, so that they share the machine as the runs will.
    Raises UserError when a probe ends before it has said enough.
    """
    variant, copies = plan.variants[0], min(at_once, len(plan.variants) * len(plan.spec.seeds))
    folders = [out / "probe" / str(number) for number in range(copies)]
    processes: list[subprocess.Popen] = []
    speeds: list[float] = []
    for folder in folders:
        job = Job(variant, plan.spec.seeds[0], folder)
        words = [*variant.words, "training.iterations=1000000", "training.log_every=1", "checkpoints.every=1000000"]
        folder.mkdir(parents=True, exist_ok=True)
        with (folder / "probe.log").open("wb") as log:
            line = command(plan, job, folder, words)
            processes.append(subprocess.Popen(line, stdout=log, stderr=log, env=environment(at_once)))
    try:
        end = time.monotonic() + PROBE_SECONDS
        while len(speeds) < copies:
            speeds = [s for folder in folders if (s := probe_speed(folder)) is not None]
            if any(process.poll() is not None for process in processes) or time.monotonic() > end:
                said = load_tail(folders[0] / "probe.log")
                raise UserError(f"cannot measure the speed for a budget of minutes: {said}")
            time.sleep(0.1)
    finally:
        for process in processes:
            process.kill()
            process.wait()
    return 1 / (statistics.mean(speeds) * variant.passes)


def probe_speed(folder: Path) -> float | None:
    """Median images per second of the logged iterations after the first two; None while there are too few."""
    values = [v for r in load_lines(folder / "metrics.jsonl") if (v := number(r.get("images_per_sec"))) is not None]
    return statistics.median(values[2:]) if len(values) >= PROBE_LINES else None


def load_tail(path: Path) -> str:
    """Last line of a log."""
    lines = path.read_text(errors="replace").split("\n") if path.exists() else []
    return next((line.strip().removeprefix("scorefield: ") for line in reversed(lines) if line.strip()), "no answer")


def known_speed(plan: Plan, out: Path, at_once: int, say: Callable[[str], Any]) -> float:
    """Seconds per network evaluation: as stored by an earlier start (iterations must not change), else measured."""
    import shutil

    stored = number(load_json(out / "comparison.json", {}).get("seconds_per_evaluation"))
    if stored is not None:
        return stored
    say("measuring the speed for the budget of minutes")
    shutil.rmtree(out / "probe", ignore_errors=True)
    try:
        return measure_speed(plan, out, at_once)
    finally:
        shutil.rmtree(out / "probe", ignore_errors=True)


def open_folder(out: Path, runs: list[Path], resume: bool) -> RunFolder:
    """The comparison's folder, locked; raises UserError when it is in use, or holds a run and is not resumed."""
    if out.exists() and not out.is_dir():
        raise UserError(f"{out} is a file: name a folder with --out")
    used = [path for path in (out / "comparison.json", *(run / "config.yaml" for run in runs)) if path.exists()]
    if used and not resume:
        what = "a comparison" if used[0].parent == out else f"the run {used[0].parent.name}"
        raise UserError(f"{out} already holds {what}: give --resume to go on with it, or another --out")
    folder = RunFolder(out)
    folder.lock()
    return folder
