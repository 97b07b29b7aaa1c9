"""What the trainer asks the teacher for a loss: branches of guidance, negative prompts, inverted points."""

from itertools import pairwise

import pytest
import torch

from scorefield import losses
from scorefield.denoiser import Denoiser, Guided
from scorefield.errors import UserError
from scorefield.generators.base import Batch, Generator
from scorefield.losses.base import Inversion, Loss
from scorefield.noise import DiscreteVP
from scorefield.random import Draws
from scorefield.teachers.analytic import Gaussian
from scorefield.training import evaluations
from scorefield.training.settings import PlayerConfig, TrainingConfig
from scorefield.training.trainer import Trainer

PROCESS = DiscreteVP.scaled_linear()
MEANS = torch.tensor([[0.0, 0.0], [1.5, -0.5], [-1.0, 1.0]])  # no word, the prompt, the negative prompt


class Worded(Denoiser):
    """A Gaussian about the mean that a word names; counts the samples that it is asked about."""

    sigma_min, sigma_max, process = PROCESS.sigma_min, PROCESS.sigma_max, PROCESS

    def __init__(self):
        super().__init__()
        self.asked = 0

    def forward(self, x_t, sigma, condition):
        self.asked += len(x_t)
        mean = MEANS.to(x_t)[condition["word"]]
        variance = 0.5 * (1 + 0.5 * condition["word"])[:, None]  # so that guidance is no mere shift
        return mean + variance / (variance + sigma[:, None] ** 2) * (x_t - mean)

    def null_condition(self, like):
        return {"word": torch.zeros_like(like["word"])}


class Points(Generator):
    """A few points, told the prompt and, if wanted, what they should not be."""

    def __init__(self, negative: bool = True):
        super().__init__()
        self.points, self.negative = torch.nn.Parameter(torch.linspace(-2, 2, 8).view(4, 2)), negative

    def draw(self, draws):
        word = torch.ones(len(draws), dtype=torch.long)
        return Batch({}, {"word": word}, {}, {"word": word + 1} if self.negative else {})

    def forward(self, batch):
        return self.points[: len(batch.teacher_condition["word"])]


def trainer(loss, generator=None, scale=3.0, teacher=None, **settings):
    player = PlayerConfig(learning_rate=0.05, betas=(0.0, 0.99))
    config = TrainingConfig(
        iterations=200,
        batch=4,
        device="cpu",
        generator=player,
        guidance_scale=scale,
        ema_half_life_images=0,
        **settings,
    )
    online = Gaussian(torch.zeros(2), torch.eye(2))
    online.weight = torch.nn.Parameter(torch.zeros(1))
    return Trainer(
        config,
        teacher or Worded(),
        online,
        generator or Points(),
        losses.build(loss) if isinstance(loss, str) else loss,
    )


def direction(made: Trainer, k: int = 0):
    """(gradient at the points, the draws of that iteration)."""
    sample = made._render(made._parts(k)[0])
    (gradient,) = torch.autograd.grad(made._generator_loss(sample, k), made.generator.points)
    return 4 * gradient, sample  # the trainer averages over the batch


def eps_of(x_t, sigma, word):
    """The teacher's noise estimate, from the density: -sigma times the score of N(mean, (v + sigma^2) I)."""
    variance = 0.5 * (1 + 0.5 * word) + sigma[:, None] ** 2
    return sigma[:, None] * (x_t - MEANS[word].to(x_t)) / variance


def random_point(made, sample):
    sigma = made.generator_noise(sample.draws.uniform("sigma"))
    return sigma, made.generator.points.detach() + sigma[:, None] * sample.draws.normal("eps", 2)


def test_csd_and_nfsd_through_the_trainer():
    made = trainer(losses.build("csd", weighting="none", negative=1.0, negative_end=0.0))
    found, sample = direction(made, k=199)  # the last iteration: nothing is left of the negative prompt
    sigma, x_t = random_point(made, sample)
    cond, uncond = eps_of(x_t, sigma, 1), eps_of(x_t, sigma, 0)
    torch.testing.assert_close(found, cond - uncond)
    found, sample = direction(made, k=0)
    sigma, x_t = random_point(made, sample)
    cond, uncond, negative = (eps_of(x_t, sigma, word) for word in (1, 0, 2))
    torch.testing.assert_close(found, cond - uncond + (uncond - negative))
    made = trainer(losses.build("nfsd", weighting="none", switch_sigma=0.0))
    torch.testing.assert_close(direction(made)[0], 7.5 * (cond - uncond) + (uncond - negative), rtol=1e-4, atol=1e-4)


def ddim_inversion(x0, sigma, steps, interval, branch, start):
    """Inversion in the native, variance-preserving scaling with DDIM's own formula, in float64; no VE view anywhere.

    Returns (x_t, eps of the last step), x_t divided by alpha.
    """
    x0, last = x0.double(), PROCESS.timestep(sigma.double())
    stop = (last - 999 * interval).clamp(min=0)
    times = [stop * k / steps for k in range(steps + 1)] + ([last] if interval else [])
    bar = [1 / (1 + PROCESS.ve_sigma(t)[:, None] ** 2) for t in times]
    x = bar[0].sqrt() * x0 + (1 - bar[0]).sqrt() * start
    for now, then in pairwise(bar):
        eps = branch(x / now.sqrt(), ((1 - now) / now).sqrt()[:, 0])
        clean = (x - (1 - now).sqrt() * eps) / now.sqrt()
        x = then.sqrt() * clean + (1 - then).sqrt() * eps
    return x / bar[-1].sqrt(), eps


