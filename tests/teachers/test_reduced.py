"""Every preset at full scale runs on a CPU with a small network of its own class."""

import json

import pytest

from scorefield.cli import main
from scorefield.teachers.known import KNOWN
from scorefield.teachers.reduced import reduced

from . import families

PRESETS = ["sd15", "sd15_lsg", "sdxl", "sdxl_lora", "pixart_512", "sd35_medium", "flux_lora", "sana"]
FORWARDS = {"sd15_lsg": 17, "flux_lora": 10}  # all three guided; told its guidance, so that no pass is doubled


@pytest.mark.parametrize("preset", PRESETS)
def test_a_preset_is_timed_reduced(preset, capsys):
    words = ["bench", "--config", preset, "--reduced", "--rounds", "1", "--json", "training.device=cpu"]
    assert main([*words, "training.precision=fp32", "training.batch=2"]) == 0
    (row,) = json.loads(capsys.readouterr().out)["rows"]
    assert (row["preset"], row["reduced"], row["batch"], row["accumulation"]) == (preset, True, 2, 1)
    assert row["forward_equivalents"] == FORWARDS.get(preset, 12)
    memory = row["memory_bytes"]
    assert 0 < memory["teacher"] < 1e8
    assert memory["activations"] > 0
    assert 0 < row["flop_utilisation"] < 2
    assert row["flop_peak"]["source"] == "matrix product of 1024"


@pytest.mark.parametrize("name", sorted(KNOWN))
def test_what_a_network_is_told_keeps_its_size(name):
    import diffusers
    import torch

    _, _, kind, settings, _, _ = KNOWN[name]
    with torch.device("meta"):
        small = getattr(diffusers, kind).from_config(reduced(settings))
    assert sum(p.numel() for p in small.parameters()) < 1.5e7
    for key in ("in_channels", "joint_attention_dim", "caption_channels", "pooled_projection_dim"):
        assert small.config.get(key) == settings.get(key, small.config.get(key)), key


def test_a_folder_of_ones_own_is_reduced_too(tmp_path, capsys):
    folder = families.write("dit", tmp_path / "dit")
    words = ["bench", "--reduced", "--rounds", "1", "--json", "training.device=cpu", "training.batch=2"]
    assert main([*words, f"teacher.path={folder}"]) == 0
    assert json.loads(capsys.readouterr().out)["rows"][0]["reduced"]


def test_a_teacher_that_is_no_pipeline_is_refused(capsys):
    assert main(["bench", "--task", "class_to_image", "--reduced", "training.device=cpu"]) == 2
    assert "--reduced makes small copies of diffusers pipelines" in capsys.readouterr().err
