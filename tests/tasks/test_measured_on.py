"""What the measures rest on: the setting of the teacher, and prompts that were not learned from."""

import json
import runpy
from pathlib import Path
from types import SimpleNamespace

import pytest

from scorefield.commands.common import build_config
from scorefield.errors import UserError
from scorefield.evaluation.sweep import pipeline_digest
from scorefield.resources import asset
from tasks.text_to_image import TextToImage
from tasks.text_to_image.evaluate import best_teacher
from tasks.text_to_image.prompts import read_prompts
from tasks.text_to_image.settings import TextToImageConfig

ROOT = Path(__file__).resolve().parents[2]


def test_the_teacher_is_measured_at_the_best_setting_of_its_own_sweep(tmp_path):

    folder = tmp_path / "pipeline"
    config, pipeline = TextToImageConfig(), SimpleNamespace(path=str(folder))
    files = [folder / part / "weights.safetensors" for part in ("transformer", "text_encoder", "vae")]
    files.append(folder / "scheduler" / "scheduler_config.json")
    for file in files:
        file.parent.mkdir(parents=True)
        file.write_bytes(b"as measured")
    assert best_teacher(config, pipeline) == (20, config.training.guidance_scale)
    sweep = {"pipeline_sha256": pipeline_digest(folder), "best": {"steps": 64, "guidance": 3.0}}
    (tmp_path / "sweep.json").write_text(json.dumps(sweep))
    assert best_teacher(config, pipeline) == (64, 3.0)
    config.evaluation.teacher_guidance = 1.0
    assert best_teacher(config, pipeline) == (64, 1.0)
    for file in files:  # a sweep of other weights, another text encoder, another decoder counts for nothing
        file.write_bytes(b"another one")
        assert best_teacher(config, pipeline) == (20, 1.0), file
        file.write_bytes(b"as measured")
    assert best_teacher(config, pipeline) == (64, 1.0)


def test_the_committed_sweep_is_of_the_committed_teacher():

    best_of = runpy.run_path(str(ROOT / "scripts" / "sweep_teacher.py"))["best_of"]

    sweep = json.loads((asset("toybox") / "sweep.json").read_text())
    assert sweep["pipeline_sha256"] == pipeline_digest(asset("toybox") / "pipeline")
    settings = [(row["steps"], row["guidance"]) for row in sweep["settings"]]
    assert settings == [(steps, scale) for steps in (8, 16, 32, 64) for scale in (1.0, 2.0, 3.0, 4.5)]
    assert sweep["best"] == best_of(sweep["settings"])

    named = ["evaluation.teacher_steps=null", "evaluation.teacher_guidance=null"]
    config = build_config(TextToImage, None, named)
    found = best_teacher(config, SimpleNamespace(path=str(asset("toybox") / "pipeline")))
    assert found == (sweep["best"]["steps"], sweep["best"]["guidance"])


def prompts_of(**settings):

    config = TextToImageConfig()
    for key, value in settings.items():
        section, name = key.split("__")
        setattr(getattr(config, section), name, value)
    return read_prompts(config)


def test_no_prompt_is_both_trained_and_measured_on(tmp_path):
    found = prompts_of(evaluation__samples=2000)
    assert len(found.held_out) == 2000
    assert not set(found.held_out) & set(found.train)
    texts = [f"picture number {k}" for k in range(300)]
    (tmp_path / "all.txt").write_text("\n".join(texts))
    path = str(tmp_path / "all.txt")
    found = prompts_of(prompts__path=path, evaluation__judge="none", evaluation__samples=500)
    assert sorted(found.train + found.held_out) == sorted(texts)
    assert 10 < len(found.held_out) < 60
    (tmp_path / "other.txt").write_text("one thing\npicture number 7\n")
    found = prompts_of(prompts__path=path, evaluation__judge="none", evaluation__prompts=str(tmp_path / "other.txt"))
    assert found.held_out == ["one thing", "picture number 7"]
    assert len(found.train) == 299
    (tmp_path / "few.txt").write_text("only this")
    assert prompts_of(prompts__path=str(tmp_path / "few.txt"), evaluation__judge="none").shared
    other = prompts_of(evaluation__prompts="toybox:7")
    assert other.held_out != prompts_of().held_out
    assert not set(other.held_out) & set(other.train)
    with pytest.raises(UserError, match="toybox:SEED"):
        prompts_of(evaluation__prompts="toybox:0")
