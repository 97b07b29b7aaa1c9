"""The GAN refinement task on tiny random networks: a whole run, its files, and what it refuses."""

import json

import pytest
import torch

from scorefield import networks
from scorefield.cli import main
from scorefield.evaluation.judge import Judge
from scorefield.importer.open import open_network

SIDE, CLASSES = 16, 3


def unet(side=SIDE, classes=CLASSES, channels=3):
    return networks.build(
        "EDMPrecond",
        {
            "img_resolution": side,
            "img_channels": channels,
            "label_dim": classes,
            "model_type": "SongUNet",
            "model_channels": 32,
            "channel_mult": [1],
            "num_blocks": 1,
            "attn_resolutions": [],
        },
    )


def gan(side=SIDE, classes=CLASSES):
    kwargs = {"z_dim": 8, "c_dim": classes, "w_dim": 8, "img_resolution": side, "img_channels": 3}
    small = {"channel_base": 8 * side, "channel_max": 8}
    return networks.build("Generator", {**kwargs, "mapping_kwargs": {"num_layers": 2}, "synthesis_kwargs": small})


@pytest.fixture
def place(tmp_path):
    torch.manual_seed(0)
    networks.save(unet(), tmp_path / "teacher")
    networks.save(gan(), tmp_path / "gan")
    return tmp_path


def run(place, *words, teacher="teacher", generator="gan"):
    common = ["training.iterations=4", "training.batch=4", "training.device=cpu", "training.online_warmup=2"]
    common += ["checkpoints.every=2", "evaluation.judge=none", "evaluation.preview=3", "training.log_every=1"]
    players = [f"generator={place / generator}", f"teacher={place / teacher}"]
    return main(["run", "gan_refine", "--out", str(place / "run"), *players, *common, *words])


def test_a_run_moves_the_generator_and_hands_it_back(place):
    assert run(place) == 0
    summary = json.loads((place / "run" / "summary.json").read_text())
    assert summary["before"].keys() >= {"frechet", "frechet_interval", "precision", "recall", "kid", "diversity"}
    assert summary["after"].keys() == summary["before"].keys()
    pairs = json.loads((place / "run" / "evaluation" / "pairs.json").read_text())
    assert all((place / "run" / pair[name]).is_file() for pair in pairs for name in ("before", "after"))
    lines = [json.loads(line) for line in (place / "run" / "metrics.jsonl").read_text().splitlines()]
    steps = [line for line in lines if "loss/online" in line]
    assert ["loss/generator" in line for line in steps] == [False, False, True, True]  # two of warm-up

    assert main(["export", str(place / "run"), "--out", str(place / "out")]) == 0
    old, new = open_network(place / "gan"), open_network(place / "out" / "G_ema")
    assert any(not torch.equal(a, b) for a, b in zip(old.parameters(), new.parameters(), strict=True))
    state = torch.load(place / "out" / "G_ema.pt", weights_only=True)
    old.load_state_dict(state)  # the documented line
    z, label = torch.randn(2, 8), torch.eye(CLASSES)[:2]
    assert torch.equal(old(z, label, noise_mode="const"), new(z, label, noise_mode="const"))


def test_only_the_chosen_parameters_move(place):
    assert run(place, "generator.trainable=mapping", "generator.update_w_avg=true") == 0
    assert main(["export", str(place / "run"), "--out", str(place / "out")]) == 0
    old, new = open_network(place / "gan").state_dict(), open_network(place / "out" / "G_ema").state_dict()
    moved = {name for name in old if not torch.equal(old[name], new[name])}
    assert moved
    assert all(name.startswith("mapping.") for name in moved)
    assert "mapping.w_avg" in moved


def test_larger_pictures_are_resized_for_the_teacher_and_kept_for_the_export(place):
    networks.save(gan(2 * SIDE), place / "large")
    assert run(place, generator="large") == 0
    assert main(["export", str(place / "run"), "--out", str(place / "out")]) == 0
    assert open_network(place / "out" / "G_ema").img_resolution == 2 * SIDE


def test_figures_with_a_judge(place):
    torch.manual_seed(0)
    Judge({"object": [str(k) for k in range(4)]}).save(place / "judge")
    words = [f"evaluation.judge={place}", "evaluation.samples=24", "evaluation.real=40", "evaluation.per_class=2"]
    assert run(place, *words) == 0
    summary = json.loads((place / "run" / "summary.json").read_text())
    for who in ("before", "after"):
        low, high = summary[who]["frechet_interval"]
        assert low < summary[who]["frechet"] < high
    assert "judge" in summary["feature_network"]
    assert summary["gain"]["beyond_the_spread"] == (
        summary["after"]["frechet_interval"][1] < summary["before"]["frechet_interval"][0]
    )


@pytest.mark.parametrize(
    ("words", "teacher", "generator", "message"),
    [
        ([], "classes", "gan", "5 classes and the generator 3"),
        ([], "grey", "gan", "3 channels, the teacher's 1"),
        ([], "big", "gan", "16 px and the teacher's 32 px"),
        ([], "teacher", "teacher", "not a StyleGAN2 generator"),
        ([], "gan", "gan", "not a diffusion teacher"),
        ([], "teacher", "nothing", "no network at"),
        (["evaluation.samples=1"], "teacher", "gan", "at least 5"),
        (["generator.trainable=al"], "teacher", "gan", '"all"'),
        (["generator.labels=[1,2]"], "teacher", "gan", "3 numbers"),
        (["training.online_warmup=4"], "teacher", "gan", "online_warmup"),
    ],
)
def test_what_does_not_fit_is_refused_before_anything_starts(place, capsys, words, teacher, generator, message):
    networks.save(unet(classes=5), place / "classes")
    networks.save(unet(channels=1), place / "grey")
    networks.save(unet(side=32), place / "big")
    assert run(place, *words, teacher=teacher, generator=generator) == 2
    assert message in capsys.readouterr().err
    assert not (place / "run" / "checkpoints").exists()


def test_an_empty_path_is_asked_for(place, capsys):
    assert main(["run", "gan_refine", "--out", str(place / "run"), "generator.path="]) == 2
    assert "generator.path is empty" in capsys.readouterr().err


def test_without_players_the_embedded_gan_is_refined(tmp_path):
    small = ["training.iterations=3", "training.batch=4", "training.online_warmup=1", "training.device=cpu"]
    small += ["checkpoints.every=3", "evaluation.samples=24", "evaluation.real=40", "evaluation.draws=2"]
    small += ["evaluation.per_class=2", "evaluation.preview=4"]
    assert main(["run", "gan_refine", "--out", str(tmp_path / "run"), *small]) == 0
    summary = json.loads((tmp_path / "run" / "summary.json").read_text())
    assert 0 < summary["before"]["frechet"] != summary["after"]["frechet"]
    assert main(["export", str(tmp_path / "run"), "--out", str(tmp_path / "out")]) == 0
    refined = open_network(tmp_path / "out" / "G_ema")
    assert (refined.img_resolution, refined.c_dim) == (32, 14)  # Toybox's objects
