"""The table of losses on text to 3D: runs of equal cost, read back from their folders, averaged honestly."""

import csv
import importlib
import json
from argparse import Namespace

import pytest
import torch

from scorefield import resources
from scorefield.data import toybox
from scorefield.data.toybox.models import FRONTLESS
from scorefield.errors import UserError
from scorefield.images import save_grid
from scorefield.three_d.asset import AssetConfig, textured
from scorefield.three_d.export import write_glb
from tests.three_d.shapes import Ball


@pytest.fixture
def table(monkeypatch):
    monkeypatch.syspath_prepend(resources.root() / "scripts")
    return importlib.import_module("text_to_3d_table")


def asked(table, **more):
    return Namespace(**{"prompts": table.PROMPTS, "losses": list(table.LOSSES), "seeds": [0, 1], "config": None} | more)


def test_twelve_kinds_in_all_colours_under_four_losses_and_two_seeds(table, tmp_path):
    told = [toybox.parse(prompt) for prompt in table.PROMPTS]
    kinds = {toybox.OBJECTS[found.object] for found in told}
    assert len(kinds) == 12
    assert set(toybox.OBJECTS) - FRONTLESS <= kinds
    assert {found.color for found in told} == set(range(len(toybox.COLORS)))
    plan = table.make_plan(asked(table), [])
    jobs = plan.jobs(tmp_path)
    assert len({job.folder for job in jobs}) == 96
    first = plan.resolved(jobs[1])
    assert (first.prompt, first.loss["name"], first.training.seed) == ("a red chair", "vsd", 0)
    assert first.regularizers.sparsity == {0: 20.0}


def test_losses_that_ask_the_teacher_unequally_are_refused(table, monkeypatch):
    monkeypatch.setitem(table.LOSSES, "nfsd", [])
    with pytest.raises(UserError, match="equally often"):
        table.make_plan(asked(table, losses=["sim", "nfsd"]), [])


def test_tables_and_pictures_come_from_the_run_folders(table, tmp_path):
    some = asked(table, prompts=["a red chair", "a blue car"], losses=["sim"], seeds=[0])
    jobs = table.make_plan(some, ["training.iterations=3"]).jobs(tmp_path)
    assets = [{"glb": "x.glb", "judge_accuracy": 1.0, "iou": 0.5, "watertight": True}, {"error": "empty"}]
    for job, asset in zip(jobs, assets, strict=True):
        (job.folder / "samples").mkdir(parents=True)
        summary = {"assets": [asset], "images_generated": 12, "wall_seconds": 2.0}
        (job.folder / "summary.json").write_text(json.dumps(summary))
        save_grid(torch.zeros(24, 3, 64, 64), job.folder / "samples" / "iteration-000003.png", 8)
        job.state = "done"
    lines = table.write_tables(jobs, tmp_path, {jobs[0].name: {"seed_diversity": 2.5, "seed_lpips": 0.3}})
    with open(tmp_path / "table.csv") as file:
        rows = list(csv.DictReader(file))
    assert [(row["state"], row["teacher_evaluations"]) for row in rows] == [("done", "24"), ("no asset", "24")]
    assert (rows[0]["seed_diversity"], rows[0]["seed_lpips"], rows[1]["seed_lpips"]) == ("2.5", "0.3", "")
    cells = dict(zip(lines[0].split(" | "), lines[2].split(" | "), strict=True))
    assert cells["judge accuracy"] == "50 %"  # the lost asset counts against it
    assert cells["iou"] == "0.500"
    table.draw(jobs, tmp_path)
    assert (tmp_path / "pictures-seed0.png").exists()


def test_seeds_are_told_apart_by_the_judge_and_by_lpips(table, tmp_path):
    words = ["training.iterations=3", "evaluation.lpips={trunk: random, size: 32}"]
    jobs = table.make_plan(asked(table, prompts=["a red chair"], losses=["sim", "vsd"]), words).jobs(tmp_path)
    for job in jobs:
        if (job.variant.note, job.seed) == ("sim", 1):
            continue  # one asset alone is not spread
        ball = Ball(radius=0.3 + 0.3 * job.seed)
        write_glb(textured(ball, AssetConfig(resolution=24, faces=300, texture=32))[0], glb_of(job))
    found = table.seed_spread(jobs)
    assert {name.rpartition("-seed")[0] for name in found} == {"a-red-chair-vsd"}
    assert len(found) == 2
    for apart in found.values():
        assert apart["seed_diversity"] > 0.1
        assert apart["seed_lpips"] > 1e-3


def glb_of(job):
    (job.folder / "export").mkdir(parents=True)
    return job.folder / "export" / "particle-0.glb"
