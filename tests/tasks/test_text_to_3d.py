"""The text-to-3D task: one short run through the command line, its resumption, and bad input."""

import json
import shutil
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image
from transformers import ByT5Tokenizer

from scorefield import config as configuration
from scorefield import resources
from scorefield.cli import main
from scorefield.commands.common import open_run
from scorefield.evaluation.judge import Judge
from scorefield.generators.nerf import NerfGenerator
from scorefield.losses import LOSSES
from scorefield.teachers.perp_neg import view_condition
from scorefield.teachers.pipeline import unread_by
from scorefield.three_d import truth
from scorefield.three_d.camera_law import VIEWS
from scorefield.three_d.cameras import orbit
from scorefield.three_d.export import read_glb
from scorefield.three_d.splat_files import read_splats
from scorefield.training import checkpoint
from tasks.text_to_3d.prompts import PromptViews, directional, unseen_words, warn_of_unread, warn_of_unseen, worded
from tasks.text_to_3d.settings import TextTo3DConfig, WordsConfig
from tests.browser import chromium, needs_chromium
from tests.teachers.families import clip_tokenizer, gemma_tokenizer

SHORT = [
    "prompt=a red chair",
    "training.batch=4",
    "training.device=cpu",
    "training.log_every=1",
    "training.generator.decay=none",  # a shorter run is then the start of a longer one
    "checkpoints.every=2",
    "render.size={0: 16}",
    "render.samples=24",
    "field.resolutions=[8, 16]",
    "evaluation.size=16",
    "evaluation.views=4",
    "assets={resolution: 24, faces: 400, texture: 64, frames: 3, side: 32}",
    "regularizers.entropy={0: 1.0}",
]


def run(out, *more: str) -> int:
    return main(["run", "tasks/text_to_3d", "--out", str(out), *SHORT, *more])


@pytest.fixture(scope="module")
def done(tmp_path_factory):
    out = tmp_path_factory.mktemp("text_to_3d") / "run"
    assert run(out, "training.iterations=4") == 0
    return out


def test_a_run_ends_with_pictures_summary_and_report(done):
    summary = json.loads((done / "summary.json").read_text())
    assert summary["assets"][0]["prompt"] == "a red chair"
    assert summary["overhead_ratio"] == summary["step_seconds"] / summary["bare_seconds"] > 0
    assert 0 <= summary["assets"][0]["judge_accuracy"] <= 1
    with Image.open(done / "samples" / "iteration-000004.png") as sheet:
        assert sheet.size == (8 * 16, 3 * 16)  # colour, normal and depth of the same eight views
    page = (done / "report.html").read_text()
    assert "a red chair" in page
    for side in ("front 0°", "side 45°", "back 180°", "side 315°"):
        for kind in ("colour", "normals", "depth"):
            assert f'alt="{side}, {kind}"' in page
        assert f'alt="{side}, 2"' in page  # … and its colour at iteration 2
    last = [json.loads(line) for line in (done / "metrics.jsonl").read_text().splitlines()]
    assert all(record.get("nan_samples", 0) == 0 and record.get("skipped_steps", 0) == 0 for record in last)
    assert any("loss/roundtrip" in record and "loss/entropy" in record for record in last)


@needs_chromium
def test_the_runs_page_shows_its_asset_and_turns_it(done, tmp_path):
    with chromium(tmp_path / "profile") as browser:
        browser.open(done / "report.html", 1100, 900)
        browser.until("document.querySelector('.asset-viewer').dataset.state === 'shown'")
        browser.value("document.querySelectorAll('video').forEach(film => film.pause())")
        browser.value("document.querySelector('.asset-viewer').scrollIntoView()")
        place = "document.querySelector('.asset-viewer canvas').getBoundingClientRect()"
        x, y, side = (round(browser.value(f"{place}.{key}")) for key in ("x", "y", "width"))
        shots = [browser.shot()]
        browser.drag((x + side / 2, y + side / 2), (x + side / 2 + 120, y + side / 2 + 60))
        shots.append(browser.shot())
        errors = browser.errors
    for name, shot in zip(("before", "after"), shots, strict=True):
        shot.save(tmp_path / f"{name}.png")
    before, after = (np.array(shot).astype(int)[y : y + side, x : x + side] for shot in shots)
    ground = before[3, 3]
    assert (np.abs(before - ground).max(-1) > 20).mean() > 0.05  # something stands there
    assert (np.abs(after - before).max(-1) > 5).mean() > 0.01  # … and another side of it after the drag
    assert errors == []


