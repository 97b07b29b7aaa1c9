"""``train-teacher`` at a tiny scale, from pictures to a folder that the main job distils."""

import json
from pathlib import Path

import pytest
import torch

from scorefield.cli import main
from scorefield.images import save_image
from scorefield.teachers.pixart import PixArt

TINY = [
    "resolution=32",
    "device=cpu",
    "architecture.layers=1",
    "architecture.heads=2",
    "architecture.head_dim=8",
    "architecture.text_width=16",
    "architecture.text_layers=1",
    "architecture.text_heads=2",
    "autoencoder.widths=[8,8,8]",
]
TINY += [f"{stage}.{key}" for stage in ("autoencoder", "transformer", "judge_stage") for key in ("steps=2", "batch=4")]
CAPTIONS = ["a red square", "a GREEN square", "a blue square", "a square, gelb — été", "a white square"]


def make_folder(path: Path) -> Path:
    """Five plain pictures of several sizes, name.png beside name.txt, one in a folder below, one without caption."""
    colors = torch.tensor([[1.0, -1, -1], [-1, 1, -1], [-1, -1, 1], [1, 1, -1], [1, 1, 1]])
    for number, (color, caption) in enumerate(zip(colors, CAPTIONS, strict=True)):
        place = path / ("more" if number == 4 else "") / f"{number}.png"
        save_image(color.view(3, 1, 1).expand(3, 24 + 9 * number, 40), place)
        place.with_suffix(".txt").write_text(caption + "\n", encoding="utf-8")
    save_image(torch.zeros(3, 20, 20), path / "uncaptioned.png")
    return path


def distils(pipeline: Path, out: Path, *more: str) -> None:
    """Two iterations of the main job with this teacher."""
    settings = ["training.iterations=2", "training.batch=4", "training.device=cpu", "evaluation.judge=none"]
    settings += ["evaluation.samples=2", "evaluation.teacher_steps=2", "evaluation.preview=2", "prompts.count=8"]
    assert main(["run", "text_to_image", "--out", str(out), f"teacher.path={pipeline}", *settings, *more]) == 0
    summary = json.loads((out / "summary.json").read_text())
    assert summary["iterations"] == 2
    assert summary["nan_samples"] == 0


def test_toybox_end_to_end(tmp_path):
    from scorefield.evaluation.judge import Judge

    assert main(["train-teacher", "--out", str(tmp_path / "t"), "images=16", "wordings=2", *TINY]) == 0
    pipeline = PixArt(str(tmp_path / "t" / "pipeline"), max_tokens=64)
    assert pipeline.latent_shape == (4, 8, 8)
    assert pipeline.prediction == "eps"
    text, z = pipeline.encode(["a red chair"]), torch.randn(1, 4, 8, 8)
    x0 = pipeline.denoiser()(z, torch.ones(1), text)
    assert torch.isfinite(x0).all()
    assert pipeline.decode(x0.detach()).shape == (1, 3, 32, 32)
    assert set(Judge.load(tmp_path / "t" / "judge", "cpu").heads) == {"object", "color", "view"}
    distils(tmp_path / "t" / "pipeline", tmp_path / "run")


def test_a_second_call_keeps_what_is_done(tmp_path, capsys):
    words = ["train-teacher", "--out", str(tmp_path / "t"), "images=8", "judge=false", *TINY]
    assert main(words) == 0
    first = (tmp_path / "t" / "vae" / "diffusion_pytorch_model.safetensors").read_bytes()
    capsys.readouterr()
    assert main([*words, "transformer.steps=3"]) == 0
    said = capsys.readouterr().out
    assert "teacher: going on from step 2" in said
    assert "autoencoder" not in said
    assert (tmp_path / "t" / "vae" / "diffusion_pytorch_model.safetensors").read_bytes() == first


