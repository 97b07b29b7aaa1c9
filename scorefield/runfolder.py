"""The run folder: configuration, environment, metrics, pictures, checkpoints, summary and report of one run."""

import fcntl
import json
import os
import platform
import re
import shlex
import shutil
import subprocess
import sys
import time
from importlib import metadata
from pathlib import Path
from typing import IO, Any

from scorefield import mirror
from scorefield.errors import UserError
from scorefield.files import make_folder, read_json, write_json, write_text

PACKAGES = ("torch", "diffusers", "transformers", "accelerate", "peft", "safetensors", "omegaconf", "numpy")


class RunFolder:
    """One run's folder; paths of everything that people and scripts rely on.

    Attributes:
        path: the folder. checkpoints, samples, evaluation: its sub-folders.
        cache: what is made before training; the same one in all processes of a run.
    """

    def __init__(self, path: Path):
        self.path = Path(path)
        self.checkpoints, self.samples = self.path / "checkpoints", self.path / "samples"
        self.evaluation, self.export = self.path / "evaluation", self.path / "export"
        self.cache = self.path / "cache"
        self.metrics_file = self.path / "metrics.jsonl"
        self._lock: IO[str] | None = None

    @classmethod
    def existing(cls, path: Path) -> "RunFolder":
        """A folder that a run has written; raises UserError when it is not one."""
        if (copy := mirror.of(path)) is not None:
            copy.pull()
        if not Path(path).is_dir():
            raise UserError(f"run folder {mirror.name_of(path)} does not exist")
        if not (Path(path) / "config.yaml").exists():
            raise UserError(f"{path} is not a run folder: it holds no config.yaml")
        return cls(path)

    def publish(self) -> None:
        """Copy what is finished to where the folder is mirrored, in the background; nothing where it is not."""
        if (copy := mirror.of(self.path)) is not None:
            copy.push()

    def lock(self) -> None:
        """Hold the folder until this process ends, however it ends; raises UserError if another holds it."""
        make_folder(self.path)
        self._lock = open(self.path / ".lock", "a+")  # noqa: SIM115 (held open on purpose)
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            self._lock.seek(0)
            owner = self._lock.read().strip()
            self._lock.close()
            raise UserError(f"run folder {self.path} is in use by another process ({owner})") from error
        self._lock.truncate(0)
        self._lock.write(f"process {os.getpid()}")
        self._lock.flush()

    def release(self) -> None:
        """Let go of the lock."""
        if self._lock is not None:
            self._lock.close()
            self._lock = None

    def config_text(self) -> str:
        return (self.path / "config.yaml").read_text()

    def write_config(self, text: str) -> None:
        write_text(self.path / "config.yaml", text)

    def write_environment(self, seed: int, device: str, preset: str = "", inputs: dict[str, str] | None = None) -> None:
        """Versions, machine, git revision, command, preset (TASK/NAME) and digests of inputs, as they are now."""
        record = environment() | {"seed": seed, "device": device, "preset": preset, "inputs": inputs or {}}
        write_json(self.path / "environment.json", record)

    def append_metrics(self, record: dict[str, Any]) -> None:
        """One line of metrics.jsonl."""
        try:
            with open(self.metrics_file, "a") as file:
                file.write(json.dumps(record) + "\n")
        except OSError as error:
            raise UserError(f"cannot write {self.metrics_file}: {error.strerror}") from error

    def metrics(self) -> list[dict[str, Any]]:
        """All whole lines of metrics.jsonl."""
        if not self.metrics_file.exists():
            return []
        records = []
        for line in self.metrics_file.read_text().splitlines():
            try:
                records.append(json.loads(line))
            except json.JSONDecodeError:
                continue  # a line cut off by a killed process
        return records

    def forget_after(self, iteration: int) -> None:
        """Drop metrics and sample pictures beyond the checkpoint that a resumed run goes on from (-1: all).

        What a killed process had half written goes as well.
        """
        if self.metrics_file.exists():
            kept = [r for r in self.metrics() if r.get("iteration", 0) <= iteration]
            write_text(self.metrics_file, "".join(json.dumps(r) + "\n" for r in kept))
        for path in self.samples.glob("iteration-*"):
            number = re.match(r"iteration-(\d+)", path.name)
            if number and int(number.group(1)) > iteration:
                path.unlink()
        for path in [*self.checkpoints.glob(".*.part"), *self.samples.glob(".*.part"), *self.path.glob(".*.part")]:
            if path.is_file():
                path.unlink()
            elif path.parent == self.checkpoints:  # an export under way beside the run is not ours to remove
                shutil.rmtree(path)

    def summary(self) -> dict[str, Any]:
        """summary.json, or {} before the run has written it."""
        path = self.path / "summary.json"
        return read_json(path) if path.exists() else {}

    def write_summary(self, values: dict[str, Any]) -> None:
        write_json(self.path / "summary.json", values)


def default_folder(task: str) -> Path:
    """runs/TASK-TIME, a folder that does not exist yet."""
    stem = Path("runs") / f"{task}-{time.strftime('%Y%m%d-%H%M%S')}"
    path, number = stem, 1
    while path.exists():
        path, number = Path(f"{stem}-{number}"), number + 1
    return path


def environment() -> dict[str, Any]:
    """What a reader needs to repeat a run: versions, machine, git revision, command line."""
    versions = {"python": platform.python_version()}
    for name in ("scorefield", *PACKAGES):
        try:
            versions[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            versions[name] = "not installed"
    return {
        "versions": versions,
        "machine": f"{platform.system()} {platform.machine()}, {os.cpu_count()} cores",
        "git_revision": git_revision(),
        "command": shlex.join(["scorefield", *sys.argv[1:]]),
        "started": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
    }


def git_revision() -> str | None:
    """Commit of the checkout that this package runs from, with "+changes" when it was edited."""
    here = Path(__file__).resolve().parent
    try:
        commit = subprocess.run(["git", "rev-parse", "HEAD"], cwd=here, capture_output=True, text=True, timeout=5)
        if commit.returncode:
            return None
        status = subprocess.run(
            ["git", "status", "--porcelain", "-uno"], cwd=here, capture_output=True, text=True, timeout=5
        )
        return commit.stdout.strip() + ("+changes" if status.stdout.strip() else "")
    except (OSError, subprocess.TimeoutExpired):
        return None


def peak_memory(device: str) -> int:
    """Peak memory of this process in bytes: on the GPU where it trains there, else resident on the host."""
    if device.startswith("cuda"):
        import torch

        return torch.cuda.max_memory_allocated()
    import resource

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024
