"""Monitors in whole trainings of the plane: failures that training itself brings about; sound runs trip none."""

import json

import pytest
import torch

from scorefield import resources
from scorefield.generators.base import Batch
from scorefield.monitors import MONITORS, Probe
from scorefield.runfolder import RunFolder
from scorefield.task import Players, Task
from scorefield.teachers.analytic import Gaussian
from scorefield.training.session import Session
from scorefield.training.settings import CheckpointConfig, MonitorsConfig, PlayerConfig, RunConfig, TrainingConfig

from ..training.test_trainer import LinearGenerator, LinearScore

WATCHED = ["diversity", "lag", "brightness", "saturation", "noise", "texture"]


class Plane(Task):
    name = "plane"

    def probe(self, generator):
        z = torch.randn(64, 2, generator=torch.Generator().manual_seed(0))
        return Probe(generator(Batch({"z": z})).detach().unflatten(0, (4, 16)))


def warned(path, loss="sim", online_rate=0.02):
    """Names of the monitors that warned while a wide Gaussian was distilled."""
    player = {"betas": (0.0, 0.99), "decay": "cosine"}
    training = TrainingConfig(
        iterations=120,
        batch=64,
        device="cpu",
        generator=PlayerConfig(learning_rate=0.02, **player),
        online=PlayerConfig(learning_rate=online_rate, **player),
        generator_noise={"name": "log_normal", "mean": -0.5, "std": 1.0},
        online_noise={"name": "log_normal", "mean": -0.5, "std": 1.0},
        ema_half_life_images=640,
    )
    config = RunConfig(
        task="plane",
        training=training,
        loss={"name": loss},
        monitors=MonitorsConfig(enabled=WATCHED),
        checkpoints=CheckpointConfig(every=24, keep=1),
    )
    folder = RunFolder(path)
    folder.path.mkdir()
    teacher = Gaussian(torch.full((2,), 0.2), torch.eye(2))
    run = Session(
        Plane(config, folder, "cpu"), Players(teacher, LinearScore(), LinearGenerator()), folder, say=lambda text: None
    )
    run.run()
    return {warning["monitor"] for warning in run.totals()["warnings"]}


@pytest.mark.parametrize("loss", ["sim", "dmd"])
def test_a_sound_run_trips_none(loss, tmp_path):
    assert warned(tmp_path / "run", loss) == set()


def test_a_frozen_online_score_trips_lag(tmp_path):
    assert "lag" in warned(tmp_path / "run", "dmd", online_rate=1e-9)


def test_a_loss_that_collapses_trips_diversity(tmp_path):
    assert "diversity" in warned(tmp_path / "run", "sds")  # its minimum is a mode


def test_the_committed_reference_runs_tripped_none():
    kept = sorted((resources.root() / "configs").glob("*/*.curves.json"))
    assert kept
    for path in kept:
        curves = json.loads(path.read_text())["curves"]
        for name in MONITORS:
            monitor = MONITORS.get(name)()
            values = [value for _, value in curves.get(f"monitor/{name}", [])]
            assert not any(monitor.crossed(value, monitor.line) for value in values), (path, name)
