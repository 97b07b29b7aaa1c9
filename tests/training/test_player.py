"""A player's optimizer does what its settings say: rates, decay of weights, clipping; and so does the average."""

import pytest
import torch

from scorefield import losses
from scorefield.teachers.analytic import Gaussian
from scorefield.training.player import MovingAverage, Player
from scorefield.training.settings import PlayerConfig, TrainingConfig
from scorefield.training.trainer import Trainer

from .test_trainer import LinearGenerator, LinearScore, make

STEEP = {"eps": 1e6, "learning_rate": 1e6, "betas": (0.0, 0.999)}  # so large an eps makes Adam's step the gradient


def player(*groups, iterations=10, **settings) -> Player:
    """A player of these groups' parameters."""
    return Player([{"params": [weight]} | more for weight, more in groups], PlayerConfig(**settings), iterations)


def weight(*values: float) -> torch.nn.Parameter:
    return torch.nn.Parameter(torch.tensor(values))


def step(made: Player, iteration: int, *gradients: list[float]) -> None:
    for parameter, gradient in zip(made.parameters, gradients, strict=True):
        parameter.grad = torch.tensor(gradient)
    made.step(iteration)


def test_the_rate_warms_up_in_a_line_and_falls_as_a_cosine_to_a_hundredth():
    flat = player((weight(0.0), {}), learning_rate=0.2, warmup_iterations=4)
    assert [flat.rate(k) for k in range(6)] == pytest.approx([0.05, 0.1, 0.15, 0.2, 0.2, 0.2])
    falling = player((weight(0.0), {}), learning_rate=0.2, decay="cosine", iterations=12)
    # cos 0, 60, 90, 120 and 180 degrees; beyond the end it stays where it is
    wanted = [0.2 * (0.01 + 0.99 * share) for share in (1.0, 0.75, 0.5, 0.25, 0.0, 0.0)]
    assert [falling.rate(k) for k in (0, 4, 6, 8, 12, 15)] == pytest.approx(wanted)
    assert falling.rate(12) == pytest.approx(0.2 / 100)
    both = player((weight(0.0), {}), learning_rate=0.2, decay="cosine", iterations=12, warmup_iterations=8)
    both.rate_scale = 0.5  # after a roll-back
    assert both.rate(4) == pytest.approx(0.2 * 0.5 * 5 / 8 * (0.01 + 0.99 * 0.75))


def test_every_step_moves_by_the_rate_of_its_iteration_times_the_groups_scale():
    """A constant gradient makes Adam's step the rate itself."""
    plain, slow = weight(1.0), weight(1.0)
    schedule = {"learning_rate": 0.1, "warmup_iterations": 3, "decay": "cosine"}
    made = player((plain, {}), (slow, {"lr_scale": 0.25}), iterations=6, **schedule)
    for k in range(6):
        before = plain.item(), slow.item()
        step(made, k, [2.0], [-3.0])
        assert before[0] - plain.item() == pytest.approx(made.rate(k), rel=1e-4)
        assert slow.item() - before[1] == pytest.approx(0.25 * made.rate(k), rel=1e-4)


def test_decay_of_weights_is_decoupled_from_the_gradient():
    still, moved = weight(2.0, -4.0), weight(2.0, -4.0)
    made = player((still, {}), (moved, {}), learning_rate=0.1, weight_decay=0.5)
    step(made, 0, [0.0, 0.0], [7.0, -0.3])
    assert still.tolist() == pytest.approx([2.0 * 0.95, -4.0 * 0.95])
    # an L2 term would have joined the gradient, whose size Adam takes away
    assert moved.tolist() == pytest.approx([2.0 * 0.95 - 0.1, -4.0 * 0.95 + 0.1])
    kept = weight(2.0, -4.0)
    step(player((kept, {}), learning_rate=0.1), 0, [0.0, 0.0])
    assert kept.tolist() == [2.0, -4.0]


