"""The particles task on the embedded teacher: a short run and what can be done with it, and what is refused."""

import json

import pytest
import torch
from safetensors.torch import load_file

from scorefield.cli import main
from scorefield.images import load_image

SHORT = [
    "training.device=cpu",
    "training.batch=4",
    "particles.count=4",
    "training.iterations=3",
    "training.log_every=1",
    "checkpoints.every=2",
    "training.generator.decay=none",
    "checkpoints.keep=5",
    "evaluation.teacher_steps=2",
]


def words(out, *more):
    return ["run", "particles", "--out", str(out), *SHORT, *more]


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    out = tmp_path_factory.mktemp("particles") / "run"
    assert main(words(out, "prompt=a red chair")) == 0
    return out


def test_a_run_shows_and_measures_its_particles(made):
    summary = json.loads((made / "summary.json").read_text())
    assert summary["prompt"] == "a red chair"
    assert summary["particles"] == 4
    assert summary["overhead_ratio"] == summary["step_seconds"] / summary["bare_seconds"] > 0
    for who in ("real", "teacher", "student"):
        assert summary[who]["diversity"] > 0
        assert 0 <= summary[who]["prompt_accuracy"] <= 1
    assert summary["real"]["prompt_accuracy"] == 1
    page = (made / "report.html").read_text()
    assert "4 particles of “a red chair”" in page
    assert "particle 3<" in page  # a row of the film over time
    assert sorted(p.name for p in (made / "samples").glob("*.png")) == [f"iteration-{k:06d}.png" for k in (0, 2, 3)]
    lines = [json.loads(line) for line in (made / "metrics.jsonl").read_text().splitlines()]
    assert [r["iteration"] for r in lines if "eval/diversity" in r] == [0, 2, 3]


def test_particles_become_files(made, tmp_path, capsys):
    assert main(["export", str(made), "--out", str(tmp_path / "out")]) == 0
    points = load_file(tmp_path / "out" / "latents.safetensors")["points"]
    assert points.shape[0] == 4
    assert load_image(tmp_path / "out" / "003.png").shape == (3, 64, 64)
    newest = sorted((made / "checkpoints").glob("iteration-*"))[-1]
    assert torch.equal(points, load_file(newest / "ema.safetensors")["points"])
    assert main(["sample", str(made), "2", "--out", str(tmp_path / "one"), "--device", "cpu"]) == 0
    assert torch.equal(load_image(tmp_path / "one" / "particle-002.png"), load_image(tmp_path / "out" / "002.png"))
    assert main(["sample", str(made), "a blue car", "--out", str(tmp_path / "no"), "--device", "cpu"]) == 2
    assert "numbers from 0 to 3" in capsys.readouterr().err


def test_every_particle_moves_and_a_resumed_run_is_the_same(made, tmp_path):
    short = words(tmp_path / "r", "prompt=a red chair", "evaluation.judge=none")
    assert main([*short, "training.iterations=2"]) == 0
    assert main([*short, "--resume"]) == 0
    again = load_file(tmp_path / "r" / "checkpoints" / "iteration-000003" / "ema.safetensors")["points"]
    straight = load_file(made / "checkpoints" / "iteration-000003" / "ema.safetensors")["points"]
    assert torch.equal(again, straight)
    half = load_file(tmp_path / "r" / "checkpoints" / "iteration-000002" / "ema.safetensors")["points"]
    assert (half - straight).abs().amax((1, 2, 3)).min() > 0


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["prompt=' '"], "prompt is empty"),
        (["training.batch=6"], "multiple of particles.count 4"),
        (["loss.name=nfsd"], "negative_prompt"),
        (["loss.name=csd", "loss.negative=1.0"], "negative_prompt"),
        (["particles.count=0"], "at least 1"),
        (["particles.cuont=4"], 'did you mean "particles.count"'),
    ],
)
def test_refusals(more, message, tmp_path, capsys):
    assert main(words(tmp_path / "r", *more)) == 2
    assert message in capsys.readouterr().err


def test_a_prompt_beyond_the_judge_is_told_of(tmp_path, capsys):
    assert main([*words(tmp_path / "r", "prompt=a tall lighthouse"), "--dry-run"]) == 0
    assert "names no Toybox object" in capsys.readouterr().out


def test_lora_and_a_negative_prompt(tmp_path):
    assert main(words(tmp_path / "r", "online.kind=lora", "training.iterations=1", "evaluation.judge=none")) == 0
    assert (
        main(
            words(
                tmp_path / "n",
                "loss.name=nfsd",
                "negative_prompt=a grey car",
                "training.iterations=1",
                "evaluation.judge=none",
            )
        )
        == 0
    )
