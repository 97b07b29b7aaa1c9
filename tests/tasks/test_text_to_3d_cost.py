"""What a run of text to 3D costs: estimated beforehand against the allocator's own count, and timed part by part."""

import json

import pytest
import torch

from scorefield.cli import main
from scorefield.commands.common import build_config
from scorefield.cost import scene
from scorefield.cost.budget import switches
from scorefield.cost.estimate import estimate
from scorefield.plugins import load_task
from scorefield.random import Draws
from scorefield.runfolder import RunFolder
from scorefield.teachers import known
from scorefield.three_d.cameras import Cameras
from tests.teachers import families
from tests.test_cost import measured

SMALL = ["training.device=cpu", "training.batch=2", "render.size={0: 16, 150: 32}", "render.samples=32"]
HASH = ["field.grid=hash", "field.levels=6", "field.log2_size=12"]
EXACT = ["render.encoder_gradient=exact", "regularizers.roundtrip={0: 0.0}"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A small Stable Diffusion."""
    return families.write("sd_eps", tmp_path_factory.mktemp("teacher") / "sd")


def make(path, folder, *words):
    task_class = load_task("text_to_3d")
    config = build_config(task_class, None, ["prompt=a red chair", f"teacher.path={folder}", *SMALL, *words])
    return task_class(config, RunFolder(path), "cpu")


@pytest.mark.parametrize(
    "words",
    [
        HASH,
        [*HASH, "render.chunk=3000", "training.precision=bf16", "regularizers.entropy={0: 1.0}"],
        [*EXACT, "loss={name: vsd}", "online.kind=full", "background={named: {}, learned: {0: 1.0}}"],
        ["words.perp_neg=true", 'words.directional="yes"', "render.density_noise={0: 1.0}", "training.accumulation=2"],
    ],
)
def test_the_estimate_is_what_the_allocator_counts(words, folder, tmp_path, monkeypatch):
    monkeypatch.setattr(scene, "ITERATIONS", 5)  # the cameras of the iterations that are measured
    task = make(tmp_path, folder, *words)
    task.memory_beside = dict
    assert estimate(task, task.config, "cpu").per_device == pytest.approx(measured(task, 4), rel=0.15)


def test_roles_hold_what_they_should(folder, tmp_path):
    task = make(tmp_path, folder, 'words.directional="yes"', "words.perp_neg=true")
    task.check()
    found = estimate(task, task.config, "cuda").memory
    plain = make(tmp_path, folder)
    plain.check()
    assert found["teacher"] == estimate(plain, plain.config, "cuda").memory["teacher"] > 0  # the same network
    task.build()
    assert found["autoencoder"] == sum(p.numel() * 4 for p in task.pipeline.part("vae").parameters())
    encoded = task.pipeline.random_condition(1)
    assert found["embeddings"] == 5 * 5 * sum(v.numel() * v.element_size() for v in encoded.values())


def test_points_are_counted_before_they_are_laid_out(folder, tmp_path):
    task = make(tmp_path, folder)
    players = task.rehearse()
    generator = players.generator
    counted, seen = [], []
    for k in range(6):
        batch = generator.draw(Draws(0, k, torch.arange(2)))
        cameras = Cameras(batch.latents["c2w"], batch.latents["fovy"], (32, 32))
        counted.append(scene.count_points(cameras, 1.0, 2 * 3**0.5 / 32))
        generator(batch)
        seen.append(len(generator.seen.points))
    assert [points for points, _ in counted] == pytest.approx(seen, rel=0.01)


def test_the_bench_tells_rendering_from_encoding(folder, capsys):
    words = ["bench", "--task", "text_to_3d", "--rounds", "2", "--json", *SMALL, f"teacher.path={folder}"]
    assert main([*words, "loss={name: vsd}"]) == 0
    (row,) = json.loads(capsys.readouterr().out)["rows"]
    assert row["forward_equivalents"] == sum(each["forward_equivalents"] for each in row["passes"].values()) == 9
    render, encode = (row["passes"][f"generator: {name} gradient"] for name in ("render, parameter", "encode, input"))
    assert render["seconds"] > 0 < encode["seconds"]
    assert sum(each["share"] for each in row["passes"].values()) == pytest.approx(1 / row["overhead_ratio"])
    memory = row["memory_bytes"]
    assert memory["peak"] > memory["generator"] > memory["average"] > 0 < memory["autoencoder"]


def test_a_rehearsal_without_a_teacher_is_refused(capsys):
    assert main(["bench", "--task", "text_to_3d", "--config", "dive3d", "training.device=cpu"]) == 2
    assert "no teacher: give teacher.path" in capsys.readouterr().err


def test_splats_are_timed_and_said_not_to_be_estimated(folder, capsys):
    words = [*SMALL, f"teacher.path={folder}", "generator.kind=splats", "splats.count=20"]
    assert main(["bench", "--task", "text_to_3d", "--rounds", "1", "--json", *words]) == 0
    capsys.readouterr()
    assert main(["run", "text_to_3d", "--dry-run", "prompt=a red chair", *words]) == 0
    assert "only radiance fields are estimated, not generator.kind=splats" in capsys.readouterr().out


def test_a_published_recipe_is_planned_without_its_teacher(monkeypatch, capsys):
    name = "stabilityai/stable-diffusion-2-1-base"
    pipeline, part, kind, settings, scheduler, vae = known.KNOWN[name]
    less = {"block_out_channels": [32, 32, 32, 32], "attention_head_dim": 8}
    monkeypatch.setitem(known.KNOWN, name, (pipeline, part, kind, {**settings, **less}, scheduler, vae))
    words = ["run", "text_to_3d", "--dry-run", "--config", "sds", "prompt=a red chair", f"teacher.path={name}"]
    assert main([*words, "render.samples=64", "--device-memory", "80GB"]) == 0
    out = capsys.readouterr().out
    assert name in out
    assert "335 MB" in out  # the autoencoder's 83.7 million parameters


def test_no_switch_is_named_that_the_task_does_not_take(folder, tmp_path):
    keys = dict(switches(make(tmp_path, folder, "online.kind=full").config, 1))
    assert keys["online.kind"] == "lora"
    assert "generator.kind" not in keys
    image = load_task("text_to_image")
    assert dict(switches(build_config(image, None, []), 1))["generator.kind"] == "lora"


def test_stable_diffusion_2_1_has_its_published_size():
    import diffusers

    _, _, kind, settings, _, _ = known.KNOWN["stabilityai/stable-diffusion-2-1-base"]
    with torch.device("meta"):
        network = getattr(diffusers, kind).from_config(settings)
    assert sum(p.numel() for p in network.parameters()) / 1e6 == pytest.approx(865.9, abs=0.1)
