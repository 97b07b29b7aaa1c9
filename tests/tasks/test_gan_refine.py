"""The GAN refinement task on tiny random networks: a whole run, its files, and what it refuses."""

import json

import numpy as np
import pytest
import torch

from scorefield import networks
from scorefield.cli import main
from scorefield.commands.common import open_run
from scorefield.evaluation.judge import Judge
from scorefield.importer.open import open_network
from scorefield.random import Draws
from scorefield.teachers.online import full_copy

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


def gan_kwargs(side=SIDE, classes=CLASSES):
    kwargs = {"z_dim": 8, "c_dim": classes, "w_dim": 8, "img_resolution": side, "img_channels": 3}
    small = {"channel_base": 8 * side, "channel_max": 8}
    return {**kwargs, "mapping_kwargs": {"num_layers": 2}, "synthesis_kwargs": small}


def gan(side=SIDE, classes=CLASSES):
    return networks.build("Generator", gan_kwargs(side, classes))


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
    assert summary["overhead_ratio"] == summary["step_seconds"] / summary["bare_seconds"] > 0
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
    words = [
        "evaluation.data=toybox",
        f"evaluation.judge={place}",
        "evaluation.samples=24",
        "evaluation.real=40",
        "evaluation.per_class=2",
    ]
    assert run(place, *words) == 0
    summary = json.loads((place / "run" / "summary.json").read_text())
    for who in ("before", "after"):
        low, high = summary[who]["frechet_interval"]
        assert low < summary[who]["frechet"] < high
    assert "judge" in summary["feature_network"]
    assert summary["gain"]["beyond_the_spread"] == (
        summary["after"]["frechet_interval"][1] < summary["before"]["frechet_interval"][0]
    )


def test_terms_truncation_and_nearest_pictures_on_request(place):
    torch.manual_seed(0)
    Judge({"object": [str(k) for k in range(4)]}, (8, 8, 8, 16)).save(place / "judge")
    real = np.random.default_rng(0).integers(0, 256, (30, SIDE, SIDE, 3), dtype=np.uint8)
    np.savez(place / "real.npz", images=real, labels=np.arange(30) % CLASSES)
    words = [f"evaluation.judge={place}", f"evaluation.data={place / 'real.npz'}", "evaluation.samples=10"]
    words += ["evaluation.real=15", "evaluation.per_class=2", "evaluation.truncation=[1.0,0.5]", "evaluation.nearest=3"]
    words += ["evaluation.running=8"]
    terms = ["terms.adversarial.weight=0.1", f"terms.adversarial.data={place / 'real.npz'}", "terms.anchor.weight=1"]
    assert run(place, *words, *terms, "terms.adversarial.head=conv") == 0
    out = place / "run"
    lines = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    last = [line for line in lines if "loss/generator" in line][-1]
    assert last["loss/adversarial"] > 0
    assert 0.1 < last["loss/adversarial_online"] < 3
    assert last["loss/anchor"] > 0
    summary = json.loads((out / "summary.json").read_text())
    assert summary["real"]["samples"] == 10
    assert summary["frechet_name"] == "FD-judge"
    assert summary["conventions"]["pictures"].startswith(f"{SIDE} px")
    looks = [line["eval/frechet"] for line in lines if "eval/frechet" in line]
    assert len(looks) == 3  # before, and after two and four iterations
    assert all(value > 0 for value in looks)
    assert "Fréchet distance while training" in (out / "report.html").read_text()
    sweep = json.loads((out / "evaluation" / "truncation.json").read_text())
    assert [row["psi"] for row in sweep] == [0.5, 1.0]
    for row in sweep:
        assert row["before frechet"] > 0
    first = summary["before"]["frechet_interval"]
    assert first[0] < summary["before"]["frechet"] < first[1]
    found = json.loads((out / "evaluation" / "nearest.json").read_text())
    assert [row["sample"] for row in found] == [0, 1, 2]
    varied = json.loads((out / "evaluation" / "diversity.json").read_text())
    assert list(varied["before"]) == ["0", "1", "2"]
    page = (out / "report.html").read_text()
    for title in ("Truncation", "Nearest real pictures", "Diversity by class", "FD-judge", " to "):
        assert title in page
    assert main(["export", str(out), "--out", str(place / "out")]) == 0
    assert open_network(place / "out" / "G_ema").c_dim == CLASSES  # the terms are no part of it


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
        (["online.augment=0.1"], "teacher", "gan", "was not trained to be told of augmentation"),
        (["online.mirror=0.5"], "teacher", "gan", "part of the augmentation"),
        (["evaluation.running=3"], "teacher", "gan", "at least 5"),
        (["generator.trainable=al"], "teacher", "gan", '"all"'),
        (["generator.labels=[1,2]"], "teacher", "gan", "3 numbers"),
        (["training.online_warmup=4"], "teacher", "gan", "online_warmup"),
        (["terms.adversarial.weight=1"], "teacher", "gan", "terms.adversarial.data"),
        (["terms.divergence.name=forward_kl"], "teacher", "gan", "terms.adversarial.data"),
        (["evaluation.features=nobody"], "teacher", "gan", "no feature network"),
        (["evaluation.judge=toybox32", "evaluation.reference=no.npz"], "teacher", "gan", "does not exist"),
        (["evaluation.reference=no.npz"], "teacher", "gan", "no network that reads features"),
        (["evaluation.data=no.npz"], "teacher", "gan", "no network that reads features"),
        ([], "discriminator", "gan", "raw network"),
        ([], "teacher", "discriminator", "holds a Discriminator, not a StyleGAN2 generator"),
    ],
)
def test_what_does_not_fit_is_refused_before_anything_starts(place, capsys, words, teacher, generator, message):
    networks.save(unet(classes=5), place / "classes")
    networks.save(unet(channels=1), place / "grey")
    networks.save(unet(side=32), place / "big")
    kwargs = {"c_dim": CLASSES, "img_resolution": SIDE, "img_channels": 3, "channel_base": 64, "channel_max": 8}
    networks.save(networks.build("Discriminator", kwargs), place / "discriminator")
    assert run(place, *words, teacher=teacher, generator=generator) == 2
    assert message in capsys.readouterr().err
    assert not (place / "run" / "checkpoints").exists()