def test_an_interrupted_run_goes_on_bit_for_bit(done, tmp_path):
    assert run(tmp_path / "r", "training.iterations=2") == 0
    assert run(tmp_path / "r", "training.iterations=4", "--resume") == 0
    one, two = (checkpoint.load(checkpoint.newest_whole(path / "checkpoints")) for path in (done, tmp_path / "r"))
    assert one.iteration == two.iteration == 4
    assert {"projection.0.weight"} < set(one.weights["online"])
    for part in ("generator", "ema", "online"):
        assert one.weights[part].keys() == two.weights[part].keys()
        for name, value in one.weights[part].items():
            assert torch.equal(value, two.weights[part][name]), name


def test_the_judge_takes_no_part_in_training(done, tmp_path, monkeypatch):
    """The same run without it, and with all that knows the truth out of order, trains the same fields."""

    def broken(*given, **named):
        raise AssertionError("training asked the judge")

    for owner, name in ((Judge, "load"), (Judge, "read"), (truth, "evaluate_mesh"), (truth, "novel_psnr")):
        monkeypatch.setattr(owner, name, broken)
    assert run(tmp_path / "r", "training.iterations=4", "evaluation.judge=none") == 0
    one, two = (checkpoint.load(checkpoint.newest_whole(path / "checkpoints")) for path in (done, tmp_path / "r"))
    for part in ("generator", "ema", "online"):
        for name, value in one.weights[part].items():
            assert torch.equal(value, two.weights[part][name]), name


def test_sample_writes_named_views(done, tmp_path):
    assert main(["sample", str(done), "front", "45", "--out", str(tmp_path)]) == 0
    assert sorted(path.name for path in tmp_path.glob("*.png")) == ["000-front.png", "001-45.png"]
    assert main(["sample", str(done), "upward", "--out", str(tmp_path)]) == 2


def test_saved_fields_are_seen_whole(done):
    """What is asked of a saved run skips no cell that holds something: here thin rods, which fill few cells whole."""
    task, weights, _ = open_run(done, "cpu")
    grid = task.restore(weights).fields[0].grid
    dense = torch.full_like(grid.levels[1], 0.0)
    dense[0, 0] = -40.0
    dense[0, 0, :, 4::4, 4::4] = 20.0
    changed = weights | {name: torch.zeros_like(v) for name, v in weights.items() if name.endswith("levels.0")}
    (name,) = [name for name in weights if name.endswith("levels.1")]
    restored = task.restore(changed | {name: dense})
    cells, side = restored.grids[0], restored.grids[0].side
    finest = torch.linspace(-1, 1, side * 6 + 1)[:-1] + 1 / (side * 6)
    points = torch.stack(torch.meshgrid(finest, finest, finest, indexing="ij"), -1).view(-1, 3)
    filled = 1 - (-cells.step * restored.fields[0].density(points)).exp() > cells.threshold
    assert 0.01 < filled.float().mean() < 0.5
    assert cells.holds(points[filled]).float().mean() > 0.94  # one look at each cell finds 60 %
    assert cells.holds(points).float().mean() < 0.6


