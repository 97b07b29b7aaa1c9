"""Moment matching: its gradient with the auxiliary network at its optimum, and that training leads to that optimum."""

import pytest
import torch
from closed_form import (
    F64,
    TEACHERS,
    gradient,
    kl_gradient,
    loss_values,
    own_denoiser,
    parameters,
    quadrature,
    relative,
)

from scorefield import losses
from scorefield.denoiser import Denoiser
from scorefield.errors import UserError
from scorefield.generators.base import Batch, Generator
from scorefield.teachers.analytic import Gaussian
from scorefield.training.settings import TrainingConfig
from scorefield.training.trainer import Trainer

NODES = {1: 600, 2: 150}


def with_optimum(loss, a, b, q, sigma, points, share):
    """Gradient of the expected loss where the auxiliary network is (1 - share) D_p + share D_q."""
    z, eps, weights = points
    own = own_denoiser(a.detach(), b.detach())

    def seen(*, teacher_x0, online_x0, x_t, sigma, **rest):
        optimum = (1 - share) * own(x_t, sigma) + share * teacher_x0
        return loss(teacher_x0=teacher_x0, online_x0=optimum, x_t=x_t, sigma=sigma, **rest)

    return gradient((weights * loss_values(seen, a, b, q, sigma, z, eps)).sum(), a, b)


@pytest.mark.parametrize("pull", [1.0, 0.0, 3.0])
@pytest.mark.parametrize("sigma", [0.5, 1.3])
@pytest.mark.parametrize("teacher", TEACHERS)
@pytest.mark.parametrize("dimension", [1, 2])
def test_it_is_a_share_of_the_kullback_leibler_gradient(dimension, teacher, sigma, pull):
    a, b = parameters(dimension)
    q = TEACHERS[teacher](dimension)
    points = quadrature(a, b, sigma, NODES[dimension])
    got = with_optimum(losses.build("moment_matching", pull=pull), a, b, q, sigma, points, pull / (1 + pull))
    wanted = sigma**2 / (1 + pull) * kl_gradient(a, b, q, sigma, NODES[dimension])
    assert relative(got, wanted) < 1e-4
    if pull:  # an auxiliary network that heeds the samples alone gives another length: the share is the pull's doing
        without = with_optimum(losses.build("moment_matching", pull=pull), a, b, q, sigma, points, 0.0)
        assert relative(without, wanted) > 0.5


class Affine(Generator):
    """x = b + A z in two dimensions."""

    def __init__(self, a, b):
        super().__init__()
        self.a, self.b = torch.nn.Parameter(a.detach().clone()), torch.nn.Parameter(b.detach().clone())

    def draw(self, draws):
        return Batch({"z": draws.normal("z", 2).to(F64)})

    def forward(self, batch):
        return batch.latents["z"] @ self.a.T + self.b


class Mixed(Denoiser):
    """D_p + share (D_q - D_p) with one parameter: the line between the two conditional means."""

    sigma_min, sigma_max = 0.01, 50.0

    def __init__(self, a, b, teacher):
        super().__init__()
        self.own, self.share = own_denoiser(a.detach(), b.detach()), torch.nn.Parameter(torch.zeros((), dtype=F64))
        self.teachers = [teacher]

    def forward(self, x_t, sigma, condition):
        x_t, sigma = x_t.to(F64), sigma.to(F64)
        own = self.own(x_t, sigma)  # takes all noise levels for the first one, as they are here
        return own + self.share * (self.teachers[0](x_t, sigma, condition) - own)


@pytest.mark.parametrize("pull", [1.0, 0.0, 3.0])
def test_the_trainer_leads_the_auxiliary_network_to_that_optimum(pull):
    """The trained objective is quadratic along the line, so two slopes tell where its minimum lies."""
    a, b = parameters(2)
    teacher = Gaussian(torch.tensor([3.0, -3.0], dtype=F64), 0.5 * torch.eye(2, dtype=F64))
    law = {"name": "log_normal", "mean": 0.3, "std": 1e-6}
    config = TrainingConfig(batch=4096, device="cpu", online_noise=law, online_weighting="none")
    online = Mixed(a, b, teacher)
    trainer = Trainer(config, teacher, online, Affine(a, b), losses.build("moment_matching", pull=pull))
    sample = trainer._render(trainer._parts(0)[0])
    slopes = []
    for share in (0.0, 1.0):
        online.share.data.fill_(share)
        online.share.grad = None
        trainer._online_loss(sample, 0).backward()
        slopes.append(online.share.grad.item())
    assert slopes[0] / (slopes[0] - slopes[1]) == pytest.approx(pull / (1 + pull), abs=0.02)


def test_what_it_refuses_and_what_it_asks():
    with pytest.raises(UserError, match="pull must be at least 0"):
        losses.build("moment_matching", pull=-0.1)
    assert not losses.build("moment_matching").needs_jacobian
    assert losses.build("sim").online_pull == 0
