"""EDM's Heun sampler against flows that are known: one Gaussian, and a mixture on the line by its quantiles."""

import math

import pytest
import torch

from scorefield.errors import UserError
from scorefield.teachers.analytic import Gaussian, GaussianMixture
from scorefield.teachers.sampling import heun, heun_levels


def test_levels_are_edm_s():
    levels = heun_levels(0.002, 80.0, 18)
    assert len(levels) == 19
    assert levels[0].item() == pytest.approx(80)
    assert levels[-2].item() == pytest.approx(0.002)
    assert levels[-1] == 0
    middle = (80 ** (1 / 7) + 9 / 17 * (0.002 ** (1 / 7) - 80 ** (1 / 7))) ** 7
    assert levels[9].item() == pytest.approx(middle)


def test_flow_of_a_gaussian():
    # each eigen-direction shrinks by sqrt(lambda / (lambda + sigma_max^2))
    mean = torch.tensor([0.5, -1.0], dtype=torch.float64)
    variance = torch.tensor([0.04, 1.0], dtype=torch.float64)
    denoiser = Gaussian(mean, torch.diag(variance))
    z = torch.randn(50, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    expected = mean + (variance / (variance + 80**2)).sqrt() * (80 * z - mean)
    errors = [(heun(denoiser, {}, z, steps=steps, batch=7) - expected).abs().max().item() for steps in (32, 64)]
    assert errors[0] < 0.05
    assert errors[1] < errors[0] / 3  # second order: a quarter of the error at twice the steps


def quantile(x, weights, means, variances):
    """Distribution function of a mixture on the line, [N]."""
    scaled = (x[:, None] - means) / variances.sqrt()
    return (weights * 0.5 * (1 + torch.erf(scaled / math.sqrt(2)))).sum(1)


def test_flow_of_a_mixture_keeps_quantiles():
    weights = torch.tensor([0.3, 0.7], dtype=torch.float64)
    means = torch.tensor([-1.0, 0.8], dtype=torch.float64)
    variances = torch.tensor([0.09, 0.16], dtype=torch.float64)
    denoiser = GaussianMixture(weights, means[:, None], variances[:, None, None])
    z = torch.linspace(-2, 2, 41, dtype=torch.float64)[:, None]
    x0 = heun(denoiser, {}, z, steps=64)[:, 0]
    before = quantile(80 * z[:, 0], weights, means, variances + 80**2)
    torch.testing.assert_close(quantile(x0, weights, means, variances), before, atol=3e-3, rtol=0)


def test_float32_batches_and_refusals():
    denoiser = Gaussian(torch.zeros(2), torch.eye(2))
    z = torch.randn(5, 2)
    assert heun(denoiser, {}, z, steps=4).dtype == torch.float32
    torch.testing.assert_close(heun(denoiser, {}, z, steps=4, batch=2), heun(denoiser, {}, z, steps=4))
    with pytest.raises(UserError, match="at least 2"):
        heun(denoiser, {}, z, steps=1)