def test_a_stage_stopped_while_it_writes_its_result_is_finished_by_the_next_call(tmp_path, monkeypatch):
    from diffusers import AutoencoderKL

    words = ["train-teacher", "--out", str(tmp_path / "t"), "images=8", "judge=false", *TINY]

    def stopped(vae, folder):
        vae.save_config(folder)  # as diffusers does: what the folder is told by comes first
        raise KeyboardInterrupt

    monkeypatch.setattr(AutoencoderKL, "save_pretrained", stopped)
    assert main(words) == 130
    assert not (tmp_path / "t" / "vae").exists()
    monkeypatch.undo()
    assert main(words) == 0
    assert PixArt(str(tmp_path / "t" / "pipeline")).latent_shape == (4, 8, 8)


def test_a_folder_of_captioned_pictures_end_to_end(tmp_path, capsys):
    data = make_folder(tmp_path / "data")
    assert main(["train-teacher", "--data", str(data), "--out", str(tmp_path / "t"), *TINY]) == 0
    assert f"reading {len(CAPTIONS)} pictures" in capsys.readouterr().out
    assert not (tmp_path / "t" / "judge").exists()
    prompts = tmp_path / "prompts.txt"
    prompts.write_text("\n".join(CAPTIONS), encoding="utf-8")
    distils(tmp_path / "t" / "pipeline", tmp_path / "run", f"prompts.path={prompts}")


def test_a_folder_with_a_listing(tmp_path):
    from scorefield.pretrain.sources import FolderSource

    data = make_folder(tmp_path)
    lines = [{"file": "2.png", "caption": "first"}, {"file": "more/4.png", "caption": "second"}]
    (data / "captions.jsonl").write_text("\n".join(map(json.dumps, lines)))
    source = FolderSource(str(data), 16)
    assert source.captions(0, 2) == [["first"], ["second"]]
    pictures = source.images(0, 2)
    assert pictures.shape == (2, 3, 16, 16)
    assert pictures[:, :, 8, 8].tolist() == [[0, 0, 255], [255, 255, 255]]


def break_caption(data: Path) -> None:
    (data / "1.txt").write_bytes(b"caf\xe9")


def break_picture(data: Path) -> None:
    whole = (data / "1.png").read_bytes()
    (data / "1.png").write_bytes(whole[: len(whole) // 2])


def no_picture(data: Path) -> None:
    (data / "1.png").write_text("this is no picture")


def no_captions(data: Path) -> None:
    for path in data.rglob("*.txt"):
        path.unlink()


def broken_listing(data: Path) -> None:
    (data / "captions.jsonl").write_text('{"file": "0.png", "caption": "x"}\n{"file": \n')


def listing_of_nothing(data: Path) -> None:
    (data / "captions.jsonl").write_text('{"file": "nowhere.png", "caption": "x"}\n')


@pytest.mark.parametrize(
    ("damage", "expected"),
    [
        (no_captions, "holds no captioned picture"),
        (break_caption, "1.txt"),
        (break_picture, "1.png"),
        (no_picture, "1.png"),
        (broken_listing, "captions.jsonl line 2"),
        (listing_of_nothing, "nowhere.png"),
    ],
)
def test_a_bad_folder_gets_one_clear_line(damage, expected, tmp_path, capsys):
    data = make_folder(tmp_path / "data")
    damage(data)
    assert main(["train-teacher", "--data", str(data), "--out", str(tmp_path / "t"), *TINY]) == 2
    said = capsys.readouterr().err.strip().splitlines()
    assert len(said) == 1
    assert expected in said[0]
    assert not (tmp_path / "t" / "pipeline").exists()


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["--data", "nowhere"], "nowhere does not exist"),
        (["resolution=50"], "48 is the nearest"),
        (["transformer.steps=0"], "at least 1"),
        (["transformer.stepps=3"], 'did you mean "transformer.steps"'),
        (["--config", "nowhere.yaml"], "nowhere.yaml does not exist"),
    ],
)
def test_mistakes_get_one_clear_line(words, expected, tmp_path, capsys):
    assert main(["train-teacher", "--out", str(tmp_path / "t"), *TINY, *words]) == 2
    said = capsys.readouterr().err.strip().splitlines()
    assert len(said) == 1
    assert expected in said[0]
