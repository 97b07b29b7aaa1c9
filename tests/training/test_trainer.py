"""The trainer: recovery on a Gaussian, isolation of the players, masking, invariance to how a batch is split."""

import copy

import pytest
import torch

from scorefield import losses
from scorefield.denoiser import Denoiser
from scorefield.errors import UserError
from scorefield.generators.base import Batch, Changes, Generator
from scorefield.teachers.analytic import Gaussian
from scorefield.training.player import MovingAverage, Player
from scorefield.training.settings import PlayerConfig, TrainingConfig
from scorefield.training.trainer import Trainer

MEAN, STD = 1.0, 0.6


class LinearGenerator(Generator):
    def __init__(self):
        super().__init__()
        self.shift, self.scale = torch.nn.Parameter(torch.zeros(2)), torch.nn.Parameter(torch.full((2,), 1.5))

    def draw(self, draws):
        return Batch({"z": draws.normal("z", 2)})

    def forward(self, batch):
        return self.shift + self.scale * batch.latents["z"]


class LinearScore(Denoiser):
    """Exact family for diagonal Gaussians: D = m + v / (v + s^2) (x - m)."""

    sigma_min, sigma_max = 0.01, 50.0

    def __init__(self):
        super().__init__()
        self.mean, self.log_var = (
            torch.nn.Parameter(torch.zeros(2)),
            torch.nn.Parameter(torch.full((2,), 0.8)),
        )

    def forward(self, x_t, sigma, condition):
        v = self.log_var.exp()
        return self.mean + v / (v + sigma[:, None].square()) * (x_t - self.mean)


def make(loss="sim", teacher=None, generator=None, **settings):
    player = PlayerConfig(learning_rate=0.02, betas=(0.0, 0.99))
    base = {"iterations": 300, "batch": 64, "device": "cpu", "generator": player, "online": player}
    base |= {"ema_half_life_images": 640, "generator_noise": {"name": "log_normal", "mean": -0.5, "std": 1.0}}
    base |= {"online_noise": {"name": "log_normal", "mean": -0.5, "std": 1.0}}
    config = TrainingConfig(**(base | settings))
    if teacher is None:
        teacher = Gaussian(torch.full((2,), MEAN), STD**2 * torch.eye(2)).float()
    return Trainer(config, teacher, LinearScore(), generator or LinearGenerator(), losses.build(loss))


@pytest.mark.parametrize("loss", ["sim", "sid", "diff_instruct", "dmd", "vsd", "moment_matching"])
def test_every_loss_recovers_the_teacher(loss):
    trainer = make(loss)
    for k in range(300):
        trainer.iteration(k)
    trainer.average.swap()
    generator = trainer.generator
    assert (generator.shift - MEAN).abs().max() < 0.2
    assert (generator.scale.abs() - STD).abs().max() < 0.2
    assert trainer.figures(300)["nan_samples"] == 0


class Told(Gaussian):
    """A teacher whose empty prompt draws everything to 0; counts how often that branch is asked."""

    asked = 0

    def branches(self, x_t, sigma, condition, split=False):
        self.asked += 1
        return self(x_t, sigma, condition), torch.zeros_like(x_t)


def test_the_teachers_guidance_goes_by_stages():
    def trained(iterations, **settings):
        teacher = Told(torch.full((2,), MEAN), STD**2 * torch.eye(2)).float()
        trainer = make("vsd", teacher=teacher, **settings)
        scales = []
        for k in range(iterations):
            trainer.iteration(k)
            scales.append(trainer.teacher.scale)
        return scales, teacher.asked, torch.cat([p.detach() for p in trainer.generator.parameters()])

    stages = {"guidance_scale": 1.0, "guidance_stages": {2: 3.0, 4: 0.5}}
    scales, asked, _ = trained(6, **stages)
    assert scales == [1.0, 1.0, 3.0, 3.0, 0.5, 0.5]
    assert asked == 4  # at scale 1 the empty prompt is not asked
    assert torch.equal(trained(2, **stages)[2], trained(2, guidance_scale=1.0)[2])
    assert (trained(3, **stages)[2] - trained(3, guidance_scale=1.0)[2]).abs().max() > 1e-4
    from_the_start = {"guidance_scale": 1.0, "guidance_stages": {0: 3.0}}
    assert torch.equal(trained(3, **from_the_start)[2], trained(3, guidance_scale=3.0)[2])


