"""The few-step student: its chain, its gradient, and where it stops."""

import pytest
import torch

from scorefield import losses
from scorefield.errors import UserError
from scorefield.generators.base import Batch
from scorefield.generators.few_step import FewStepGenerator
from scorefield.generators.one_step import OneStepGenerator
from scorefield.noise import DiscreteVP
from scorefield.random import Draws
from scorefield.training.trainer import Trainer
from tests.training import ranks


def generator(steps: int = 3, **options) -> FewStepGenerator:
    return FewStepGenerator(ranks.Network(), (2,), 2.5, ranks.conditions, steps=steps, **options)


def drawn(made: FewStepGenerator, k: int = 0, count: int = 6) -> Batch:
    return made.draw(Draws(0, k, torch.arange(count)))


def chain(made: FewStepGenerator, batch: Batch, last: int) -> torch.Tensor:
    """The same pictures by hand, only the last step with a graph."""
    z, told = batch.latents["z"], batch.teacher_condition
    x = made.denoiser(made.sigmas[0] * z, torch.full((len(z),), made.sigmas[0]), told)
    for k in range(1, last):
        level = made.sigmas[k]
        x = made.denoiser(x.detach() + level * z[:, made.orders[k]], torch.full((len(z),), level), told)
    return x


def test_one_step_is_the_one_step_generator():
    made, plain = generator(1), OneStepGenerator(ranks.Network(), (2,), 2.5, ranks.conditions)
    assert torch.equal(made(drawn(made)), plain(plain.draw(Draws(0, 0, torch.arange(6)))))


def test_pictures_and_gradient_are_those_of_the_chain_by_hand():
    made = generator().train()
    seen = set()
    for k in range(12):
        batch = drawn(made, k)
        last = int(batch.latents["stop"][0])
        assert set(batch.latents["stop"].tolist()) == {last}
        found, expected = made(batch), chain(made, batch, last)
        assert torch.allclose(found, expected)
        mine, theirs = (torch.autograd.grad(x.square().sum(), list(made.parameters())) for x in (found, expected))
        assert all(torch.allclose(a, b) for a, b in zip(mine, theirs, strict=True))
        seen.add(last)
    assert seen == {1, 2, 3}
    batch = drawn(made.eval())
    assert torch.allclose(made(batch), chain(made, batch, 3))  # all steps when it is looked at
    assert torch.equal(made(Batch({"z": batch.latents["z"]}, batch.teacher_condition)), made(batch))


def test_every_process_stops_at_the_same_step():
    made = generator(4)
    for k in range(8):
        parts = [made.draw(Draws(0, k, indices)).latents["stop"] for indices in torch.arange(8).chunk(2)]
        assert torch.equal(*parts)


def test_levels_fall_evenly_in_the_teachers_timesteps():
    network = ranks.Network()
    network.process = DiscreteVP.scaled_linear()
    first = network.process.ve_sigma(torch.tensor([900.0], dtype=torch.float64)).item()
    made = FewStepGenerator(network, (2,), first, steps=3)
    found = network.process.timestep(torch.tensor(made.sigmas, dtype=torch.float64))
    assert torch.allclose(found, torch.tensor([900.0, 600.0, 300.0], dtype=torch.float64), atol=1e-3)
    assert generator(3).sigmas[0] == pytest.approx(2.5)


@pytest.mark.parametrize("options", [{"steps": 0}, {"steps": 17}, {"sigmas": [2.5, 1.0]}, {"sigmas": [2.5, 1.0, 1.0]}])
def test_wrong_steps_and_levels_are_refused(options):
    with pytest.raises(UserError, match=r"generator\.options"):
        generator(**{"steps": 3, **options})


def test_the_trainer_moves_it():
    three = ranks.players()
    student = FewStepGenerator(three.generator.denoiser, (2,), 2.5, ranks.conditions, steps=2)
    before = [p.detach().clone() for p in student.parameters()]
    trainer = Trainer(ranks.training(), three.teacher, three.online, student, losses.build("sim"))
    for k in range(3):
        trainer.iteration(k)
    assert all(not torch.equal(a, b) for a, b in zip(before, student.parameters(), strict=True))
    assert trainer.figures(3)["nan_samples"] == 0