def test_export_writes_the_assets_of_a_finished_and_of_an_interrupted_run(done, tmp_path, capsys):
    names = {f"particle-0.{kind}" for kind in ("glb", "obj", "mtl", "png", "ply", "mp4", "gif")}
    finished, cut = shutil.copytree(done, tmp_path / "finished"), shutil.copytree(done, tmp_path / "cut")
    shutil.rmtree(finished / "export")
    assert main(["export", str(finished)]) == 0
    assert "README.md shows how to load it" in capsys.readouterr().out
    assert {path.name for path in (finished / "export").iterdir()} == names | {"README.md", "assets.json"}
    last, again = (read_glb(path / "export" / "particle-0.glb") for path in (done, finished))
    assert np.array_equal(last.vertices, again.vertices)
    assert np.array_equal(last.texture, again.texture)

    for left in ("summary.json", "export", "report", "checkpoints/iteration-000004"):
        path = cut / left
        shutil.rmtree(path) if path.is_dir() else path.unlink()
    assert main(["export", str(cut), "--out", str(tmp_path / "early")]) == 0
    early = read_glb(tmp_path / "early" / "particle-0.glb")
    assert early.texture is not None
    assert early.vertices.shape != last.vertices.shape or not np.array_equal(early.vertices, last.vertices)
    (record,) = json.loads((tmp_path / "early" / "assets.json").read_text())
    assert record["watertight"] is True
    assert record["components"] >= 1

    assert main(["export", str(cut), "--only", "lora"]) == 2
    assert "task text_to_3d is exported as it is: it knows no --only" in capsys.readouterr().err
    shutil.rmtree(cut / "checkpoints")
    assert main(["export", str(cut)]) == 2
    assert "holds no whole checkpoint yet" in capsys.readouterr().err


# what a loss is given beside its name; one that is added to the registry runs with nothing beside it
WITH = {
    "sid": ["online.kind=full"],
    "nfsd": ["negative_prompt=a grey blot"],
    "csd": ["negative_prompt=a grey blot", "loss.negative=1.0"],
}
REFUSED = {"regression": "which text_to_3d does not draw"}


@pytest.mark.parametrize("loss", sorted(set(LOSSES) - set(REFUSED)))
def test_every_loss_runs_unchanged(tmp_path, loss):
    few = ["training.batch=2", "training.iterations=1", "render.size={0: 8}", "evaluation.judge=none"]
    assert run(tmp_path / "r", f"loss={{name: {loss}}}", *few, *WITH.get(loss, [])) == 0
    last = [json.loads(line) for line in (tmp_path / "r" / "metrics.jsonl").read_text().splitlines()]
    (trained,) = [record for record in last if "loss/generator" in record]
    assert trained["nan_samples"] == 0
    assert trained["skipped_steps"] == 0
    assert trained["grad_norm/generator"] > 0
    assert ("loss/online" in trained) == LOSSES.get(loss).needs_online


@pytest.mark.parametrize(
    ("words", "said"),
    [
        *((["loss.name=" + name], said) for name, said in REFUSED.items()),
        (["loss.name=nfsd"], 'loss nfsd needs a negative prompt: give negative_prompt="…"'),
        (["loss.name=csd", "loss.negative_end=0.5", "negative_prompt=' '"], "loss csd needs a negative prompt"),
    ],
)
def test_a_loss_that_this_task_cannot_feed_is_refused_before_anything_heavy(words, said, capsys):
    assert main(["run", "tasks/text_to_3d", "--dry-run", "prompt=a red chair", *words]) == 2
    assert said in capsys.readouterr().err


def test_activation_checkpointing_gives_the_same_update(tmp_path):
    after = []
    for on in ("[]", "[teacher,online]"):
        more = ["loss={name: sim}", "training.iterations=1", "evaluation.judge=none"]
        assert run(tmp_path / on, *more, f"training.activation_checkpointing={on}") == 0
        after.append(checkpoint.load(checkpoint.newest_whole(tmp_path / on / "checkpoints")).weights["generator"])
    for name, value in after[0].items():
        torch.testing.assert_close(value, after[1][name], atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["prompt="], 'no prompt: give prompt="a red chair"'),
        (["prompt=a red chair", "teacher.path=''"], "no teacher: give teacher.path"),
        (["prompt=a red chair", "field.grid=octree"], 'field.grid "octree" is unknown'),
        (["prompt=a red chair", "assets.faces=1000000"], "assets.faces must lie between 100 and 100000, not 1000000"),
        (["prompt=a red chair", "words.viewed=chair"], "words.viewed must hold {prompt}"),
        (["prompt=a red chair", "words.plain='{prompt} {colour}'"], "the wording"),
    ],
)
def test_mistakes_are_one_sentence(capsys, words, expected):
    assert main(["run", "tasks/text_to_3d", "--dry-run", *words]) == 2
    assert expected in capsys.readouterr().err


