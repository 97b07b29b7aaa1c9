"""The guided numbers that reach the loss: uncond + s (cond - uncond), of each network at its own scale."""

from dataclasses import dataclass

import pytest
import torch

from scorefield import losses
from scorefield.denoiser import Denoiser, replace
from scorefield.errors import UserError
from scorefield.generators.base import Batch, Generator
from scorefield.losses.base import Loss
from scorefield.training.settings import PlayerConfig, TrainingConfig
from scorefield.training.trainer import Trainer


class Worded(Denoiser):
    """An answer that depends on a word in a way that no other scale, word or network gives."""

    sigma_min, sigma_max = 0.01, 50.0

    def __init__(self, slope: float):
        super().__init__()
        self.slope = torch.nn.Parameter(torch.tensor(slope))
        self.asked: list[int] = []

    def forward(self, x_t, sigma, condition):
        self.asked.append(len(x_t))
        return answer(self.slope, x_t, sigma, condition["word"])

    def null_condition(self, like):
        return {"word": torch.zeros_like(like["word"])}


def answer(slope, x_t, sigma, word):
    """The same in plain sight, for what is expected."""
    return slope * torch.tanh(x_t * (1 + word[:, None])) / (1 + sigma[:, None]) + 0.3 * word[:, None]


class Points(Generator):
    """Four points; the teacher is told other words than the online score."""

    def __init__(self):
        super().__init__()
        self.points = torch.nn.Parameter(torch.linspace(-2, 2, 8).view(4, 2))

    def draw(self, draws):
        told = {"word": 1.0 + draws.indices}
        return Batch({}, told, {"word": 0.5 * told["word"]})

    def forward(self, batch):
        return self.points[: len(batch.teacher_condition["word"])]


@dataclass(frozen=True)
class Noted(Loss):
    """Keeps what it is given; its value means nothing."""

    def per_sample(self, *, x0, x_t, sigma, teacher_x0, online_x0, **extra):
        GIVEN.append({"x_t": x_t, "sigma": sigma, "teacher": teacher_x0, "online": online_x0})
        return (x0 * (online_x0 - teacher_x0)).sum(1)


GIVEN: list[dict[str, torch.Tensor]] = []


def make(**settings) -> Trainer:
    still = PlayerConfig(learning_rate=1e-12)
    config = TrainingConfig(
        iterations=20, batch=4, device="cpu", generator=still, online=still, online_weighting="none", **settings
    )
    GIVEN.clear()
    return Trainer(config, Worded(0.7), Worded(1.9), Points(), Noted())


def expected(slope: float, scale: float, x_t, sigma, word):
    cond, uncond = (answer(slope, x_t, sigma, told) for told in (word, torch.zeros_like(word)))
    return uncond + scale * (cond - uncond)


WORDS = torch.tensor([1.0, 2.0, 3.0, 4.0])


@pytest.mark.parametrize("split", [False, True])
@pytest.mark.parametrize(("teacher", "online"), [(4.5, 2.0), (1.0, 3.0), (0.0, 1.0), (2.5, 0.0), (-1.0, 0.5)])
def test_the_loss_sees_each_network_at_its_own_scale(teacher, online, split):
    made = make(guidance_scale=teacher, online_guidance_scale=online, split_guidance=split)
    made.iteration(0)
    (given,) = GIVEN
    x_t, sigma = given["x_t"].detach(), given["sigma"]
    torch.testing.assert_close(given["teacher"], expected(0.7, teacher, x_t, sigma, WORDS))
    torch.testing.assert_close(given["online"], expected(1.9, online, x_t, sigma, 0.5 * WORDS))
    one_branch, both = [4], [4, 4] if split else [8]
    assert made.teacher.denoiser.asked == (one_branch if teacher in (0.0, 1.0) else both)
    # the online score is first trained, unguided, then asked for the loss
    assert made.online.asked == one_branch + (one_branch if online in (0.0, 1.0) else both)


