"""``scorefield evaluate NETWORK``: a stored network measured by itself, and what is no such network."""

import json

import numpy as np
import pytest
import torch

from scorefield import networks
from scorefield.cli import main
from scorefield.errors import UserError
from scorefield.evaluation.judge import Judge
from scorefield.evaluation.stored import StoredConfig, is_network, source
from scorefield.generators.labels import label_law
from scorefield.random import Draws

SIDE = 16


@pytest.fixture
def place(tmp_path):
    torch.manual_seed(0)
    Judge({"object": [str(k) for k in range(4)]}, (8, 8, 8, 16)).save(tmp_path / "judge")
    kwargs = {"z_dim": 8, "c_dim": 3, "w_dim": 8, "img_resolution": SIDE, "img_channels": 3}
    small = {"channel_base": 8 * SIDE, "channel_max": 8}
    networks.save(networks.build("Generator", {**kwargs, "synthesis_kwargs": small}), tmp_path / "gan")
    unet = {"img_resolution": SIDE, "img_channels": 3, "label_dim": 3, "model_type": "SongUNet", "model_channels": 32}
    unet |= {"channel_mult": [1], "num_blocks": 1, "attn_resolutions": []}
    networks.save(networks.build("EDMPrecond", unet), tmp_path / "teacher")
    real = np.random.default_rng(0).integers(0, 256, (60, SIDE, SIDE, 3), dtype=np.uint8)
    np.savez(tmp_path / "real.npz", images=real, labels=np.repeat([0, 1, 2], [10, 20, 30]))
    return tmp_path


def common(place):
    return ["--data", str(place / "real.npz"), "--samples", "20", "--device", "cpu", f"judge={place}", "real=30"]


def test_it_measures_what_a_refinement_calls_before(place, capsys):
    out = place / "figures.json"
    assert main(["evaluate", str(place / "gan"), *common(place), "--out", str(out)]) == 0
    figures = json.loads(out.read_text())
    low, high = figures["network"]["frechet_interval"]
    assert low < figures["network"]["frechet"] < high
    assert "FD-judge in scorefield judge" in capsys.readouterr().out
    words = ["training.iterations=1", "training.batch=2", "training.online_warmup=0", "checkpoints.every=1"]
    words += [f"evaluation.judge={place}", f"evaluation.data={place / 'real.npz'}", "evaluation.samples=20"]
    words += ["evaluation.real=30", "evaluation.per_class=2", "evaluation.preview=2", "training.device=cpu"]
    players = [f"generator={place / 'gan'}", f"teacher={place / 'teacher'}"]
    assert main(["run", "gan_refine", "--out", str(place / "run"), *players, *words]) == 0
    before = json.loads((place / "run" / "summary.json").read_text())["before"]
    for key in ("frechet", "kid", "precision", "recall", "inception_score"):
        assert figures["network"][key] == pytest.approx(before[key], rel=1e-4, abs=1e-6), key


def test_a_denoiser_is_sampled_in_many_steps(place):
    out = place / "figures.json"
    words = ["steps=2", "draws=1", "batch=7", f"labels={place / 'real.npz'}"]
    assert main(["evaluate", str(place / "teacher"), *common(place), *words, "--out", str(out)]) == 0
    figures = json.loads(out.read_text())["network"]
    assert figures["draws"] == 1
    assert "frechet_interval" not in figures  # one draw has none
    again = ["steps=2", "draws=1", "batch=20", f"labels={place / 'real.npz'}"]
    assert main(["evaluate", str(place / "teacher"), *common(place), *again, "--out", str(out)]) == 0
    other = json.loads(out.read_text())["network"]
    assert figures == pytest.approx(other, rel=1e-4)  # the batch changes no figure


def test_pictures_do_not_depend_on_the_batch(place):
    make, side = source(place / "gan", StoredConfig(), "cpu")
    assert side == SIDE
    whole = make(torch.arange(6), 100)
    torch.testing.assert_close(make(torch.arange(4, 6), 100), whole[4:], rtol=1e-5, atol=1e-6)
    assert not torch.allclose(make(torch.arange(6), 101), whole)


def test_classes_are_counted_in_the_data(place):
    draws = Draws(0, -1, torch.arange(6000))
    found = label_law(3, str(place / "real.npz")).draw(draws).mean(0)
    assert found.tolist() == pytest.approx([1 / 6, 1 / 3, 1 / 2], abs=0.02)
    for name, count in (("a", 1), ("b", 3)):
        (place / "folder" / name).mkdir(parents=True)
        for number in range(count):
            (place / "folder" / name / f"{number}.png").touch()  # none is opened
    assert label_law(2, str(place / "folder")).draw(draws).mean(0).tolist() == pytest.approx([0.25, 0.75], abs=0.02)
    assert label_law(0) is None
    assert label_law(2).draw(draws).mean(0).tolist() == pytest.approx([0.5, 0.5], abs=0.02)
    for classes, given, message in (
        (4, str(place / "real.npz"), "3 classes, the network 4"),
        (3, str(place / "nothing"), "neither"),
        (0, [1.0], "unconditional"),
        (3, 2.5, "a list of frequencies"),
        (2, ["x", "y"], "2 numbers"),
        (2, [1.0], "2 numbers"),
    ):
        with pytest.raises(UserError, match=message):
            label_law(classes, given)


@pytest.mark.parametrize(
    ("what", "words", "message"),
    [
        ("gan", [], "nothing to measure with"),
        ("gan", ["judge=toybox32"], "nothing to compare with"),
        ("gan", ["--reference", "no.npz", "judge=toybox32"], "does not exist"),
        ("gan", ["--reference", "no.npz"], "no network that reads features"),
        ("gan", ["--samples", "1"], "at least"),
        ("gan", ["stepps=3"], "steps"),
        ("gan", ["--nearest", "3"], "for a run"),
        ("critic", ["--data", "toybox", "judge=toybox32"], "a discriminator"),
        ("nothing", [], "does not exist"),
    ],
)
def test_what_cannot_be_measured(place, capsys, what, words, message):
    kwargs = {"c_dim": 0, "img_resolution": SIDE, "img_channels": 3, "channel_base": 64, "channel_max": 8}
    networks.save(networks.build("Discriminator", kwargs), place / "critic")
    assert main(["evaluate", str(place / what), *words]) == 2
    assert message in capsys.readouterr().err


def test_run_folders_are_no_networks(place):
    (place / "run").mkdir()
    (place / "run" / "config.yaml").touch()
    assert not is_network(place / "run")
    assert is_network(place / "gan")
    assert is_network(place.__class__("toybox32/teacher"))
