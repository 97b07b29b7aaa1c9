"""Every block of CONTRIBUTING.md, word for word, as a package of its own."""

import json
import os
import shlex
import subprocess
import sys

import pytest
import torch

from scorefield.cli import main

from .packages import ROOT, blocks, make_visible, section, write_files

TINY = {
    "text_to_image": [
        "training.iterations=3",
        "training.batch=4",
        "training.log_every=1",
        "training.device=cpu",
        "checkpoints.every=3",
        "evaluation.samples=4",
        "evaluation.teacher_steps=2",
        "evaluation.preview=3",
        "prompts.count=8",
    ],
    "ring": ["training.device=cpu"],
}


@pytest.fixture
def orchard(tmp_path, visible, monkeypatch):
    folder = tmp_path / "orchard-source"
    files = {title: text for _, title, text in blocks("CONTRIBUTING.md") if title}
    write_files(folder, files)
    make_visible(folder)
    visible(folder)
    monkeypatch.chdir(tmp_path)
    return folder


def commands(heading: str) -> list[list[str]]:
    """The ``scorefield`` command lines of a section, without the program's name."""
    lines = section("CONTRIBUTING.md", heading).splitlines()
    return [shlex.split(line)[1:] for line in lines if line.startswith("scorefield ")]


def run_as_written(heading: str, out, *more: str) -> dict:
    (words,) = commands(heading)
    out_words = [] if "--out" in words else ["--out", str(out)]
    where = words[words.index("--out") + 1] if "--out" in words else out
    assert main([*words, *out_words, *TINY[words[1]], *more]) == 0
    with open(f"{where}/summary.json") as file:
        return json.load(file)


def test_the_loss(orchard, tmp_path):
    scope: dict = {}
    exec((orchard / "tests/test_tempered.py").read_text(), scope)
    scope["test_temperature_one_is_diff_instruct"]()
    summary = run_as_written("## Add a loss in ten minutes", tmp_path / "run", "evaluation.judge=none")
    assert summary["loss"] == "tempered"
    assert "temperature: 1.5" in (tmp_path / "run/config.yaml").read_text()


def test_a_wrong_option_of_the_loss_is_refused(orchard, capsys):
    assert main(["run", "text_to_image", "--dry-run", "loss.name=tempered", "loss.temprature=2"]) == 2
    assert 'did you mean "temperature"' in capsys.readouterr().err
    assert main(["run", "text_to_image", "--dry-run", "loss.name=tempered", "loss.temperature=-2"]) == 2
    assert "must be positive" in capsys.readouterr().err


def test_the_teacher(orchard, tmp_path, capsys):
    text = section("CONTRIBUTING.md", "## Add a teacher in ten minutes")
    (line,) = [line for line in text.splitlines() if line.startswith("printf")]
    (tmp_path / "walls.txt").write_text(shlex.split(line)[1].encode().decode("unicode_escape"))
    summary = run_as_written("## Add a teacher in ten minutes", tmp_path / "run")
    assert summary["iterations"] == 3
    # what the run's teacher shows is what the word says
    capsys.readouterr()
    assert main(["sample", str(tmp_path / "run"), "a red wall", "--device", "cpu", "--out", str(tmp_path / "p")]) == 0
    from scorefield.images import load_image

    mean = load_image(next((tmp_path / "p").glob("*.png"))).mean((1, 2))
    assert mean[0] > 0.3
    assert mean[1:].max() < -0.3
    assert main(["export", str(tmp_path / "run")]) == 2
    assert "teacher.name=colours" in capsys.readouterr().err


def test_the_teacher_is_the_gaussian_that_it_claims(orchard):
    from scorefield.teachers.base import TEACHERS

    teacher = TEACHERS.get("colours")("anything", std=0.2)
    condition = teacher.encode(["a green wall"] * 256)
    z = torch.randn(256, *teacher.latent_shape, generator=torch.Generator().manual_seed(0))
    made = teacher.sample(teacher.denoiser(), condition, z, steps=40, guidance_scale=1.0)
    torch.testing.assert_close(made.mean((0, 2, 3)), torch.tensor([-0.8, 0.8, -0.8]), atol=0.01, rtol=0)
    assert made.std((0, 2, 3)).sub(0.2).abs().max() < 0.02


def test_the_generator(orchard, tmp_path, capsys):
    summary = run_as_written("## Add a generator in ten minutes", tmp_path / "run", "evaluation.judge=none")
    assert summary["student"]["steps"] == 2
    wrong = ["generator.name=two_step", "generator.options.second=1", *TINY["text_to_image"]]
    assert main(["run", "text_to_image", "--dry-run", *wrong]) == 2
    assert 'did you mean "second_sigma"' in capsys.readouterr().err


def test_the_task_reaches_the_truth(orchard, tmp_path):
    summary = run_as_written("## Add a task in ten minutes", None)
    assert summary["task"] == "ring"
    assert summary["iterations"] == 800  # the package's own default.yaml
    assert summary["student"]["sliced_wasserstein"] < 0.4  # the start is at 1.4, true samples at 0.04
    assert (tmp_path / "runs/ring/report.html").exists()


def test_list_shows_the_package_without_importing_it(orchard, capsys):
    import sys

    assert main(["list"]) == 0
    shown = capsys.readouterr().out
    for name in ("tempered", "colours", "two_step", "ring"):
        assert f"{name:18} from orchard 0.1.0 (orchard.{name}:" in shown
    assert "orchard" not in sys.modules


def test_an_installer_takes_the_package(tmp_path):
    """The same with pip and the package's own build backend, where that is installed (no network)."""
    pytest.importorskip("hatchling")
    write_files(tmp_path / "source", {title: text for _, title, text in blocks("CONTRIBUTING.md") if title})
    target = tmp_path / "target"
    words = ["-m", "pip", "install", "-q", "--no-deps", "--no-build-isolation", "--no-index", "--target", str(target)]
    done = subprocess.run([sys.executable, *words, str(tmp_path / "source")], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([str(ROOT), str(target)])}
    words = ["-m", "scorefield", "config", "ring"]
    done = subprocess.run([sys.executable, *words], capture_output=True, text=True, env=environment)
    assert done.returncode == 0, done.stderr
    assert "online_updates: 2" in done.stdout  # of the default.yaml that the wheel carries