@pytest.mark.parametrize("scale", [1.0, 2.5, 0.0])
def test_the_online_score_is_trained_at_a_scale_of_its_own(scale):
    """Neither the teacher's scale nor that of the generator's update has a part in it."""
    made = make(guidance_scale=4.5, online_guidance_scale=3.0, online_training_guidance_scale=scale)
    sample = made._render(made._parts(0)[0])
    x0, draws = sample.x0.detach(), sample.draws
    sigma = made.online_noise(draws.uniform("online-sigma-0"))
    x_t = x0 + sigma[:, None] * draws.normal("online-eps-0", 2)
    slope = torch.tensor(1.9, requires_grad=True)
    wanted = (expected(slope, scale, x_t, sigma, 0.5 * WORDS) - x0).square().mean()
    found = made._online_loss(sample, 0)
    torch.testing.assert_close(found, wanted)
    found.backward()
    wanted.backward()
    torch.testing.assert_close(made.online.slope.grad, slope.grad)  # both branches learn


def test_stages_change_the_teachers_scale_at_their_iterations():
    made = make(guidance_scale=2.0, online_guidance_scale=1.5, guidance_stages={3: 6.0, 8: 1.0})
    for k in range(10):
        made.iteration(k)
    assert len(GIVEN) == 10
    for k, given in enumerate(GIVEN):
        scale = 2.0 if k < 3 else 6.0 if k < 8 else 1.0
        x_t, sigma = given["x_t"].detach(), given["sigma"]
        torch.testing.assert_close(given["teacher"], expected(0.7, scale, x_t, sigma, WORDS), msg=f"iteration {k}")
        torch.testing.assert_close(given["online"], expected(1.9, 1.5, x_t, sigma, 0.5 * WORDS))


def test_some_of_the_online_scores_samples_lose_their_prompt():
    """In its training alone, each at random; teacher and generator's update keep every prompt."""
    made = make(online_prompt_dropout=0.5, guidance_scale=1.0)
    dropped = []
    for k in range(16):
        sample = made._render(made._parts(k)[0])
        x0, draws = sample.x0.detach(), sample.draws
        gone = draws.uniform("online-prompt-0") < 0.5
        sigma = made.online_noise(draws.uniform("online-sigma-0"))
        x_t = x0 + sigma[:, None] * draws.normal("online-eps-0", 2)
        told = torch.where(gone, 0.0, 0.5 * WORDS)
        wanted = (answer(1.9, x_t, sigma, told) - x0).square().mean()
        torch.testing.assert_close(made._online_loss(sample, 0).detach(), wanted)
        dropped.append(gone)
    assert 0.25 < torch.cat(dropped).float().mean() < 0.75
    made.iteration(0)
    x_t, sigma = GIVEN[-1]["x_t"].detach(), GIVEN[-1]["sigma"]
    torch.testing.assert_close(GIVEN[-1]["teacher"], answer(0.7, x_t, sigma, WORDS))
    torch.testing.assert_close(GIVEN[-1]["online"], answer(1.9, x_t, sigma, 0.5 * WORDS))


def test_a_longer_empty_prompt_takes_the_place_of_a_shorter_one():
    condition = {"text": torch.ones(2, 3, 4), "text_mask": torch.ones(2, 3).long()}
    empty = {"text": torch.full((2, 5, 4), 7.0), "text_mask": torch.ones(2, 5).long()}
    found = replace(condition, empty, torch.tensor([False, True]))
    assert torch.equal(found["text"][1], empty["text"][1])
    assert torch.equal(found["text"][0], torch.cat([torch.ones(3, 4), torch.zeros(2, 4)]))
    assert found["text_mask"].tolist() == [[1, 1, 1, 0, 0], [1, 1, 1, 1, 1]]


def test_a_loss_that_pulls_the_online_score_to_the_teacher_takes_no_dropout():
    config = TrainingConfig(iterations=2, batch=4, device="cpu", online_prompt_dropout=0.1)
    with pytest.raises(UserError, match=r"training\.online_prompt_dropout: this loss"):
        Trainer(config, Worded(0.7), Worded(1.9), Points(), losses.build("moment_matching"))