def test_clipping_shortens_the_gradient_of_all_parameters_together():
    first, second = weight(0.0, 0.0), weight(0.0)
    made = player((first, {}), (second, {}), clip_norm=0.5, **STEEP)
    step(made, 0, [2.0, 3.0], [6.0])  # norm 7
    assert made.norm.item() == pytest.approx(7.0)  # as it was before
    assert [*first.tolist(), *second.tolist()] == pytest.approx([-2 / 14, -3 / 14, -6 / 14], rel=1e-3)
    before = first.tolist()
    step(made, 1, [0.1, 0.2], [0.2])  # norm 0.3: short enough
    assert first.tolist() == pytest.approx([before[0] - 0.1, before[1] - 0.2], rel=1e-3)
    free = weight(0.0, 0.0)
    step(player((free, {}), **STEEP), 0, [2.0, 3.0])
    assert free.tolist() == pytest.approx([-2.0, -3.0], rel=1e-3)


def test_each_player_of_the_trainer_has_its_own_settings():
    slow = PlayerConfig(learning_rate=0.08, betas=(0.0, 0.99), warmup_iterations=4)
    heavy = PlayerConfig(learning_rate=0.02, betas=(0.0, 0.99), decay="cosine", weight_decay=0.5)
    config = TrainingConfig(iterations=10, batch=16, device="cpu", generator=slow, online=heavy)
    teacher = Gaussian(torch.ones(2), 0.36 * torch.eye(2))
    trainer = Trainer(config, teacher, LinearScore(), LinearGenerator(), losses.build("sim"))
    for name in ("mean", "log_var"):
        torch.nn.init.constant_(getattr(trainer.online, name), 4.0)
    for k in range(2):  # the first step of Adam is the rate, of a size that the gradient does not change
        before = trainer.generator.shift.detach().clone()
        seen = trainer.online.mean.detach().clone()
        trainer.generator_player.optimizer.state.clear()
        trainer.online_player.optimizer.state.clear()
        trainer.iteration(k)
        moved = (trainer.generator.shift - before).abs()
        assert moved.tolist() == pytest.approx([0.02 * (k + 1)] * 2, rel=1e-3)
        rate = 0.02 * (1.0, 0.01 + 0.99 * 0.5 * (1 + 0.9510565))[k]
        shrunk = seen * (1 - 0.5 * rate)
        assert (trainer.online.mean - shrunk).abs().tolist() == pytest.approx([rate] * 2, rel=1e-3)


# ---------------------------------------------------------------------- the average


def follow(half_life: float, rampup: float, batch: int, images: int) -> float:
    """What is left of the old value after one update towards 1."""
    live = weight(0.0)
    average = MovingAverage([("w", live)], half_life, rampup)
    live.data.fill_(1.0)
    average.update(batch, images)
    return 1 - average.shadow[0].item()


def test_the_averages_half_life_grows_with_the_images_up_to_the_configured_one():
    assert follow(1000, 0.05, 64, 1280) == pytest.approx(0.5)  # 0.05 of 1280 images are 64
    assert follow(1000, 0.05, 128, 1280) == pytest.approx(0.25)
    assert follow(1000, 0.05, 64, 12_800) == pytest.approx(0.5 ** (1 / 10))
    assert follow(1000, 0.05, 500, 20_000) == pytest.approx(0.5 ** (1 / 2))  # 1000 from here on
    assert follow(1000, 0.05, 500, 2_000_000) == pytest.approx(0.5 ** (1 / 2))
    assert follow(1000, 0.0, 250, 10) == pytest.approx(0.5 ** (1 / 4))  # no ramp
    assert follow(0, 0.05, 64, 1280) == 0  # no average at all


def test_the_trainers_average_is_that_of_the_weights_that_it_had():
    trainer = make(ema_half_life_images=500, ema_rampup=0.5)
    wanted = trainer.generator.shift.detach().double().clone()
    for k in range(24):
        trainer.iteration(k)
        half_life = min(500, 0.5 * 64 * (k + 1))
        kept = 0.5 ** (64 / half_life)
        wanted = kept * wanted + (1 - kept) * trainer.generator.shift.detach().double()
    average = trainer.average.state_dict()["shift"]
    torch.testing.assert_close(average.double(), wanted, rtol=1e-5, atol=1e-6)
    assert (average - trainer.generator.shift).abs().min() > 1e-3
