"""One run through all stages: field, signed distance, painted mesh; stopped in the middle, it goes on bit for bit."""

import shutil

import pytest
import torch

from scorefield import config as configuration
from scorefield.cli import main
from scorefield.errors import UserError
from scorefield.files import read_json
from scorefield.generators.nerf import NerfSettings
from scorefield.generators.staged import StagedGenerator
from scorefield.generators.texture import Painted
from scorefield.runfolder import RunFolder
from scorefield.three_d.asset import AssetConfig
from scorefield.three_d.field import GridField
from scorefield.three_d.mesh import facts, welded
from scorefield.three_d.sdf import SdfField
from scorefield.three_d.settings import GeometryConfig
from scorefield.training import checkpoint
from tasks.text_to_3d.settings import TextTo3DConfig
from tasks.text_to_3d.task import TextTo3D
from tests.tasks.test_text_to_3d import run

SMALL = [
    "stages={0: nerf, 1: geometry, 3: texture}",
    "training.iterations=4",
    "training.batch=2",
    "checkpoints={every: 1, keep: 9}",
    "geometry={resolution: 20, levels: [8], shading: {albedo: 1, lambertian: 1, textureless: 1, normal: 1}}",
    "assets={resolution: 20, faces: 200, texture: 48, frames: 2, side: 16}",
    "evaluation.judge=none",
]


def weights(path, iteration):
    return checkpoint.load(path / "checkpoints" / f"iteration-{iteration:06d}").weights


def test_a_run_through_all_stages_goes_on_bit_for_bit(tmp_path):
    whole, cut = tmp_path / "whole", tmp_path / "cut"
    assert run(whole, *SMALL) == 0
    shutil.copytree(whole, cut)
    for late in (3, 4):
        shutil.rmtree(cut / "checkpoints" / f"iteration-{late:06d}")
    (cut / "summary.json").unlink()
    assert "fields.0.grid.levels.0" not in weights(cut, 2)["generator"]
    assert run(cut, *SMALL, "--resume") == 0
    for part in ("generator", "ema", "online"):
        one, two = weights(whole, 4)[part], weights(cut, 4)[part]
        assert one.keys() == two.keys()
        for name, value in one.items():
            assert torch.equal(value, two[name]), name
    assert read_json(cut / "summary.json")["assets"][0]["watertight"]
    terms = (cut / "metrics.jsonl").read_text()
    assert "loss/eikonal" in terms
    assert "loss/roughness" in terms

    # what is exported of the middle and of the end is what the stage holds
    config = configuration.load(TextTo3DConfig, whole / "config.yaml")
    for iteration, kind in ((2, SdfField), (4, Painted)):
        task = TextTo3D(config, RunFolder(whole), "cpu")
        (field,) = task.restore(weights(whole, iteration)["ema"]).fields
        assert isinstance(field, kind)
        saved = weights(whole, iteration)["ema"]
        if kind is Painted:
            assert facts(welded(field.mesh()))["watertight"]
            assert torch.equal(field.vertices, saved["fields.0.vertices"])
        else:
            assert torch.equal(field.start, saved["fields.0.start"])


def test_a_field_that_vanished_keeps_its_stage_and_is_told():
    settings = NerfSettings(2)
    settings.field.resolutions, settings.render.occupancy = [8], 4
    told, same = lambda view, ground, pose: ({}, {}, {}), lambda x: x
    laws = {"geometry": GeometryConfig(resolution=12, levels=[4]), "assets": AssetConfig(resolution=16)}
    made = StagedGenerator(settings, told, same, same, 8, stages={0: "nerf", 3: "geometry"}, **laws)
    made.fields[0].density_bias = -60.0
    before = dict(made.fields.named_parameters())
    assert made.after_step(1) is None
    with pytest.warns(UserWarning, match="particle 0 stays as it is, without a geometry stage: the density field is"):
        changes = made.after_step(2)
    assert [type(field) for field in made.fields] == [GridField, SdfField]
    gone = {name for name, p in before.items() if p in changes.replaced}
    assert gone == {name for name in before if name.startswith("1.") and "sky" not in name}
    groups = made.parameter_groups()
    for index, parameter in changes.added:
        assert any(parameter is p for p in groups[index]["params"])


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["stages={0: nerf, 5: mesh}"], '"mesh" is unknown'),
        (["stages={0: nerf, 2000: texture}"], "texture starts at 2000"),
        (["stages={0: nerf, 5: texture, 9: geometry}"], "stages must be nerf from 0"),
        (["geometry.shading={shiny: 1}"], 'geometry.shading "shiny" is unknown'),
    ],
)
def test_stages_that_make_no_sense_are_refused(words, expected):
    with pytest.raises(UserError, match=expected):
        configuration.load(TextTo3DConfig, None, words)
    assert main(["run", "tasks/text_to_3d", "--dry-run", "prompt=a red chair", *words]) == 2
