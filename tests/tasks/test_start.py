"""Where a student starts: the teacher, the longer-trained generator that is embedded beside it, or another run."""

import importlib
import json

import pytest
import torch
from safetensors.torch import load_file, save_file

from scorefield import resources
from scorefield.commands.common import build_config
from scorefield.errors import UserError
from scorefield.evaluation.toybox import judge_pictures
from scorefield.runfolder import RunFolder
from tasks.text_to_image import TextToImage
from tasks.text_to_image.evaluate import Pictures, load_judge, one_step, repeated, start_noise
from tasks.text_to_image.start import described, first_weights

ASSET = resources.root() / "assets" / "toybox" / "one-step"
WORDS = ["training.device=cpu", "prompts.count=64", "evaluation.samples=64"]


def config(*words):
    return build_config(TextToImage, None, [*WORDS, *words])


def test_the_default_run_goes_on_from_the_embedded_generator_and_says_so():
    assert first_weights(config()) == ASSET / "generator.safetensors"
    images = json.loads((ASSET / "generator.json").read_text())["images_generated"]
    assert f"{images:,} generated pictures" in described(config())
    preset = resources.preset("text_to_image", "from_teacher")
    assert first_weights(build_config(TextToImage, preset, WORDS)) is None
    assert described(build_config(TextToImage, preset, WORDS)) == "the teacher's own weights"


@pytest.mark.parametrize(
    "words",
    [
        ["teacher.path=some/toybox"],
        ["teacher.path=judge"],
        ["generator.kind=lora"],
        ["generator.init_sigma=2.5"],
        ["generator.name=two_step"],
        ["generator.init=teacher"],
        ["teacher.name=colours"],
    ],
)
def test_what_the_embedded_generator_does_not_fit_starts_from_its_teacher(words):
    assert first_weights(config(*words)) is None
    assert described(config(*words)) == "the teacher's own weights"


def test_a_path_that_holds_no_generator_is_refused(tmp_path):
    with pytest.raises(UserError, match="nor a path that exists"):
        first_weights(config("generator.init=nowhere"))
    assert first_weights(config(f"generator.init={tmp_path}")) == tmp_path  # another run may still have to save


def test_the_embedded_generator_draws_what_prompts_say_in_one_step(tmp_path):
    task = TextToImage(config(), RunFolder(tmp_path / "run"), "cpu")
    task.check()
    generator = task.build().generator.eval()
    saved = load_file(ASSET / "generator.safetensors")
    assert all(torch.equal(value, saved[name]) for name, value in generator.named_parameters())
    prompts = repeated(task.prompts.held_out, 64)
    task.pipeline = task.open_pipeline()  # the first one has let its text encoder go
    latents = one_step(generator, start_noise(task.pipeline, 64, 5, "cpu"), task.pipeline.encode(prompts))
    verdict = judge_pictures(load_judge(task.config, "cpu"), task.pipeline.decode(latents), prompts)
    assert verdict.all_right.float().mean() > 0.95


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    from scorefield.cli import main

    out = tmp_path_factory.mktemp("start") / "run"
    words = ["training.iterations=1", "training.batch=4", "evaluation.teacher_steps=2", "evaluation.preview=2"]
    words += ["prompts.count=8", "evaluation.samples=8", "evaluation.running=0", "training.device=cpu"]
    assert main(["run", "text_to_image", "--out", str(out), *words]) == 0
    return out


def test_the_summary_and_the_page_tell_start_and_end_apart(run):
    summary = json.loads((run / "summary.json").read_text())
    assert summary["start"]["steps"] == 1
    assert summary["start"]["frechet"] != summary["student"]["frechet"]
    assert summary["started_from"].startswith("the embedded generator")
    page = (run / "report.html").read_text()
    assert "It started from the embedded generator, trained before on" in page


def test_a_finished_runs_generator_can_be_kept_as_the_embedded_one(run, tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(resources.root() / "scripts")
    monkeypatch.setattr("sys.argv", ["keep_generator", str(run), str(tmp_path / "one-step")])
    importlib.import_module("keep_generator").main()
    record = json.loads((tmp_path / "one-step" / "generator.json").read_text())
    assert (record["init_sigma"], record["images_generated"], record["seed"]) == (1.5, 4, 0)
    assert str(run) not in record["command"]
    kept = load_file(tmp_path / "one-step" / "generator.safetensors")
    assert all(
        torch.equal(value, kept[n]) for n, value in load_file(next(run.glob("checkpoints/*/ema.safetensors"))).items()
    )


def test_a_start_that_is_gone_when_a_run_ends_costs_its_row_only(run, tmp_path):
    weights = tmp_path / "mine.safetensors"
    save_file(load_file(ASSET / "generator.safetensors"), weights)
    task = TextToImage(config(f"generator.init={weights}"), RunFolder(tmp_path / "run"), "cpu")
    task.check()
    generator = task.build().generator
    from tasks.text_to_image.evaluate import first_generator

    task.pipeline = task.open_pipeline()
    pictures = Pictures(task, generator)
    assert first_generator(task, pictures) is not None
    weights.unlink()
    assert first_generator(task, pictures) is None
