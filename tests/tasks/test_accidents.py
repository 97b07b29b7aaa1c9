"""Accidents that befall a real run: kills, a full disk, a teacher that answers NaN."""

import json
import os
import random
import resource
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from scorefield.cli import main
from scorefield.denoiser import Denoiser
from scorefield.task import Players
from scorefield.training import checkpoint

ROOT = Path(__file__).resolve().parents[2]
ITERATIONS = 24
SETTINGS = [
    f"training.iterations={ITERATIONS}",
    "training.batch=4",
    "training.log_every=1",
    "training.device=cpu",
    "checkpoints.every=4",
    "evaluation.samples=2",
    "evaluation.teacher_steps=1",
    "evaluation.preview=1",
    "evaluation.judge=none",
    "prompts.count=8",
]


def words(out: Path, *more: str) -> list[str]:
    return ["run", "text_to_image", "--out", str(out), *SETTINGS, *more]


def start(out: Path, *more: str) -> subprocess.Popen:
    command = [sys.executable, "-m", "scorefield", *words(out, *more)]
    environment = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    return subprocess.Popen(
        command, cwd=ROOT, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True
    )


def logged(run: Path) -> list[int]:
    """Iterations in metrics.jsonl; every line but one cut off by a kill must be whole."""
    path = run / "metrics.jsonl"
    whole = [line for line in path.read_text().split("\n")[:-1] if line] if path.exists() else []
    return [json.loads(line)["iteration"] for line in whole]


def wait_until(process: subprocess.Popen, condition) -> None:
    deadline = time.monotonic() + 100
    while not condition():
        assert process.poll() is None, process.stderr.read()
        assert time.monotonic() < deadline
        time.sleep(0.01)


def weights(run: Path) -> dict[str, torch.Tensor]:
    newest = checkpoint.listed(run / "checkpoints")[0]
    assert newest.name == f"iteration-{ITERATIONS:06d}"
    parts = ("generator", "ema", "online")
    return {f"{part}.{k}": v for part in parts for k, v in load_file(newest / f"{part}.safetensors").items()}


@pytest.mark.slow
def test_a_run_killed_three_times_ends_as_one_that_was_not(tmp_path):
    assert main(words(tmp_path / "straight")) == 0
    killed, dice = tmp_path / "killed", random.Random(5)
    for number in range(3):
        process = start(killed, *(["--resume"] if number else []))
        target = 8 * number + dice.randrange(2, 7)
        wait_until(process, lambda target=target: target in logged(killed))
        time.sleep(0.1 * dice.random())
        process.send_signal(signal.SIGKILL)
        process.communicate()
        assert max(logged(killed)) < ITERATIONS
    later = killed / "samples" / f"iteration-{ITERATIONS - 1:06d}.png"
    later.write_bytes(b"left behind by a run that had come further")
    process = start(killed, "--resume")
    _, said = process.communicate(timeout=110)
    assert process.returncode == 0, said
    assert "resuming from iteration-" in said
    assert logged(killed) == list(range(1, ITERATIONS + 1))
    assert not later.exists()
    grids = sorted(path.name for path in (tmp_path / "straight" / "samples").glob("iteration-*"))
    assert sorted(path.name for path in (killed / "samples").glob("iteration-*")) == grids
    assert list(killed.rglob("*.part")) == []
    for name, value in weights(tmp_path / "straight").items():
        assert torch.equal(value, weights(killed)[name]), name
    for name in grids:
        assert (killed / "samples" / name).read_bytes() == (tmp_path / "straight" / "samples" / name).read_bytes()


@pytest.mark.skipif(not hasattr(resource, "prlimit"), reason="needs Linux")
def test_a_disk_that_fills_up_leaves_the_last_checkpoint_whole(tmp_path):
    """The limit on file sizes stands in for the disk: a checkpoint's files are beyond it, small ones are not."""
    process, checkpoints = start(tmp_path / "r"), tmp_path / "r" / "checkpoints"
    wait_until(process, lambda: (checkpoints / "latest.txt").exists())
    resource.prlimit(process.pid, resource.RLIMIT_FSIZE, (500_000, 500_000))
    _, said = process.communicate(timeout=100)
    assert process.returncode == 2, said
    complaints = [line for line in said.splitlines() if line.startswith("scorefield: ")]
    assert len(complaints) == 1
    assert "cannot write checkpoint" in complaints[0]
    assert "--resume" in complaints[0]
    assert said.splitlines()[-1] == complaints[0]
    assert "Traceback" not in said
    folders = [path.name for path in checkpoints.iterdir() if path.is_dir()]
    newest = checkpoint.listed(checkpoints)[0]
    assert folders == [path.name for path in checkpoint.listed(checkpoints)]
    assert checkpoint.damage(newest) == ""
    assert (checkpoints / "latest.txt").read_text().strip() == newest.name


