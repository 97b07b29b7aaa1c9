"""The online score that hears the camera."""

import pytest
import torch

from scorefield.errors import UserError
from scorefield.teachers import online
from scorefield.teachers.camera import CameraTold, Deaf
from scorefield.teachers.pixart import PixArt
from scorefield.teachers.plain import PlainDenoiser


@pytest.fixture(scope="module")
def pipeline():
    return PixArt("toybox")


@pytest.fixture(scope="module")
def seen(pipeline):
    torch.manual_seed(0)
    condition = pipeline.encode(["a red chair", "a blue car"])
    return torch.randn(2, 4, 8, 8), torch.tensor([0.5, 2.0]), {**condition, "pose": torch.randn(2, 16)}


@pytest.mark.parametrize("kind", ["lora", "full"])
def test_it_starts_as_the_teacher_and_leaves_the_teacher_alone(pipeline, seen, kind):
    x, sigma, told = seen
    teacher = pipeline.denoiser()
    plain = {key: value for key, value in told.items() if key != "pose"}
    with torch.no_grad():
        before = teacher(x, sigma, plain)
    if kind == "lora":
        score, teacher = online.with_lora(teacher, 4, ("to_q", "to_v"))
    else:
        score = online.full_copy(teacher)
    score = CameraTold(score)
    with torch.no_grad():
        torch.testing.assert_close(score(x, sigma, told), before, atol=1e-5, rtol=1e-5)
    optimizer = torch.optim.Adam([p for p in score.parameters() if p.requires_grad], 1e-2)
    for _ in range(3):
        score(x, sigma, told).square().sum().backward()
        optimizer.step()
        optimizer.zero_grad()
    with torch.no_grad():
        torch.testing.assert_close(teacher(x, sigma, plain), before, atol=1e-5, rtol=1e-5)
        assert (score(x, sigma, told) - before).abs().max() > 1e-3
        elsewhere = {**told, "pose": told["pose"] + 1}
        assert (score(x, sigma, elsewhere) - score(x, sigma, told)).abs().max() > 1e-5
        null = score.null_condition(told)
        assert set(null) == set(told)


def test_one_that_does_not_listen(pipeline, seen):
    x, sigma, told = seen
    teacher = pipeline.denoiser()
    with torch.no_grad():
        one = Deaf(teacher)(x, sigma, told)
        torch.testing.assert_close(one, teacher(x, sigma, {k: v for k, v in told.items() if k != "pose"}))


def test_a_network_without_a_time_embedding_is_refused():
    with pytest.raises(UserError, match=r"online\.camera=false"):
        CameraTold(PlainDenoiser(torch.nn.Linear(2, 2)))
