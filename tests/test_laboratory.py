"""The scripts behind docs/results: they compare what they say, and their shortcuts are exact."""

import importlib
import io
import json

import numpy as np
import pytest
import torch
import yaml
from PIL import Image

from scorefield import config as configuration
from scorefield import losses, resources
from scorefield.compare import spec
from tasks.text_to_image.settings import TextToImageConfig

ROOT = resources.root()


@pytest.fixture
def script(monkeypatch):
    monkeypatch.syspath_prepend(ROOT / "scripts")
    return importlib.import_module


def seen(ring, seed=0):
    """One batch as a loss sees it, with graphs through the networks' inputs: (x0, keyword arguments, frozen ones)."""
    generator, online = ring.start("at the centre", seed)
    x0 = generator(torch.randn(64, 2)).detach().requires_grad_()
    sigma = torch.rand(64) + 0.3
    x_t = x0 + sigma[:, None] * torch.randn(64, 2)
    teacher = ring.eight_modes(ring.RADIUS, ring.STD)

    def told(inside):
        given = {"teacher_x0": teacher(inside, sigma), "online_x0": online(inside, sigma)}
        return {"x0": x0, "x_t": x_t, "sigma": sigma, **given}

    return x0, told(x_t), told(x_t.detach())


def test_freezing_x_t_in_the_networks_turns_sim_into_dmd(script):
    """Sample by sample the same but for DMD's 1/omega and Pseudo-Huber's 1/sqrt(|y|^2 + c^2); exact SIM differs."""
    x0, exact, frozen = seen(script("ring"))

    def step(loss, given):
        return torch.autograd.grad(loss(**given).sum(), x0, retain_graph=True)[0]

    sim, dmd = losses.build("sim", c=0.1), step(losses.build("dmd"), frozen)
    y = frozen["online_x0"] - frozen["teacher_x0"]
    omega = (x0 - frozen["teacher_x0"]).abs().mean(1).clamp(min=1e-5)
    expected = dmd * (omega / (y.square().sum(1) + 0.1**2).sqrt())[:, None]
    torch.testing.assert_close(step(sim, frozen), expected.detach(), rtol=1e-4, atol=1e-6)
    torch.testing.assert_close(step(losses.build("sim", c=0.1, jacobian="none"), exact), expected.detach())
    alike = torch.cosine_similarity(step(sim, exact), dmd)
    assert alike.mean() < 0.9


def test_the_questions_build_and_their_table_tells_seeds_apart(script, tmp_path):
    questions = script("ring_questions")
    for title, variants in questions.QUESTIONS.values():
        found = variants()
        assert len({v.name for v in found}) == len(found), title
        assert all(isinstance(v.build(), losses.Loss) for v in found)
    figures = dict.fromkeys(questions.COLUMNS, 1.0)
    for seed in (0, 1):
        row = figures | {"question": "path", "variant": "v", "seed": seed, "distance": 0.1 + 0.2 * seed}
        script("ring").append(tmp_path / "a.csv", row)
    assert (
        "| v | 100% (100% to 100%) | 1.0 (1.0 to 1.0) | 1.00 (1.00 to 1.00) | 0.200 (0.100 to 0.300) | 1, 1, 1 |"
        in (questions.table(script("ring").read(tmp_path / "a.csv")))
    )


def test_a_factor_on_the_loss_is_a_factor_on_its_gradient_and_nothing_to_adam(script):
    ring, questions = script("ring"), script("ring_questions")
    x0, exact, _ = seen(ring)
    plain, scaled = questions.Variant("a").build(), questions.Variant("b", factor=100.0).build()
    assert scaled.needs_jacobian
    steps = [torch.autograd.grad(loss(**exact).sum(), x0, retain_graph=True)[0] for loss in (plain, scaled)]
    torch.testing.assert_close(100 * steps[0], steps[1])
    import scorefield

    made = []
    for loss in (plain, scaled):
        generator, online = ring.start("at the centre", 0)
        given = ring.settings(loss=loss, iterations=5, batch=32)
        scorefield.distill(generator, ring.eight_modes(), online=online, **given)
        made.append(ring.samples(generator)[:100])
    torch.testing.assert_close(*made, rtol=1e-3, atol=1e-3)


