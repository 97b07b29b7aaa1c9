"""Particles of a run become files and records; a field that vanished is said so and breaks nothing."""

from types import SimpleNamespace

import pytest
import torch

from scorefield.cli import main
from scorefield.errors import UserError
from scorefield.evaluation.scores.clip_model import open_clip_model
from scorefield.files import read_json
from scorefield.images import to_uint8
from scorefield.runfolder import RunFolder
from scorefield.three_d.asset import GREY, AssetConfig
from scorefield.three_d.export import read_glb
from scorefield.three_d.t3bench import T3BenchConfig
from scorefield.three_d.view import over, render_mesh
from tasks.text_to_3d import assets, scores
from tasks.text_to_3d.settings import TextTo3DConfig
from tests.evaluation.clips import write_clip
from tests.three_d.shapes import Ball

SMALL = AssetConfig(resolution=32, faces=800, texture=64, frames=3, side=32)


def make(tmp_path, *fields, prompt="an astronaut"):
    config = TextTo3DConfig(prompt=prompt, particles=len(fields), assets=SMALL)
    generator = SimpleNamespace(fields=torch.nn.ModuleList(fields))
    task = SimpleNamespace(
        config=config, device="cpu", prompt=prompt, folder=RunFolder(tmp_path), restore=lambda weights: generator
    )
    return task, generator


def test_one_particle_of_two_survives(tmp_path, capsys):
    task, generator = make(tmp_path, Ball(), Ball(density=1e-5))
    records = assets.finish(task, generator, 8)["assets"]
    assert records[0]["glb"] == "export/particle-0.glb"
    assert records[0]["watertight"] is True
    assert records[0]["components"] == 1
    assert records[0]["judge_accuracy"] is None  # no truth is known of an astronaut
    assert records[1]["glb"] is None
    assert "density field is empty" in records[1]["error"]
    assert "warning: particle 1: the density field is empty" in capsys.readouterr().out
    wanted = {"prompt", "particle", "glb", "judge_accuracy", "janus_rate", "chamfer", "iou"}
    wanted |= {"watertight", "components", "seconds"}
    assert wanted <= set(records[0])
    assert wanted <= set(records[1])  # one that could not be made has the same keys
    assert records[1]["watertight"] is records[1]["components"] is None
    assert 0 <= records[1]["seconds"] < 60
    names = {path.name for path in (tmp_path / "export").iterdir()}
    assert {"README.md", "assets.json", "particle-0.glb", "particle-0.mp4"} <= names
    assert not any("particle-1" in name for name in names)
    assert (tmp_path / "report" / "assets.html").exists()
    assert "/" not in str(read_json(tmp_path / "export" / "assets.json"))  # no path of this machine


def test_nothing_is_written_of_fields_that_vanished(tmp_path):
    task, generator = make(tmp_path, Ball(density=1e-5))
    assert "empty" in assets.finish(task, generator, 8)["assets"][0]["error"]
    assert not (tmp_path / "export").exists()
    assert not list(tmp_path.glob(".export*"))
    with pytest.raises(UserError, match="density field is empty"):
        assets.export_run(task, {}, tmp_path / "export")


def test_an_export_replaces_its_own_folder_only(tmp_path):
    task, _ = make(tmp_path, Ball())
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("x")
    with pytest.raises(UserError, match="holds no assets"):
        assets.export_run(task, {}, tmp_path / "mine")
    assert (tmp_path / "mine" / "thesis.txt").exists()
    for _ in range(2):
        assert assets.export_run(task, {}, tmp_path / "export") == tmp_path / "export"
    assert (tmp_path / "report" / "assets.html").exists()


def test_scores_look_at_the_exported_asset_from_all_sides(tmp_path):
    folder = str(write_clip(tmp_path / "small"))
    (tmp_path / "pool.txt").write_text("a red chair\na blue cup\n")
    task, generator = make(tmp_path, Ball(), Ball(density=1e-5))
    told = task.config.evaluation
    told.scores, told.score_size = ["clip", "r_precision"], 32
    told.score_options = {name: {"path": folder} for name in told.scores}
    told.score_options["r_precision"]["prompts"] = str(tmp_path / "pool.txt")
    told.t3bench = T3BenchConfig("clip", subdivisions=0, size=32)
    scores.check(told)
    found = assets.finish(task, generator, 4)
    first, second = found["assets"]
    mesh = read_glb(tmp_path / "export" / "particle-0.glb")
    images = to_uint8(over(*render_mesh(mesh, assets.circle(task, 4, 32)), GREY) * 2 - 1)
    clip = open_clip_model(folder, "cpu")
    near = (clip.images(images) @ clip.texts([task.prompt, "a red chair", "a blue cup"]).T).numpy()
    assert first["clip_score"] == pytest.approx(100 * near[:, 0].clip(0).mean(), abs=1e-4)
    assert first["clip_r_precision"] == (near.argmax(1) == 0).mean()
    assert first["t3bench_clip_score"] >= 0
    assert "clip_score" not in second  # nothing could be made of it
    assert set(found["scores"]) == {"clip_score", "clip_r_precision", "t3bench_clip_score"}
    assert "among 2 prompts of pool.txt" in found["scores"]["clip_r_precision"]["definition"]
    assert "CLIP R-precision" in (tmp_path / "report" / "assets.html").read_text()


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["evaluation.scores=[clap]"], 'unknown score "clap": did you mean "clip"'),
        (["evaluation.scores=[clip]"], "neither a folder nor in the hub's cache"),
        (["evaluation.t3bench.score=imagereward"], "imagereward.weights is missing: give the file ImageReward.pt"),
        (["evaluation.t3bench.score=fid"], "t3bench.score=fid does not score single pictures"),
        (
            ["evaluation.scores=[r_precision]", "evaluation.score_options.r_precision.path=hub:x/y"],
            "R-precision of an asset needs other prompts",
        ),
    ],
)
def test_scores_that_cannot_be_had_are_told_before_training(words, expected, capsys):
    assert main(["run", "tasks/text_to_3d", "--dry-run", "prompt=a red chair", "training.device=cpu", *words]) == 2
    assert expected in capsys.readouterr().err
