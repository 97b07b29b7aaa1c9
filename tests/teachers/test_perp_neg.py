"""Perp-Neg against a computation in eps, written out for one sample at a time."""

import math

import pytest
import torch

from scorefield import losses
from scorefield.denoiser import Denoiser, Guided
from scorefield.errors import UserError
from scorefield.generators.base import Batch, Generator
from scorefield.teachers.perp_neg import PREFIX, WEIGHT, PerpNeg, view_condition, view_weights
from scorefield.teachers.plain import Preconditioned
from scorefield.training.evaluations import Evaluations
from scorefield.training.settings import TrainingConfig
from scorefield.training.trainer import Trainer

VIEWS = {
    "text": torch.randn(4, 3, 5, generator=torch.Generator().manual_seed(1)),
    "text_mask": torch.tensor([[1, 1, 0], [1, 1, 1], [1, 0, 0], [1, 1, 0]]),
}


class Reader(Denoiser):
    """D depends on the text in a way that is no mere shift, and counts its samples."""

    sigma_min, sigma_max = 0.01, 50.0

    def __init__(self):
        super().__init__()
        self.asked = 0

    def forward(self, x_t, sigma, condition):
        self.asked += len(x_t)
        word = (condition["text"] * condition["text_mask"][..., None]).sum(1)[:, : x_t.shape[1]]
        return (x_t * (1 + 0.3 * word)).sin() + word / (1 + sigma[:, None])

    def null_condition(self, like):
        return {key: torch.zeros_like(value) for key, value in like.items()}


def by_hand(denoiser, x_t, sigma, azimuth, elevation, scale):
    """Guided eps of one sample, in the words of the recipe; returns the x0 estimate."""
    turn = math.degrees(abs(azimuth))
    front, side, back, overhead = ({key: value[k : k + 1] for key, value in VIEWS.items()} for k in range(4))
    mix = lambda a, b, r: {  # noqa: E731
        "text": r * a["text"] + (1 - r) * b["text"],
        "text_mask": a["text_mask"] if r > 0.999 else b["text_mask"] if r < 0.001 else a["text_mask"] | b["text_mask"],
    }
    away = []
    if math.degrees(elevation) > 60:
        positive = overhead
    elif turn <= 90:
        r = 1 - turn / 90
        positive = mix(front, side, r)
        f = lambda x: 4 * math.exp(-0.5 * x) - 2.426  # noqa: E731
        away = [(front, -f(r)), (side, -f(1 - r))]
    else:
        r = 2 - turn / 90
        positive = mix(side, back, r)
        away = [(side, -(math.exp(-0.5 * r) - 0.606)), (front, -(math.exp(-0.5 * r) + 0.967))]
    eps = lambda told: (x_t - denoiser(x_t, sigma, told)) / sigma  # noqa: E731
    empty = eps(denoiser.null_condition(positive))
    toward = eps(positive) - empty
    total = toward.clone()
    for told, weight in away:
        other = eps(told) - empty
        total += weight * (other - (other * toward).sum() / (toward * toward).sum() * toward)
    return x_t - sigma * (empty + scale * total)


ANGLES = [(0.0, 10.0), (40.0, 10.0), (-75.0, 0.0), (95.0, 5.0), (135.0, 20.0), (-180.0, -5.0), (30.0, 75.0)]


@pytest.mark.parametrize("split", [False, True])
@pytest.mark.parametrize("scale", [1.0, 7.5])
def test_guidance_is_that_of_the_recipe(scale, split):
    reader = Reader()
    azimuth, elevation = torch.tensor(ANGLES).deg2rad().unbind(1)
    rng = torch.Generator().manual_seed(2)
    x_t, sigma = torch.randn(len(ANGLES), 4, generator=rng), 0.5 + torch.rand(len(ANGLES), generator=rng)
    guided = Guided(PerpNeg(reader), scale, split)(x_t, sigma, view_condition(azimuth, elevation, VIEWS))
    assert reader.asked == 4 * len(ANGLES)  # prompt, empty and two negatives: with the branches of guidance shared
    for k in range(len(ANGLES)):
        one = slice(k, k + 1)
        wanted = by_hand(reader, x_t[one], sigma[one], azimuth[k].item(), elevation[k].item(), scale)
        torch.testing.assert_close(guided[one], wanted, rtol=1e-4, atol=1e-4)
    plain = Guided(PerpNeg(reader), scale, split)(
        x_t, sigma, view_condition(azimuth, elevation, VIEWS, negatives=False)
    )
    assert (guided - plain).abs().amax(1)[:6].min() > 0.01
    torch.testing.assert_close(guided[6], plain[6])  # from above there is no negative