def test_networks_of_ones_own_are_not_measured_against_toybox(place, capsys):
    """The default's real pictures, rates and length are those of the embedded networks."""
    words = ["run", "gan_refine", "--dry-run", f"generator={place / 'gan'}", f"teacher={place / 'teacher'}"]
    assert main(words) == 0
    said = capsys.readouterr()
    assert "preset official" in said.err
    assert "nothing will be measured" in said.err
    assert main(["config", "gan_refine", *words[3:]]) == 0
    given = capsys.readouterr().out
    assert "data: none" in given
    assert "learning_rate: 1.0e-05" in given
    assert main(["config", "gan_refine"]) == 0
    embedded = capsys.readouterr().out
    assert "data: toybox" in embedded
    assert main(["config", "gan_refine", "generator=toybox32/gan", "training.seed=3"]) == 0
    assert capsys.readouterr().out == embedded.replace("seed: 0", "seed: 3")


def test_the_online_score_may_see_augmented_pictures_and_is_told(place):
    network = networks.build("EDMPrecond", {**unet().recipe["kwargs"], "augment_dim": 9})
    networks.save(network, place / "told")
    assert run(place, "online.augment=1.0", teacher="told") == 0
    state = open_run(place / "run", "cpu")[0]
    state.teacher = state.open_teacher()
    generator = state.open_generator()
    x0, draws = torch.rand(3, 3, SIDE, SIDE), Draws(0, 0, torch.arange(3))
    seen, condition = generator.online_view(x0, {"label": torch.eye(3)}, draws)
    assert condition["augment"].shape == (3, 9)
    assert condition["label"].shape == (3, 3)
    assert not torch.allclose(seen, x0)
    trained = {name for name, p in full_copy(state.first).named_parameters() if p.requires_grad}
    assert "network.model.map_augment.weight" in trained


def test_a_run_that_nothing_measures_says_so(place, capsys):
    assert run(place) == 0
    summary = json.loads((place / "run" / "summary.json").read_text())
    assert summary["before"]["frechet"] is None
    assert "nothing was measured" in (place / "run" / "report.html").read_text()
    assert json.loads((place / "run" / "environment.json").read_text())["preset"] == "gan_refine/official"


def test_without_players_the_embedded_gan_is_refined(tmp_path):
    small = ["training.iterations=3", "training.batch=4", "training.online_warmup=1", "training.device=cpu"]
    small += ["checkpoints.every=3", "evaluation.samples=24", "evaluation.real=40", "evaluation.draws=2"]
    small += ["evaluation.per_class=2", "evaluation.preview=4"]
    small += ["start.pictures=42", "start.teacher_steps=2", "start.adversary.steps=2", "start.balance.clusters=[2]"]
    small += ["start.balance.latents=84", "start.balance.steps=4"]
    assert main(["run", "gan_refine", "--out", str(tmp_path / "run"), *small]) == 0
    summary = json.loads((tmp_path / "run" / "summary.json").read_text())
    assert 0 < summary["before"]["frechet"] != summary["after"]["frechet"]
    assert main(["export", str(tmp_path / "run"), "--out", str(tmp_path / "out")]) == 0
    refined = open_network(tmp_path / "out" / "G_ema")
    assert (refined.img_resolution, refined.c_dim) == (32, 14)  # Toybox's objects
