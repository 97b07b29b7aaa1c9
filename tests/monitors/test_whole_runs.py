"""Monitors in whole trainings of the plane and of small pictures: what training itself breaks; sound runs trip none."""

import json

import pytest
import torch

from scorefield import resources
from scorefield.denoiser import Denoiser
from scorefield.generators.base import Batch, Generator
from scorefield.monitors import MONITORS, Probe
from scorefield.runfolder import RunFolder
from scorefield.task import Players, Task
from scorefield.teachers.analytic import Gaussian
from scorefield.training.session import Session
from scorefield.training.settings import CheckpointConfig, MonitorsConfig, PlayerConfig, RunConfig, TrainingConfig

from ..training.test_trainer import LinearGenerator, LinearScore

# what the monitors of each task can see in its committed run
ALL = {f"monitor/{name}" for name in ("noise", "saturation", "brightness", "texture", "diversity")}
SEEN = {"text_to_image/default.curves.json": ALL}
WATCHED = ["diversity", "lag", "brightness", "saturation", "noise", "texture"]


class Plane(Task):
    name = "plane"

    def probe(self, generator):
        z = torch.randn(64, 2, generator=torch.Generator().manual_seed(0))
        return Probe(generator(Batch({"z": z})).detach().unflatten(0, (4, 16)))


def settings(task, iterations=200, rate=0.02, online_rate=0.02, guidance_scale=1.0, loss="sim"):
    """A run's configuration: a cosine, a short average, five looks by all monitors."""
    player = {"betas": (0.0, 0.99), "decay": "cosine"}
    training = TrainingConfig(
        iterations=iterations,
        batch=64,
        device="cpu",
        generator=PlayerConfig(learning_rate=rate, **player),
        online=PlayerConfig(learning_rate=online_rate, **player),
        guidance_scale=guidance_scale,
        generator_noise={"name": "log_normal", "mean": -0.5, "std": 1.0},
        online_noise={"name": "log_normal", "mean": -0.5, "std": 1.0},
        ema_half_life_images=640,
    )
    return RunConfig(
        task=task,
        training=training,
        loss={"name": loss},
        monitors=MonitorsConfig(enabled=WATCHED),
        checkpoints=CheckpointConfig(every=40, keep=1),
    )


def totals(task_class, config, players, path):
    """What a whole run of these players ends with."""
    folder = RunFolder(path)
    folder.path.mkdir()
    run = Session(task_class(config, folder, "cpu"), players, folder, say=lambda text: None)
    run.run()
    return run.totals()


def warned(path, loss="sim", online_rate=0.02):
    """Names of the monitors that warned while a wide Gaussian was distilled."""
    teacher = Gaussian(torch.full((2,), 0.2), torch.eye(2))
    players = Players(teacher, LinearScore(), LinearGenerator())
    found = totals(Plane, settings("plane", loss=loss, online_rate=online_rate), players, path)
    return {warning["monitor"] for warning in found["warnings"]}


@pytest.mark.parametrize("loss", ["sim", "dmd"])
def test_a_sound_run_trips_none(loss, tmp_path):
    assert warned(tmp_path / "run", loss) == set()


def test_a_frozen_online_score_trips_lag(tmp_path):
    assert "lag" in warned(tmp_path / "run", "dmd", online_rate=1e-9)


def test_a_loss_that_collapses_trips_diversity(tmp_path):
    assert "diversity" in warned(tmp_path / "run", "sds")  # its minimum is a mode


SIDE, WAVES, RED = 16, 8, 3.0


def waves() -> tuple[torch.Tensor, torch.Tensor]:
    """Orthonormal cosines [192, 3, SIDE, SIDE], 64 in each colour, and deviations [192] that fall with frequency."""
    lines = torch.cos(torch.pi * torch.arange(WAVES)[:, None] * (torch.arange(SIDE) + 0.5) / SIDE)
    lines = lines / lines.norm(dim=1, keepdim=True)
    fields = torch.einsum("ay,bx->abyx", lines, lines).reshape(-1, 1, SIDE, SIDE)
    frequency = torch.arange(WAVES).square()
    std = 3 / (1 + frequency[:, None] + frequency).flatten()
    return torch.cat([fields * torch.eye(3)[c].reshape(1, 3, 1, 1) for c in range(3)]), std.repeat(3)