@pytest.mark.parametrize("stages", [{-1: 2.0}, {3: float("nan")}, {"soon": 2.0}])
def test_impossible_guidance_stages_are_refused(stages):
    with pytest.raises(UserError, match=r"training\.guidance_stages"):
        TrainingConfig(guidance_stages=stages)


def test_a_generator_step_leaves_the_other_players_alone():
    trainer = make("sim")
    sample = trainer._render(trainer._parts(0)[0])
    trainer._generator_loss(sample, 0).backward()
    assert all(p.grad is None for p in trainer.online.parameters())
    assert all(p.requires_grad for p in trainer.online.parameters())
    assert all(p.grad is not None for p in trainer.generator.parameters())
    trainer.generator.zero_grad()
    trainer._online_loss(sample, 0).backward()
    assert all(p.grad is None for p in trainer.generator.parameters())


def test_accumulation_does_not_change_the_update():
    whole, parts = make("sim", accumulation=1), make("sim", accumulation=4)
    for k in range(5):
        whole.iteration(k)
        parts.iteration(k)
    for a, b in zip(whole.generator.parameters(), parts.generator.parameters(), strict=True):
        assert torch.allclose(a, b, atol=1e-5)


class PoisonedTeacher(Denoiser):
    """A Gaussian teacher that answers NaN for the samples in ``rows``, with NaN in the graph too."""

    sigma_min, sigma_max = 0.01, 50.0

    def __init__(self, rows):
        super().__init__()
        self.inner, self.rows = Gaussian(torch.full((2,), MEAN), STD**2 * torch.eye(2)).float(), rows

    def forward(self, x_t, sigma, condition):
        poison = torch.zeros(len(x_t))
        poison[self.rows] = float("nan")
        return self.inner(x_t, sigma, condition) * (1 + poison[:, None])


def test_nan_samples_are_masked_counted_and_harmless():
    trainer = make("sim", teacher=PoisonedTeacher([3, 9]))
    for k in range(10):
        trainer.iteration(k)
    assert trainer.figures(10)["nan_samples"] == 20
    assert all(torch.isfinite(p).all() for p in trainer.generator.parameters())
    assert trainer.figures(10)["skipped_steps"] == 0


def test_state_goes_on_bit_for_bit():
    straight = make("sim")
    for k in range(10):
        straight.iteration(k)
    first, second = make("sim"), make("sim")
    for k in range(5):
        first.iteration(k)
    second.generator.load_state_dict(copy.deepcopy(first.generator.state_dict()))
    second.online.load_state_dict(copy.deepcopy(first.online.state_dict()))
    second.average.load_state_dict(copy.deepcopy(first.average.state_dict()))
    second.load_state(copy.deepcopy(first.state()))
    for k in range(5, 10):
        second.iteration(k)
    for a, b in zip(straight.generator.parameters(), second.generator.parameters(), strict=True):
        assert torch.equal(a, b)
    for a, b in zip(straight.average.shadow, second.average.shadow, strict=True):
        assert torch.equal(a, b)


def test_a_step_with_a_broken_gradient_is_skipped_and_counted():
    weight = torch.nn.Parameter(torch.ones(3))
    player = Player([{"params": [weight]}], PlayerConfig(learning_rate=0.1), 10)
    weight.grad = torch.tensor([1.0, float("nan"), 1.0])
    player.step(0)
    assert torch.equal(weight.detach(), torch.ones(3))
    assert int(player.skipped) == 1
    weight.grad = torch.ones(3)
    player.step(1)
    assert (weight < 1).all()


