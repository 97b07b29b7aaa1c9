"""The bench: its passes are those that the loss is counted to need, and it fetches nothing."""

import json

import pytest
import torch

from scorefield.cli import main
from scorefield.commands import bench as commands
from scorefield.commands.common import build_config
from scorefield.cost.passes import bare_passes, count_flops, needed_flops
from scorefield.errors import UserError
from scorefield.plugins import load_task
from scorefield.runfolder import RunFolder
from scorefield.teachers import known
from scorefield.training.trainer import Trainer
from tests.teachers import families

SMALL = ["training.device=cpu", "training.batch=4", "training.guidance_scale=3", "--rounds", "2", "--json"]
TINY = {
    "num_attention_heads": 2,
    "attention_head_dim": 8,
    "in_channels": 4,
    "out_channels": 8,
    "num_layers": 1,
    "cross_attention_dim": 16,
    "sample_size": 8,
    "caption_channels": 16,
    "use_additional_conditions": False,
}


def rows(capsys, *words: str) -> list[dict]:
    assert main(["bench", *SMALL, *words]) == 0
    found = json.loads(capsys.readouterr().out)  # nothing else on stdout
    assert set(found) == {"rows"}
    return found["rows"]


def check(row: dict, forwards: float) -> None:
    """Passes add up to the counted cost, and the ratio to what it is said to be."""
    assert row["forward_equivalents"] == forwards
    assert sum(each["forward_equivalents"] for each in row["passes"].values()) == forwards
    least = sum(each["count"] * each["seconds"] for each in row["passes"].values())
    assert row["overhead_ratio"] == pytest.approx(row["step_seconds"] / least)
    assert row["images_per_second"] == pytest.approx(4 / row["step_seconds"])
    assert row["teraflops_per_second"] > 0
    assert row["memory_bytes"]["peak"] > row["memory_bytes"]["generator"] > 0


@pytest.mark.parametrize(
    ("name", "words", "forwards"),
    [
        ("sd3", ["training.online_updates=1"], 12),
        ("sdxl", ["training.online_updates=1", "generator.kind=lora", "generator.lora_rank=1", "online.kind=lora"], 12),
        ("sd_eps", ["training.online_updates=1", "training.accumulation=2", "loss={name: dmd}"], 10),
        ("dit", ["training.online_updates=2", "training.online_training_guidance_scale=2"], 21),
    ],
)
def test_the_passes_are_those_that_the_loss_needs(name, words, forwards, tmp_path, capsys):
    folder = families.write(name, tmp_path / name)
    part = "unet" if name.startswith("sd_") or name == "sdxl" else "transformer"
    (folder / part / "diffusion_pytorch_model.safetensors").unlink()  # weights are not read
    (row,) = rows(capsys, f"teacher.path={folder}", *words)
    check(row, forwards)
    shared = "generator.kind=lora" in words
    full = 4 * row["memory_bytes"]["average"]  # weights, gradients, two moments
    assert row["memory_bytes"]["generator"] == pytest.approx(full, rel=0.03)  # and a counter a tensor
    assert (row["memory_bytes"]["generator"] > row["memory_bytes"]["teacher"]) is not shared


def test_a_preset_of_a_hub_id_needs_no_hub(monkeypatch, tmp_path, capsys):
    made = ("PixArtAlphaPipeline", "transformer", "PixArtTransformer2DModel", TINY, known.LINEAR, known.BLOCKS4)
    monkeypatch.setitem(known.KNOWN, "PixArt-alpha/PixArt-XL-2-512x512", made)
    words = ["training.batch=4", "training.accumulation=1", "training.precision=fp32"]
    twice = rows(capsys, "--config", "pixart_512", "--config", "pixart_512_lora", *words)
    assert [row["preset"] for row in twice] == ["pixart_512", "pixart_512_lora"]
    for row in twice:
        check(row, 12)


def test_the_table_for_people_names_the_ratio(tmp_path, capsys):
    folder = families.write("sd_eps", tmp_path / "sd")
    words = [word for word in SMALL if word != "--json"]
    assert main(["bench", *words, f"teacher.path={folder}"]) == 0
    assert "overhead ratio" in capsys.readouterr().out
    assert main(["bench", "--rounds", "0"]) == 2
    assert "--rounds" in capsys.readouterr().err


def flops_of(folder, tmp_path, *words: str) -> dict[str, tuple[int, int]]:
    """(operations of a pass, of its forward) by the pass's name."""
    config = build_config(load_task("text_to_image"), None, [*SMALL[:3], f"teacher.path={folder}", *words])
    players = load_task("text_to_image")(config, RunFolder(tmp_path / "run"), "cpu").rehearse()
    given = players.teacher, players.online, players.generator, config.build_loss()
    trainer = Trainer(config.training, *given)
    passes = bare_passes(trainer)
    return {name: (needed_flops(trainer, each), count_flops(each.forward)) for name, each in passes.items()}


def test_operations_are_counted_in_both_directions(tmp_path):
    folder = families.write("pixart_sigma", tmp_path / "teacher")
    full = flops_of(folder, tmp_path)
    for name in ("generator", "online score"):
        found, forward = full[f"{name}, parameter gradient"]
        assert found == pytest.approx(3 * forward, rel=0.12), name
    found, forward = full["teacher, input gradient"]
    assert 1.4 * forward < found < 2 * forward  # what is made of the text alone has no way back
    lora = flops_of(folder, tmp_path, "generator.kind=lora", "generator.lora_rank=1", "online.kind=lora")
    found, forward = lora["generator, parameter gradient"]
    assert found < 2.5 * forward  # frozen weights need no gradients of their own
    again = flops_of(folder, tmp_path, "training.activation_checkpointing=[teacher,online,generator]")
    for name, (found, _) in again.items():  # what is made twice is no more work done
        assert found == full[name][0], name


def test_all_pairs_of_values_are_timed_and_what_does_not_fit_is_passed_over(monkeypatch, tmp_path, capsys):
    folder = families.write("sd_eps", tmp_path / "sd")
    file, timed = tmp_path / "out" / "rows.json", commands.timed_row

    def small(task_class, config, *given):
        if config.training.batch == 8:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")
        return timed(task_class, config, *given)

    monkeypatch.setattr(commands, "timed_row", small)
    words = ["--vary", "loss.name=sim,dmd", "--vary", "training.batch=4,8", "--out", str(file)]
    assert main(["bench", *SMALL[:1], *SMALL[2:], *words, f"teacher.path={folder}"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found == json.loads(file.read_text())
    assert [row["varied"] for row in found["rows"]] == [
        [f"loss.name={name}", "training.batch=4"] for name in ("sim", "dmd")
    ]
    check(found["rows"][0], 15)
    check(found["rows"][1], 12)
    assert [row["varied"][1] for row in found["failed"]] == ["training.batch=8"] * 2
    assert "out of memory" in found["failed"][0]["reason"]


def test_values_to_vary():
    assert commands.variations([]) == [[]]
    assert commands.variations(["a=1,[2,3],{b: 4, c: 5}"]) == [["a=1"], ["a=[2,3]"], ["a={b: 4, c: 5}"]]
    for wrong in ("a", "a=", "=1", "a=1,"):
        with pytest.raises(UserError, match="KEY=A,B"):
            commands.variations([wrong])


def test_several_processes_are_refused(monkeypatch, capsys):
    monkeypatch.setenv("WORLD_SIZE", "2")
    assert main(["bench"]) == 2
    assert "bench times one process" in capsys.readouterr().err