def test_words_that_the_teacher_never_saw_are_named():
    said = []
    assert unseen_words("a fluffy violet aeroplane on a beige background") == ["fluffy"]
    assert unseen_words("a red 椅子 chair, café style") == ["椅子", "café", "style"]
    assert warn_of_unseen("a red dragon", "toybox", said.append)
    assert '"dragon"' in said[0]
    assert "mug" in said[0]
    assert warn_of_unseen("a chair", "toybox", said.append)
    assert not warn_of_unseen("an orange house", "toybox", said.append)
    assert not warn_of_unseen("a red dragon", "some/pipeline", said.append)


def test_what_the_teachers_tokenizer_does_not_know_or_cuts_off_is_named():
    clip, gemma = clip_tokenizer(), gemma_tokenizer()
    assert unread_by([clip], "a 红色 chair") == ["红色"]
    assert unread_by([clip, gemma], "a 红色 chair") == ["红色"]
    assert unread_by([clip, ByT5Tokenizer()], "a 红色 chair") == []  # one that reads bytes reads all
    said = []
    teacher = SimpleNamespace(unread=lambda prompt: unread_by([clip], prompt), cut=lambda prompt: prompt[20:])
    assert warn_of_unread("a 红色 chair", teacher, said.append)
    assert said == ['warning: "红色" is outside of the teacher\'s vocabulary: it sees an unknown token there']
    assert warn_of_unread("a chair by the window", teacher, said.append)
    assert 'this is not seen: "w"' in said[1]
    assert not warn_of_unread("a red chair", teacher, said.append)


def test_renders_of_nothing_but_nans_stop_the_run_and_keep_the_last_good_one(tmp_path, monkeypatch, capsys):
    """From some iteration on every picture is NaN, as after a field's overflow."""
    real, calls = NerfGenerator.forward, []

    def broken(self, batch):
        calls.append(batch)
        return real(self, batch) * (float("nan") if len(calls) > 4 else 1.0)

    monkeypatch.setattr(NerfGenerator, "forward", broken)
    assert run(tmp_path / "r", "training.iterations=9", "training.log_every=1", "checkpoints.every=2") == 2
    said = capsys.readouterr().err.splitlines()[-1]
    assert "were not finite, so training stopped" in said
    saved = checkpoint.load(checkpoint.newest_whole(tmp_path / "r" / "checkpoints"))
    assert saved.iteration >= 1
    assert all(value.isfinite().all() for value in saved.weights["ema"].values())


def test_wordings_are_those_that_toyboxs_captions_use():
    words = WordsConfig()
    assert worded(words, "a red chair", "side", "grey") == "a red chair, side view, on a grey background"
    assert worded(words, "a red chair", None, None) == "a red chair"
    config = TextTo3DConfig()
    assert directional(config, "a red chair")
    assert not directional(config, "a red lamp")


def test_conditions_are_picked_by_view_and_background():
    config = configuration.load(TextTo3DConfig, resources.preset("text_to_3d", "default"), ["prompt=a red chair"])

    class Numbers:
        def encode(self, texts):
            self.texts = texts
            return {"text": torch.arange(len(texts))}

    teacher = Numbers()
    views = PromptViews(config, "a red chair", teacher)
    told, plain, negative = views(torch.tensor([0, 2, 1]), torch.tensor([0, 3, -1]), torch.zeros(3, 4, 4))
    assert [teacher.texts[k] for k in told["text"].tolist()] == [
        "a red chair, front view, on a grey background",
        "a red chair, back view, on a navy background",
        "a red chair, side view",
    ]
    assert [teacher.texts[k] for k in plain["text"].tolist()] == [
        "a red chair on a grey background",
        "a red chair on a navy background",
        "a red chair",
    ]
    assert negative == {}
    config.negative_prompt = " blurry "
    told_too, plain_too, negative = PromptViews(config, "a red chair", teacher)(
        torch.tensor([0, 2, 1]), torch.tensor([0, 3, -1]), torch.zeros(3, 4, 4)
    )
    assert [teacher.texts[k] for k in negative["text"].tolist()] == ["blurry"] * 3  # no view words
    assert torch.equal(told_too["text"], told["text"])
    assert torch.equal(plain_too["text"], plain["text"])