def test_replaced_parameters_keep_their_moments_and_removed_ones_go():
    kept, gone, new = (torch.nn.Parameter(torch.ones(2)) for _ in range(3))
    player = Player([{"params": [kept, gone]}], PlayerConfig(learning_rate=0.1), 10)
    kept.grad, gone.grad = torch.ones(2), torch.ones(2)
    player.step(0)
    state = player.optimizer.state[kept]
    player.apply(Changes(replaced={kept: new, gone: None}))
    assert player.parameters == [new]
    assert player.optimizer.state[new] is state


def test_the_average_follows_with_its_half_life():
    weight = torch.nn.Parameter(torch.zeros(1))
    average = MovingAverage([("w", weight)], half_life=100, rampup=0.0)
    weight.data.fill_(1.0)
    average.update(100, 1000)
    assert average.shadow[0].item() == pytest.approx(0.5)
    average.swap()
    assert weight.item() == pytest.approx(0.5)


def test_batches_that_do_not_divide_are_refused():
    with pytest.raises(UserError, match="accumulation"):
        TrainingConfig(batch=10, accumulation=3)


def test_score_distillation_without_an_online_score_runs_and_collapses_to_the_mode():
    trainer = make("sds")
    start = [p.detach().clone() for p in trainer.online.parameters()]
    for k in range(300):
        trainer.iteration(k)
    assert all(torch.equal(a, b) for a, b in zip(start, trainer.online.parameters(), strict=True))
    assert (trainer.generator.shift - MEAN).abs().max() < 0.2
    assert trainer.generator.scale.abs().max() < 0.3  # SDS seeks modes: the spread is lost


def test_in_a_warm_up_the_online_score_alone_learns():
    trainer = make(online_warmup=3, log_every=1)
    generator, online = (copy.deepcopy(m.state_dict()) for m in (trainer.generator, trainer.online))
    for k in range(3):
        trainer.iteration(k)
    assert all(torch.equal(value, generator[name]) for name, value in trainer.generator.state_dict().items())
    assert any(not torch.equal(value, online[name]) for name, value in trainer.online.state_dict().items())
    assert trainer.images == 0
    figures = trainer.figures(3)
    assert "loss/online" in figures
    assert "loss/generator" not in figures
    trainer.iteration(3)
    assert any(not torch.equal(value, generator[name]) for name, value in trainer.generator.state_dict().items())


def test_figures_of_a_window_that_ends_a_warm_up_are_means_over_the_updates_made():
    late, plain = make(online_warmup=1), make()
    for trainer in (late, plain):
        trainer.iteration(0)
    plain.figures(1)
    plain.generator.load_state_dict(late.generator.state_dict())
    plain.online.load_state_dict(late.online.state_dict())
    for trainer in (late, plain):
        trainer.online_player.optimizer.load_state_dict(late.online_player.optimizer.state_dict())
        trainer.iteration(1)
    # one update of the generator lies in the window of two iterations, and its figures are not halved
    assert late.figures(2)["x0_gap/rms"] == pytest.approx(plain.figures(1)["x0_gap/rms"], rel=0.01)


@pytest.mark.parametrize("warmup", [-1, 300])
def test_a_warm_up_that_leaves_nothing_is_refused(warmup):
    with pytest.raises(UserError, match="online_warmup"):
        make(online_warmup=warmup)


def test_the_online_score_may_be_guided_while_it_is_trained():
    """SiD-LSG's first scale: the guided prediction is what is compared with the sample."""
    from scorefield.denoiser import Guided

    from . import ranks

    plain, guided = ranks.make(), ranks.make(online_training_guidance_scale=2.5)
    sample = plain._render(plain._parts(0)[0])
    draws, x0 = sample.draws, sample.x0.detach()
    sigma = plain.online_noise(draws.uniform("online-sigma-0"))
    x_t = x0 + sigma[:, None] * draws.normal("online-eps-0", 2)
    seen = Guided(plain.online, 2.5)(x_t, sigma, sample.batch.online_condition)
    expected = (plain.weighting(sigma) * (seen - x0).square().mean(1)).mean()
    found = guided._online_loss(guided._render(guided._parts(0)[0]), 0)
    assert torch.allclose(found, expected)
    assert not torch.allclose(found, plain._online_loss(sample, 0))
