"""The figures of a CIFAR-10 session: equal labels and noise for all, rows that survive a failure, best, curves."""

import csv
import importlib
import sys

import numpy as np
import pytest
import torch

from scorefield import config, resources
from scorefield.files import write_text
from scorefield.pretrain import edm, gan, labelled_run
from scorefield.pretrain.edm import EDMTrainConfig, UNetConfig
from scorefield.pretrain.gan import GANTrainConfig, StyleGAN2Config

JUDGE = resources.root() / "assets" / "toybox32" / "judge"


@pytest.fixture
def script(monkeypatch):
    monkeypatch.syspath_prepend(resources.root() / "scripts")
    return importlib.import_module("cifar10_figures")


@pytest.fixture
def call(script, monkeypatch, capsys):
    def run(*words):
        monkeypatch.setattr(sys, "argv", ["cifar10_figures.py", *map(str, words)])
        status = script.main()
        return status, capsys.readouterr().out

    return run


def pictures(path, count, seed, level=0):
    rng = np.random.default_rng(seed)
    images = rng.integers(0, 150, (count, 32, 32, 3), dtype=np.uint8) + np.uint8(level)
    np.savez(path, images=images, labels=np.arange(count) % 10)
    return path


def networks_in(folder):
    torch.manual_seed(0)
    unet = UNetConfig(16, [1], num_blocks=1, attn_resolutions=[])
    labelled_run.store(edm.make_network(unet, 32, 10, False), folder / "teacher", "fp32")
    small = StyleGAN2Config(z_dim=8, w_dim=8, channel_base=256, channel_max=16, mbstd_group=2)
    labelled_run.store(gan.make_networks(small, 32, 10)[0], folder / "G_ema", "fp32")


def rows(path):
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def test_everything_is_measured_and_a_failure_stops_nothing(call, tmp_path):
    networks_in(tmp_path)
    data, other = pictures(tmp_path / "train.npz", 60, 0), pictures(tmp_path / "other.npz", 60, 1, level=100)
    named = {"same": data, "other": other, "gone": tmp_path / "gone", "teacher": tmp_path / "teacher"}
    named["gan"] = tmp_path / "G_ema"
    status, said = call(
        "measure", "--data", data, "--features", JUDGE, tmp_path / "no-network", "--out", tmp_path / "out" / "all.csv",
        "--samples", 20, "--real", 60, "--neighbours", 20, "--steps", 2, "--draws", 2, "--device", "cpu",
        "--references", tmp_path / "references", *(f"{name}={path}" for name, path in named.items()),
    )  # fmt: skip
    assert status == 1
    assert "FAILED gone: there is no network" in said
    assert "left out: there is no feature network" in said
    found = {row["name"]: row for row in rows(tmp_path / "out" / "all.csv")}
    assert list(found) == ["same", "other", "teacher", "gan"]
    assert float(found["same"]["frechet"]) < float(found["other"]["frechet"])
    assert (found["teacher"]["evaluations"], found["gan"]["evaluations"]) == ("3", "1")
    assert found["same"]["draws"] == "1"
    assert not found["same"]["frechet_low"]
    assert not found["same"]["label_accuracy"]
    assert float(found["gan"]["frechet_low"]) < float(found["gan"]["frechet"]) < float(found["gan"]["frechet_high"])
    assert 0 <= float(found["teacher"]["label_accuracy"]) <= 1
    assert (tmp_path / "out" / "all-gan.png").exists()
    assert (tmp_path / "references" / "0.npz").exists()
    nearest = min(("teacher", "gan"), key=lambda name: float(found[name]["frechet"]))
    assert call("best", tmp_path / "out" / "all.csv") == (0, f"{nearest}\n")  # real pictures are no candidates


def test_no_feature_network_at_all_is_refused(call, tmp_path):
    data = pictures(tmp_path / "train.npz", 20, 0)
    out = ("--out", tmp_path / "all.csv", "--device", "cpu")
    assert call("measure", "--data", data, "--features", tmp_path / "none", *out, f"real={data}")[0] == 2


def test_a_student_starts_from_the_teacher_s_noise(script, tmp_path):
    networks_in(tmp_path)
    seen = []

    class Student(torch.nn.Module):
        shape = (3, 32, 32)

        def __init__(self):
            super().__init__()
            self.denoiser = torch.nn.Linear(1, 1)
            self.denoiser.label_dim = 10

        def forward(self, batch):
            seen.append((batch.latents["z"], batch.teacher_condition["label"].argmax(1)))
            return batch.latents["z"]

    labels = torch.arange(5)
    z = script.one_step(Student(), batch=2)(labels, 7)
    assert torch.equal(z, torch.randn(5, 3, 32, 32, generator=torch.Generator().manual_seed(7)))
    assert torch.equal(torch.cat([told for _, told in seen]), labels)


def test_curves_are_the_looks_of_each_run(call, tmp_path):
    looks = '{"iteration": 0, "images": 0, "seconds": 0, "eval/frechet": 9.5}\n{"iteration": 1, "loss/online": 1}\n'
    write_text(tmp_path / "sim" / "metrics.jsonl", looks)
    status, said = call("curves", tmp_path / "sim", tmp_path / "never-began")
    assert status == 0
    assert said.split() == ["run,iteration,images,seconds,frechet", "sim,0,0,0,9.5"]


def test_the_small_presets_are_whole():
    teacher = config.load(EDMTrainConfig, resources.preset("edm", "cifar10_small"), [])
    generator = config.load(GANTrainConfig, resources.preset("gan", "cifar10_small"), [])
    with torch.device("meta"):
        network = edm.make_network(teacher.network, teacher.resolution, 10, teacher.training.augment > 0)
        G, D = gan.make_networks(generator.network, generator.resolution, 10)
    assert sum(p.numel() for p in network.parameters()) == 8_958_787
    assert D.img_resolution == G.img_resolution == network.img_resolution == 32