def test_first_looks_share_one_base():
    first, second = (spec.read(ROOT / "configs" / "compare" / f"first_look_{n}.yaml") for n in ("loss", "training"))
    assert first.common == second.common
    assert [v.overrides for s in (first, second) for v in s.variants if v.name == "base"] == [[], []]


def test_the_emoji_preset_is_that_of_toybox_for_another_teacher():
    folder = ROOT / "configs" / "text_to_image"
    emoji, usual = (yaml.safe_load((folder / f"{name}.yaml").read_text()) for name in ("emoji", "from_teacher"))
    loaded = configuration.load(TextToImageConfig, folder / "emoji.yaml", ["teacher=elsewhere/pipeline"])
    assert loaded.teacher.path == "elsewhere/pipeline"
    assert loaded.evaluation.judge == "none"
    alone = {"iterations", "guidance_scale"}
    assert {k: v for k, v in emoji["training"].items() if k not in alone} == {
        k: v for k, v in usual["training"].items() if k not in alone
    }


def test_the_emoji_folder_keeps_one_style_and_few_people(script, tmp_path, monkeypatch, capsys):
    records, pictures = [], []
    for k in range(8):
        group = "People & Body" if k < 4 else "Objects"
        records.append({"style": ("noto", "fluent 3d")[k % 2], "caption": f"Thing {k}", "group": group})
        buffer = io.BytesIO()
        Image.new("RGBA", (8, 8), (255, 0, 0, 0 if k == 4 else 255)).save(buffer, "WEBP", lossless=True)
        pictures.append(buffer.getvalue())
    offsets = np.cumsum([0, *(len(p) for p in pictures)])
    meta = np.frombuffer("\n".join(map(json.dumps, records)).encode(), np.uint8)
    np.savez(tmp_path / "pack.npz", webp=np.frombuffer(b"".join(pictures), np.uint8), off=offsets, meta=meta)
    folder = script("emoji_folder")
    words = ["emoji_folder", str(tmp_path / "pack.npz"), "--style", "noto", "--people", "1"]
    monkeypatch.setattr("sys.argv", [*words, "--out", str(tmp_path / "out")])
    folder.main()
    lines = [json.loads(line) for line in (tmp_path / "out" / "captions.jsonl").read_text().splitlines()]
    assert [line["caption"] for line in lines] == [f"thing {k}, noto style" for k in (0, 4, 6)]
    assert Image.open(tmp_path / "out" / "00004.png").getpixel((4, 4)) == (255, 255, 255)  # transparent is white
    monkeypatch.setattr("sys.argv", [*words[:3], "nota", "--out", str(tmp_path / "none")])
    with pytest.raises(SystemExit):
        folder.main()
    assert "there are ['fluent 3d', 'noto']" in capsys.readouterr().err


def test_planted_failures_are_settings_that_exist(script, tmp_path):
    planted = script("failure_pictures")
    for words in planted.PLANTED.values():
        preset = resources.preset("text_to_image", "from_teacher")
        configuration.load(TextToImageConfig, preset, [*planted.COMMON, *words])
    (tmp_path / "samples").mkdir()
    for k, colour in ((0, "red"), (20, "green"), (60, "blue")):
        Image.new("RGB", (16, 8), colour).save(tmp_path / "samples" / f"iteration-{k:06d}.png")
    both = planted.pictures(tmp_path)
    assert (both.getpixel((3, 3)), both.getpixel((3, 16))) == ((255, 0, 0), (0, 0, 255))
    looks = [{"monitor/noise": 0.0}, {"monitor/noise": 0.9}, {"loss": 1}]
    (tmp_path / "metrics.jsonl").write_text("\n".join(map(json.dumps, looks)))
    (tmp_path / "warnings.json").write_text(json.dumps([{"monitor": "noise"}, {"monitor": "noise"}]))
    assert planted.said(tmp_path) == {"noise": "0.9", "warned": "noise"}
