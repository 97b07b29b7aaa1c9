"""``scorefield.distill``: the README's example as it stands, and what it refuses."""

import subprocess
import sys

import pytest
import torch
from torch import nn

import scorefield
from scorefield.errors import UserError
from scorefield.teachers.analytic import Gaussian

from .packages import blocks

MEANS = torch.tensor([[-2.0, 0.0], [2.0, 0.0], [0.0, 2.0]])


def true_samples(count: int, rng: torch.Generator) -> torch.Tensor:
    return MEANS[torch.randint(3, (count,), generator=rng)] + 0.3 * torch.randn(count, 2, generator=rng)


def sliced_distance(made: torch.Tensor, true: torch.Tensor) -> float:
    """Sliced Wasserstein-2 distance over 64 directions."""
    angles = torch.arange(64) * (torch.pi / 64)
    directions = torch.stack([angles.cos(), angles.sin()])
    return ((made @ directions).sort(0).values - (true @ directions).sort(0).values).square().mean().sqrt().item()


def example(document: str) -> str:
    (text,) = [text for _, title, text in blocks(document) if title == "distil.py"]
    return text


def test_the_example_is_fifteen_lines_and_the_same_everywhere():
    assert len([line for line in example("README.md").splitlines() if line.strip()]) <= 15
    assert example("docs/python.md") == example("README.md")


def test_the_example_reaches_the_truth():
    torch.manual_seed(0)
    scope: dict = {}
    exec(example("README.md"), scope)
    rng = torch.Generator().manual_seed(1)
    true = true_samples(8000, rng)
    assert sliced_distance(true_samples(8000, rng), true) < 0.12
    assert sliced_distance(scope["mlp"](2)(torch.randn(8000, 2, generator=rng)).detach(), true) > 1.2
    with torch.no_grad():
        made = scope["generator"](torch.randn(8000, 2, generator=rng))
    assert sliced_distance(made, true) < 0.35
    shares = torch.bincount(torch.cdist(made, MEANS).argmin(1), minlength=3) / 8000
    assert (shares - 1 / 3).abs().max() < 0.1
    assert scope["samples"].shape == (1000, 2)


class Affine(nn.Module):
    def __init__(self):
        super().__init__()
        self.shift, self.scale = nn.Parameter(torch.zeros(2)), nn.Parameter(torch.full((2,), 1.5))

    def forward(self, z):
        return self.shift + self.scale * z


class Linear(nn.Module):
    """Exact for N(mean, std^2), with the mean as its parameter: a teacher that can be copied."""

    def __init__(self, mean: float, std: float):
        super().__init__()
        self.mean = nn.Parameter(torch.full((2,), mean))
        self.log_var = nn.Parameter(2 * torch.full((2,), std).log())  # of each axis: the generator has two scales

    def forward(self, x_t, sigma):
        variance = self.log_var.exp()
        return self.mean + variance / (variance + sigma[:, None] ** 2) * (x_t - self.mean)


SHORT = {"iterations": 400, "batch": 64, "learning_rate": 0.02, "latents": (2,), "device": "cpu"}


@pytest.mark.parametrize("loss", ["sim", "diff_instruct", scorefield.losses.build("sid", alpha=1.0, weighting="none")])
def test_a_teacher_with_parameters_is_copied_and_left_alone(loss):
    teacher = Linear(1.0, 0.6)
    before = [p.clone() for p in teacher.parameters()]
    seen = []
    generator = scorefield.distill(Affine(), teacher, loss=loss, watch=lambda k, f: seen.append((k, f)), **SHORT)
    assert all(torch.equal(p, q) for p, q in zip(before, teacher.parameters(), strict=True))
    torch.testing.assert_close(generator.shift, torch.ones(2), atol=0.15, rtol=0)
    torch.testing.assert_close(generator.scale.abs(), torch.full((2,), 0.6), atol=0.15, rtol=0)
    assert [k for k, _ in seen] == list(range(10, 401, 10))
    assert seen[-1][1]["x0_gap/rms"] < seen[0][1]["x0_gap/rms"]
    assert not generator.training


def test_sds_needs_no_online_score_and_goes_to_the_mode():
    teacher = Gaussian(torch.ones(2), 0.36 * torch.eye(2))
    generator = scorefield.distill(Affine(), teacher, loss="sds", **SHORT)
    assert generator.scale.abs().max() < 0.3
    torch.testing.assert_close(generator.shift, torch.ones(2), atol=0.15, rtol=0)


def test_the_same_seed_gives_the_same_bits():
    short = SHORT | {"iterations": 5}
    one, two, other = (scorefield.distill(Affine(), Linear(1.0, 0.6), seed=s, **short) for s in (0, 0, 1))
    assert torch.equal(one.shift, two.shift)
    assert not torch.equal(one.shift, other.shift)


def test_what_comes_back_is_the_average():
    """An average that never moves hands the start back."""
    still = {"iterations": 3, "ema_half_life_images": 1e12, "ema_rampup": 0.0}
    generator = scorefield.distill(Affine(), Linear(1.0, 0.6), **SHORT | still)
    torch.testing.assert_close(generator.scale, Affine().scale)
    moved = scorefield.distill(Affine(), Linear(1.0, 0.6), **SHORT | {"iterations": 3})
    assert (moved.scale - Affine().scale).abs().min() > 1e-3


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"latents": None}, "latents"),
        ({"iteration": 3}, 'did you mean "iterations"'),
        ({"loss": "simm"}, 'did you mean "sim"'),
        ({"generator": None}, 'distill knows no "generator"|multiple values'),
        ({"guidance_scale": 2.0}, "takes no condition"),
    ],
)
def test_refusals(options, message):
    with pytest.raises((UserError, TypeError), match=message):
        scorefield.distill(*[Affine(), Linear(1.0, 0.6)], **SHORT | {"iterations": 1} | options)


def test_a_teacher_without_parameters_asks_for_an_online_score():
    with pytest.raises(UserError, match="give online"):
        scorefield.distill(Affine(), Gaussian(torch.ones(2), torch.eye(2)), **SHORT)


def test_preconditioned_is_the_data_at_no_noise_and_the_network_at_much():
    network = nn.Linear(3, 2)
    denoiser = scorefield.Preconditioned(network, sigma_data=0.5)
    x_t = torch.randn(4, 2)
    torch.testing.assert_close(denoiser(x_t, torch.full((4,), 1e-6)), x_t, atol=1e-5, rtol=0)
    sigma = torch.full((4,), 1e4)
    told = network(torch.cat([x_t / 1e4, sigma[:, None].log() / 4], 1))
    torch.testing.assert_close(denoiser(x_t, sigma), 0.5 * told, atol=1e-5, rtol=1e-4)
    with pytest.raises(UserError, match="sigma_data"):
        scorefield.Preconditioned(network, sigma_data=0.0)


def test_importing_scorefield_stays_light_and_its_names_are_there():
    code = "import sys, scorefield; print('torch' in sys.modules, hasattr(scorefield, 'nothing'))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["False", "False"]
    for name in scorefield.__all__:
        assert getattr(scorefield, name).__name__ == name
    assert set(scorefield.__all__) <= set(dir(scorefield))
