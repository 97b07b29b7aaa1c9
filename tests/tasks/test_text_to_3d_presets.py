"""The published presets train: each through the command line on a small random Stable Diffusion, at 16 pixels."""

import json

import pytest
import torch

from scorefield import config as configuration
from scorefield.cli import main
from scorefield.training import checkpoint
from tasks.text_to_3d.settings import TextTo3DConfig
from tests.teachers import families

# what is smaller than published; everything else is the preset's
SMALL = [
    "prompt=a red thing",
    "training.iterations=2",
    "training.log_every=1",
    "training.device=cpu",
    "training.online.warmup_iterations=0",  # else nothing moves in two iterations
    "checkpoints.every=1",
    "checkpoints.keep=5",
    "render.size={0: 16}",
    "render.samples=24",
    "render.chunk=500",
    "field.log2_size=12",
    "evaluation={size: 16, views: 2}",
    "assets={resolution: 24, faces: 300, texture: 32, frames: 2, side: 16}",
]
# terms of the loss that the preset's regularisers and online score bring
PRESETS = {
    "prolificdreamer-object": {"loss/online", "loss/entropy"},
    "prolificdreamer-scene": {"loss/online", "loss/z_variance"},
    "dive3d": {"loss/online", "loss/entropy"},
    "sds": {"loss/sparsity", "loss/orientation"},
}


@pytest.fixture(scope="module")
def teacher(tmp_path_factory):
    """Folders of a random teacher by its prediction form, as the published recipes' two are."""
    root = tmp_path_factory.mktemp("teachers")
    return {form: families.write(f"sd_{form}", root / form) for form in ("eps", "v")}


@pytest.mark.parametrize(
    ("preset", "form"),
    [*((preset, "eps") for preset in PRESETS), ("prolificdreamer-object", "v"), ("dive3d", "v")],
)
def test_a_published_preset_trains(preset, form, teacher, tmp_path):
    out = tmp_path / "run"
    words = [*SMALL, f"teacher.path={teacher[form]}"]
    assert main(["run", "tasks/text_to_3d", "--config", preset, "--out", str(out), *words]) == 0
    config = configuration.load(TextTo3DConfig, out / "config.yaml")
    assert config.field.grid == "hash"
    lines = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    lines = [line for line in lines if "loss/generator" in line]
    assert len(lines) == 2
    for line in lines:
        assert line["nan_samples"] == 0
        assert line["skipped_steps"] == 0
        assert line["grad_norm/generator"] > 0
        terms = {name for name in line if name.startswith("loss/")} - {"loss/generator"}
        assert terms == PRESETS[preset]
    first, last = (checkpoint.load(out / "checkpoints" / f"iteration-{k:06d}").weights for k in (1, 2))
    for level in range(16):
        table = f"fields.0.grid.tables.{level}"
        assert not torch.equal(first["generator"][table], last["generator"][table]), table
    if "loss/online" in PRESETS[preset]:
        moved = [name for name, value in first["online"].items() if not torch.equal(value, last["online"][name])]
        assert any("lora" in name for name in moved)
        assert any(name.startswith("projection") for name in moved)
    (asset,) = json.loads((out / "summary.json").read_text())["assets"]
    assert asset["glb"] or asset["error"]  # a field of two iterations need not have a surface