class Smooth(Denoiser):
    """The exact denoiser of pictures made of ``waves`` in independent Gaussian amounts; red is added where told."""

    sigma_min, sigma_max = 0.01, 50.0

    def __init__(self, wide=1.0):
        super().__init__()
        basis, std = waves()
        self.register_buffer("basis", basis.flatten(1))
        self.mean = torch.nn.Parameter(torch.zeros(len(std)))
        self.log_var = torch.nn.Parameter(2 * (wide * std).log())

    def forward(self, x_t, sigma, condition):
        mean = self.mean + RED * condition["red"] * (torch.arange(len(self.mean)) == 0)
        var = self.log_var.exp()
        amounts = mean + var / (var + sigma[:, None].square()) * (x_t.flatten(1) @ self.basis.T - mean)
        return (amounts @ self.basis).reshape(-1, 3, SIDE, SIDE)

    def null_condition(self, like):
        return {"red": torch.zeros_like(like["red"])}


class Painter(Generator):
    """Amounts of ``waves`` from noise, each shifted and scaled; it starts a little paler than what is told."""

    def __init__(self):
        super().__init__()
        basis, std = waves()
        self.register_buffer("basis", basis)
        self.shift = torch.nn.Parameter(0.8 * RED * (torch.arange(len(std)) == 0))
        self.scale = torch.nn.Parameter(0.7 * std)

    def draw(self, draws):
        z = draws.normal("z", len(self.scale))
        told = {"red": torch.ones(len(z), 1)}
        return Batch({"z": z}, told, told)

    def forward(self, batch):
        return torch.einsum("nk,kcyx->ncyx", self.shift + self.scale * batch.latents["z"], self.basis)


class Pictures(Task):
    name = "pictures"

    def probe(self, generator):
        z = torch.randn(64, 3 * WAVES**2, generator=torch.Generator().manual_seed(0))
        x0 = generator(Batch({"z": z})).detach().unflatten(0, (4, 16))
        return Probe(x0, x0.clamp(-1, 1), {"red": torch.ones(64, 1)})


def painted(path, guidance_scale):
    """Warnings and last figures of a run that paints smooth reddish pictures."""
    players = Players(Smooth().requires_grad_(False), Smooth(0.8), Painter())
    config = settings("pictures", rate=0.2, online_rate=0.2, guidance_scale=guidance_scale)
    found = totals(Pictures, config, players, path)
    looks = [json.loads(line) for line in (path / "metrics.jsonl").read_text().splitlines()]
    figures = [look for look in looks if "monitor/saturation" in look][-1]
    return {warning["monitor"] for warning in found["warnings"]}, figures


def test_a_sound_run_of_pictures_trips_none_of_them(tmp_path):
    names, figures = painted(tmp_path / "run", guidance_scale=1.0)
    assert names == set()
    assert {f"monitor/{name}" for name in WATCHED} <= set(figures)  # each of them saw something


def test_guidance_without_measure_trips_saturation(tmp_path):
    names, figures = painted(tmp_path / "run", guidance_scale=12.0)
    assert "saturation" in names, figures


def test_the_committed_reference_runs_tripped_none():
    kept = sorted((resources.root() / "configs").glob("*/*.curves.json"))
    assert kept
    for path in kept:
        curves = json.loads(path.read_text())["curves"]
        assert set(curves) >= SEEN.get(f"{path.parent.name}/{path.name}", set()), path
        for name in MONITORS:
            monitor = MONITORS.get(name)()
            values = [value for _, value in curves.get(f"monitor/{name}", [])]
            assert not any(monitor.crossed(value, monitor.line) for value in values), (path, name)
