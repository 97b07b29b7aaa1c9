"""Other pipelines in a run's table: drawn by stock diffusers as asked, measured on the run's own prompts."""

import json

import pytest
import torch

from scorefield.cli import main
from scorefield.commands.common import build_config
from scorefield.errors import UserError
from scorefield.evaluation import toybox
from scorefield.evaluation.peers import Peer, PeerConfig
from scorefield.images import load_image
from scorefield.runfolder import RunFolder
from tasks.text_to_image import TextToImage, evaluate, peers
from tests.teachers import families


@pytest.fixture(scope="module")
def turbo(tmp_path_factory):
    return families.write("sd_eps", tmp_path_factory.mktemp("peers") / "turbo")


def test_a_pipeline_joins_the_table_of_a_run(run, turbo, capsys):
    words = ["scheduler=EulerDiscreteScheduler", "scheduler_options.timestep_spacing=trailing", "steps=1", "guidance=0"]
    words += ["batch=3", "call.height=16", "call.width=16"]
    assert main(["evaluate", str(run), "--pipeline", str(turbo), "--device", "cpu", *words]) == 0
    printed = capsys.readouterr().out
    summary = json.loads((run / "summary.json").read_text())
    row = summary["peers"]["turbo"]
    assert (row["steps"], row["guidance"]) == (1, 0)
    assert row["seconds_per_image"] > 0
    assert row["told"]["prompts"] == 4
    assert row["told"]["scheduler"] == "EulerDiscreteScheduler"
    assert "turbo" in printed
    assert ">turbo<" in (run / "report.html").read_text()
    pictures = json.loads((run / "evaluation/peers/turbo/pictures.json").read_text())
    pairs = json.loads((run / "evaluation/pairs.json").read_text())
    assert [p["prompt"] for p in pictures] == [p["prompt"] for p in pairs]
    # the fourth picture by hand, alone: neither the batch nor its place in it matters
    from diffusers import EulerDiscreteScheduler, StableDiffusionPipeline

    stock = StableDiffusionPipeline.from_pretrained(turbo, safety_checker=None)
    stock.scheduler = EulerDiscreteScheduler.from_config(stock.scheduler.config, timestep_spacing="trailing")
    seeded = torch.Generator().manual_seed(evaluate.EVALUATION_SEED * 10**6 + 3)
    told = {"num_inference_steps": 1, "guidance_scale": 0.0, "height": 16, "width": 16, "output_type": "pt"}
    expected = stock(pictures[3]["prompt"], generator=seeded, **told).images[0] * 2 - 1
    found = load_image(run / pictures[3]["picture"])
    assert (found - expected).abs().max() <= 1.01 / 255
    assert found.std() > 0.02


def test_real_pictures_in_a_peers_place_score_as_real_ones(run, turbo, monkeypatch):
    words = ["prompts.path=toybox", "evaluation.judge=toybox", f"teacher.path={run.parent}", "training.device=cpu"]
    config = build_config(TextToImage, None, words)
    task = TextToImage(config, RunFolder(run), "cpu")
    start = {evaluate.EVALUATION_SEED: evaluate.CEILING_START, evaluate.EVALUATION_SEED + 1: evaluate.DIVERSITY_START}
    monkeypatch.setattr(
        Peer, "draw", lambda self, prompts, seed: toybox.real_pictures(list(prompts), 1, start[seed], "cpu", 64)
    )
    monkeypatch.setattr(evaluate, "DIVERSITY_PROMPTS", 2)
    monkeypatch.setattr(peers, "TIMED", 1)
    (run / "evaluation" / "pairs" / "0000-student.png").unlink()
    row = task.evaluate_peer(PeerConfig(str(turbo)), 12)
    assert row["prompt_accuracy"] > 0.9
    assert row["recall"] > 0.5
    assert row["diversity"] > 0.1


@pytest.mark.slow
def test_an_exported_lora_is_laid_on_its_base(tmp_path, monkeypatch):
    from scorefield.export.lora import KOHYA
    from tests.tasks import test_exports as exports

    ours = families.teacher("sd_eps", families.write("sd_eps", tmp_path / "base"))
    exports.exported(ours, exports.adapted(ours), tmp_path, monkeypatch, "lora")
    plain = PeerConfig(str(tmp_path / "base"), steps=2, guidance=1.0)
    laid = PeerConfig(str(tmp_path / "base"), steps=2, guidance=1.0, lora=str(tmp_path / "export/lora" / KOHYA))
    without, with_it = (Peer(settings, "cpu").draw(["a boat"], 0) for settings in (plain, laid))
    assert (without - with_it).abs().max() > 3e-3


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"scheduler": "EulerDiscretScheduler"}, 'did you mean "EulerDiscreteScheduler"'),
        ({"scheduler_options": {"timestep_spaceing": 1}}, 'did you mean "timestep_spacing"'),
        ({"call": {"heigth": 16}}, 'did you mean "height"'),
        ({"call": {"num_inference_steps": 3}}, "see --steps"),
        ({"name": "student"}, "cannot be the name of a peer"),
        ({"name": "a/b"}, "cannot be the name of a peer"),
        ({"dtype": "int8"}, "none of float32"),
        ({"steps": 0}, "steps must be at least 1"),
        ({"variant": "fp16"}, 'no weights of the variant "fp16"|cannot load'),
        ({"lora": "nowhere.safetensors"}, "the LoRA nowhere.safetensors does not exist"),
    ],
)
def test_wrong_options_are_named(turbo, options, told):
    with pytest.raises(UserError, match=told):
        Peer(PeerConfig(str(turbo), **options), "cpu").draw(["a boat"], 0)


def test_what_takes_no_prompt_is_no_peer(run, tmp_path, capsys):
    folder = families.write("dit", tmp_path / "dit")
    assert main(["evaluate", str(run), "--pipeline", str(folder)]) == 2
    assert "DiTPipeline, which takes no prompt" in capsys.readouterr().err
    assert main(["evaluate", str(run), "--pipeline", "nobody/nothing"]) == 2
    assert "teacher.path" not in capsys.readouterr().err
    assert main(["evaluate", str(run), "steps=3"]) == 2
    assert "name one with --pipeline" in capsys.readouterr().err