def test_weights_of_the_views():
    azimuth = torch.tensor([0.0, 45, -45, 90, 180, 225]).deg2rad()
    shares, words, weights = view_weights(azimuth, torch.zeros(6))
    wanted = [[1, 0, 0, 0], [0.5, 0.5, 0, 0], [0.5, 0.5, 0, 0], [0, 1, 0, 0], [0, 0, 1, 0], [0, 0.5, 0.5, 0]]
    torch.testing.assert_close(shares, torch.tensor(wanted), atol=1e-5, rtol=0)
    assert words.tolist() == [[0, 1]] * 4 + [[1, 0]] * 2
    assert weights[0].tolist() == pytest.approx([-(4 * math.exp(-0.5) - 2.426), -1.574], abs=1e-4)
    assert weights[4].tolist() == pytest.approx([-0.394, -1.967], abs=1e-4)


def test_a_plain_condition_is_passed_on_and_the_empty_one_has_no_negatives():
    reader, x_t, sigma = Reader(), torch.randn(2, 4), torch.ones(2)
    told = {key: value[:2] for key, value in VIEWS.items()}
    assert torch.equal(PerpNeg(reader)(x_t, sigma, told), reader(x_t, sigma, told))
    assert torch.equal(Guided(PerpNeg(reader), 3.0)(x_t, sigma, told), Guided(reader, 3.0)(x_t, sigma, told))
    full = view_condition(torch.zeros(2), torch.zeros(2), VIEWS)
    assert WEIGHT in full
    assert not [key for key in PerpNeg(reader).null_condition(full) if key.startswith(PREFIX)]
    with pytest.raises(UserError, match="four rows"):
        view_condition(torch.zeros(1), torch.zeros(1), told)


class Seen(Generator):
    """One point, seen from a drawn side."""

    def __init__(self):
        super().__init__()
        self.point = torch.nn.Parameter(torch.zeros(1, 4))

    def draw(self, draws):
        angle = 2 * math.pi * draws.uniform("azimuth")
        return Batch({"angle": angle}, view_condition(angle, torch.zeros_like(angle), VIEWS))

    def forward(self, batch):
        return self.point.expand(len(batch.latents["angle"]), -1)


@pytest.mark.parametrize("name", ["vsd", "sim", "sds", "csd", "ism"])
def test_every_loss_gets_it(name):
    """The same estimates reach a loss as guidance gives, with a graph where it wants one."""
    online = Preconditioned(torch.nn.Linear(5, 4))
    config = TrainingConfig(iterations=3, batch=4, device="cpu", guidance_scale=4.0)
    trainer = Trainer(config, PerpNeg(Reader()), online, Seen(), losses.build(name))
    batch = trainer._render(trainer._parts(0)[0]).batch
    x_t, sigma = torch.randn(4, 4), torch.ones(4)
    asked, extra = trainer.evaluations.ask(x_t, sigma, batch)
    torch.testing.assert_close(asked, Guided(PerpNeg(Reader()), 4.0)(x_t, sigma, batch.teacher_condition))
    if name == "csd":
        torch.testing.assert_close(extra["teacher_cond"], PerpNeg(Reader())(x_t, sigma, batch.teacher_condition))
    for k in range(3):
        trainer.iteration(k)
    assert trainer.figures(3)["nan_samples"] == 0
    assert trainer.generator.point.abs().max() > 0
    assert isinstance(trainer.evaluations, Evaluations)