def test_perp_neg_mixes_words_by_the_cameras_angles():
    words = ["prompt=a red chair", "words.perp_neg=true"]
    config = configuration.load(TextTo3DConfig, resources.preset("text_to_3d", "default"), words)

    class Random:
        def encode(self, texts):
            self.texts = texts
            return {"text": torch.randn(len(texts), 3, generator=torch.Generator().manual_seed(0))}

    teacher = Random()
    views = PromptViews(config, "a red chair", teacher)
    azimuth, elevation = torch.tensor([0.3, 2.0, -1.2, 3.0]), torch.tensor([0.2, 0.4, -0.1, 1.3])
    ground = torch.tensor([1, -1, 1, 0])
    pose = orbit(elevation, azimuth, 3.0, 0.6, (8, 8), 0.3 * torch.ones(4, 3)).c2w  # the target does not matter
    told, plain, _ = views(torch.zeros(4, dtype=torch.long), ground, pose)
    names = [*config.background.named, None]
    for row in range(4):
        texts = [worded(config.words, "a red chair", view, names[ground[row]]) for view in VIEWS]
        rows = {"text": torch.stack([views.encoded["text"][teacher.texts.index(text)] for text in texts])}
        alone = view_condition(azimuth[row : row + 1], elevation[row : row + 1], rows)
        assert alone.keys() == told.keys()
        for key, value in alone.items():
            torch.testing.assert_close(told[key][row], value[0], atol=1e-4, rtol=1e-4)
    assert set(plain) == {"text"}
    frontless = PromptViews(config, "a red lamp", Random())
    assert not frontless.perp_neg


def test_splats_are_particles_like_others_under_perp_neg_too(tmp_path):
    some = ["generator.kind=splats", "splats.count=30", "splats.densify={every: 2, start: 2, gradient: 0.0, most: 40}"]
    out = tmp_path / "r"
    more = ["training.iterations=3", "assets.side=16", "assets.frames=2", "particles=2", *some]
    assert run(out, *more, "words.perp_neg=true", "online.camera_dropout=0.5") == 0
    assert json.loads((out / "metrics.jsonl").read_text().splitlines()[-2])["nan_samples"] == 0
    assets = json.loads((out / "summary.json").read_text())["assets"]
    assert [asset["ply"] for asset in assets] == ["export/particle-0.ply", "export/particle-1.ply"]
    assert all(0 <= asset["judge_accuracy"] <= 1 and asset["gaussians"] >= 30 for asset in assets)
    assert len(read_splats(out / "export" / "particle-0.ply").means) == assets[0]["gaussians"]
    assert "3D Gaussian" in (out / "export" / "README.md").read_text()
    assert main(["run", "tasks/text_to_3d", "--dry-run", "prompt=a red chair", *some, "texture_of=x"]) == 2


@pytest.mark.parametrize(
    "preset", ["default", "splats", "sds", "prolificdreamer-object", "prolificdreamer-scene", "dive3d"]
)
def test_presets_are_whole(preset, capsys):
    words = ["--config", preset, "prompt=a red chair", "teacher.path=toybox"]
    assert main(["run", "tasks/text_to_3d", "--dry-run", *words]) == 0
    assert "a red chair" in capsys.readouterr().out


@pytest.mark.parametrize(("prompt", "rows"), [("a red chair", 3), ("a red lamp", 1)])
def test_preview_shows_what_the_teacher_draws_for_each_view(tmp_path, prompt, rows):
    out = tmp_path / "seen.png"
    more = ["evaluation.teacher_samples=2", "evaluation.teacher_steps=4"]
    assert main(["preview", "tasks/text_to_3d", f"prompt={prompt}", "--out", str(out), *more]) == 0
    with Image.open(out) as sheet:
        assert sheet.width == 2 * 64
        assert sheet.height % rows == 0
        assert sheet.height > rows * 64
