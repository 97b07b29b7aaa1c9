"""Particles of a run become files and records; a field that vanished is said so and breaks nothing."""

from types import SimpleNamespace

import pytest
import torch

from scorefield.errors import UserError
from scorefield.files import read_json
from scorefield.runfolder import RunFolder
from scorefield.three_d.asset import AssetConfig
from tasks.text_to_3d import assets
from tasks.text_to_3d.settings import TextTo3DConfig
from tests.three_d.shapes import Ball

SMALL = AssetConfig(resolution=32, faces=800, texture=64, frames=3, side=32)


def make(tmp_path, *fields, prompt="an astronaut"):
    config = TextTo3DConfig(prompt=prompt, particles=len(fields), assets=SMALL)
    generator = SimpleNamespace(fields=torch.nn.ModuleList(fields))
    task = SimpleNamespace(config=config, prompt=prompt, folder=RunFolder(tmp_path), restore=lambda weights: generator)
    return task, generator


def test_one_particle_of_two_survives(tmp_path, capsys):
    task, generator = make(tmp_path, Ball(), Ball(density=1e-5))
    records = assets.finish(task, generator, 8)
    assert records[0]["glb"] == "export/particle-0.glb"
    assert records[0]["watertight"] is True
    assert records[0]["components"] == 1
    assert records[0]["judge_accuracy"] is None  # no truth is known of an astronaut
    assert records[1]["glb"] is None
    assert "density field is empty" in records[1]["error"]
    assert "warning: particle 1: the density field is empty" in capsys.readouterr().out
    wanted = {"prompt", "particle", "glb", "judge_accuracy", "janus_rate", "chamfer", "iou"}
    assert wanted | {"watertight", "components", "seconds"} <= set(records[0])
    names = {path.name for path in (tmp_path / "export").iterdir()}
    assert {"README.md", "assets.json", "particle-0.glb", "particle-0.mp4"} <= names
    assert not any("particle-1" in name for name in names)
    assert (tmp_path / "report" / "assets.html").exists()
    assert "/" not in str(read_json(tmp_path / "export" / "assets.json"))  # no path of this machine


def test_nothing_is_written_of_fields_that_vanished(tmp_path):
    task, generator = make(tmp_path, Ball(density=1e-5))
    assert "empty" in assets.finish(task, generator, 8)[0]["error"]
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