def test_bf16_from_the_command_line(tmp_path):
    """accelerate keeps one precision for a process's life, and the command line asks it for a device first."""
    short = ["training.iterations=3", "training.precision=bf16", "online.kind=lora", "teacher.dtype=bfloat16"]
    assert main(words(tmp_path / "r", *short)) == 0
    records = [json.loads(line) for line in (tmp_path / "r" / "metrics.jsonl").read_text().splitlines()]
    records = [record for record in records if "nan_samples" in record]  # the others are looks
    assert [record["skipped_steps"] + record["nan_samples"] for record in records] == [0, 0, 0]
    assert all(0 < record["x0_gap/rms"] < 10 for record in records)
    saved = tmp_path / "r" / "checkpoints" / "iteration-000003"
    for part in ("generator", "online"):  # what is trained is kept in float32, whatever the teacher is kept in
        trained = {k: v for k, v in load_file(saved / f"{part}.safetensors").items() if not k.startswith("buffer.")}
        assert trained
        for name, value in trained.items():
            assert value.dtype == torch.float32, name
            assert torch.isfinite(value).all(), name


class Poisoned(Denoiser):
    """A teacher that answers NaN for some samples, in its graph too."""

    def __init__(self, denoiser: Denoiser, rows: slice):
        super().__init__()
        self.denoiser, self.rows = denoiser, rows
        self.sigma_min, self.sigma_max = denoiser.sigma_min, denoiser.sigma_max
        self.process = denoiser.process

    def forward(self, x_t, sigma, condition):
        poison = torch.zeros(len(x_t))
        poison[self.rows] = torch.nan
        return self.denoiser(x_t, sigma, condition) * (1 + poison.view(-1, 1, 1, 1))

    def null_condition(self, like):
        return self.denoiser.null_condition(like)


def poison(monkeypatch, rows: slice) -> None:
    from tasks.text_to_image.task import TextToImage

    real = TextToImage.build

    def build(task) -> Players:
        players = real(task)
        return Players(Poisoned(players.teacher, rows), players.online, players.generator)

    monkeypatch.setattr(TextToImage, "build", build)


def test_stray_nans_of_the_teacher_are_counted_and_harmless(tmp_path, monkeypatch):
    poison(monkeypatch, slice(1, 2))
    short = ["training.iterations=4", "training.guidance_scale=1"]
    assert main(words(tmp_path / "r", *short)) == 0
    summary = json.loads((tmp_path / "r" / "summary.json").read_text())
    assert summary["nan_samples"] == 4
    records = [json.loads(line) for line in (tmp_path / "r" / "metrics.jsonl").read_text().splitlines()]
    records = [record for record in records if "nan_samples" in record]  # the others are looks
    assert [record["nan_samples"] for record in records] == [1, 2, 3, 4]
    assert [record["skipped_steps"] for record in records] == [0] * 4
    assert all(value == value and abs(value) < 1e9 for r in records for k, value in r.items() if "loss" in k)
    saved = tmp_path / "r" / "checkpoints" / "iteration-000004"
    first = load_file(ROOT / "assets/toybox/pipeline/transformer/diffusion_pytorch_model.safetensors")
    moved = 0.0
    for name, value in load_file(saved / "generator.safetensors").items():
        assert torch.isfinite(value).all(), name
        if (key := name.removeprefix("denoiser.network.")) in first:
            moved = max(moved, (value - first[key]).abs().max().item())
    assert moved > 0


def test_a_teacher_of_nothing_but_nans_stops_the_run(tmp_path, monkeypatch, capsys):
    poison(monkeypatch, slice(None))
    assert main(words(tmp_path / "r", "training.log_every=3", "training.guidance_scale=1")) == 2
    said = capsys.readouterr().err.splitlines()
    assert said[-1].startswith("scorefield: iteration 3: 12 of 12 samples")
    assert "were not finite, so training stopped" in said[-1]
    assert sum(line.startswith("scorefield: ") for line in said) == 1