def test_ism_through_the_trainer():
    made = trainer(losses.build("ism", interval=0.08, steps=3))
    found, sample = direction(made)
    sigma, _ = random_point(made, sample)
    start = sample.draws.normal("inversion-start", 2).double()
    points = made.generator.points.detach()
    x_t, before = ddim_inversion(points, sigma, 3, 0.08, lambda x, s: eps_of(x, s, 0), start)
    level = sigma.double()
    guided = eps_of(x_t, level, 0) + 3.0 * (eps_of(x_t, level, 1) - eps_of(x_t, level, 0))
    torch.testing.assert_close(found.double(), level[:, None] * (guided - before), rtol=2e-3, atol=2e-3)


def test_sdi_through_the_trainer():
    made = trainer(losses.build("sdi", steps=4, eta=0.0, weighting="none"))
    found, sample = direction(made)
    sigma, _ = random_point(made, sample)
    start = sample.draws.normal("inversion-start", 2).double()
    points = made.generator.points.detach()
    # the authors write their -7.5 as cond + s (cond - uncond)
    branch = lambda x, s: eps_of(x, s, 1) - 7.5 * (eps_of(x, s, 1) - eps_of(x, s, 0))  # noqa: E731
    x_t, _ = ddim_inversion(points, sigma, 4, 0.0, branch, start)
    level = sigma.double()
    kappa = (x_t - points) / level[:, None]
    guided = eps_of(x_t, level, 0) + 3.0 * (eps_of(x_t, level, 1) - eps_of(x_t, level, 0))
    torch.testing.assert_close(found.double(), guided - kappa, rtol=2e-3, atol=2e-3)


def test_the_noise_of_an_inversion_step_is_that_of_ddims_step_back():
    """SDI adds the scheduler's own standard deviation to the native sample."""
    from diffusers import DDIMScheduler

    scheduler = DDIMScheduler(beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear")
    low, high = PROCESS.ve_sigma(torch.tensor([300.0, 500.0])).double()
    native = scheduler._get_variance(500, 300) ** 0.5
    assert evaluations.step_back_std(low, high).item() == pytest.approx(
        (native * (1 + high**2) ** 0.5).item(), rel=1e-4
    )
    teacher = Guided(Worded(), 1.0)
    draws, x0, sigma = Draws(0, 0, torch.arange(2000)), torch.zeros(2000, 2), torch.full((2000,), 2.0)
    told = {"word": torch.ones(2000, dtype=torch.long)}
    plain, loud = (
        evaluations.invert(teacher, Inversion(1, 1.0, eta=eta), x0, sigma, draws, told)[0] for eta in (0.0, 1.0)
    )
    wanted = evaluations.step_back_std(torch.tensor(PROCESS.sigma_min), torch.tensor(2.0)).item()
    assert (loud - plain).std().item() == pytest.approx(wanted, rel=0.05)


@pytest.mark.parametrize("scale", [1.0, 3.0])
@pytest.mark.parametrize("name", ["sds", "csd", "nfsd", "ism", "sdi", "vsd"])
def test_passes_are_those_that_are_made(name, scale):
    made = trainer(name, scale=scale)
    direction(made)
    assert made.teacher.denoiser.asked == 4 * evaluations.passes(made.loss, scale)


def test_every_loss_without_an_online_score_comes_to_the_prompt():
    for name in ("csd", "nfsd", "ism", "sdi"):
        made = trainer(name)
        for k in range(150):
            made.iteration(k)
        assert made.figures(150)["nan_samples"] == 0
        assert (made.generator.points.detach() @ MEANS[1] > 0).all(), name


def test_places_on_the_schedule():
    to_place, to_sigma = evaluations.schedule_of(Guided(Worded(), 1.0))
    places = torch.tensor([0.0, 0.2, 1.0])
    torch.testing.assert_close(to_sigma(places), PROCESS.ve_sigma(999 * places))
    torch.testing.assert_close(to_place(to_sigma(places)), places)
    to_place, to_sigma = evaluations.schedule_of(Gaussian(torch.zeros(2), torch.eye(2)))
    torch.testing.assert_close(to_place(to_sigma(places)), places)
    assert to_sigma(places)[[0, 2]].tolist() == pytest.approx([0.002, 80.0])


def test_what_cannot_be_given_is_refused():
    with pytest.raises(UserError, match="negative prompt"):
        direction(trainer("nfsd", Points(negative=False)))

    class Odd(Loss):
        needs = ("teacher_depth",)

    class Unmoved(Loss):
        needs = ("inversion_eps",)

    with pytest.raises(UserError, match="teacher_depth"):
        trainer(Odd())
    with pytest.raises(UserError, match="declares no inversion"):
        trainer(Unmoved())
