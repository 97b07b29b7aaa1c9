"""The averaged online score: what the generator follows, what the score itself learns, and resuming."""

import copy

import pytest
import torch

from scorefield.errors import UserError
from scorefield.training.settings import PlayerConfig, TrainingConfig
from scorefield.training.steady import SteadyScore

from .test_trainer import make


def test_the_generator_follows_the_average_and_the_score_learns_as_before():
    fast = PlayerConfig(learning_rate=0.3, betas=(0.0, 0.99))
    settings = {"online_warmup": 3, "fresh_samples": True, "online": fast}
    plain, steady = (make("diff_instruct", online_half_life_images=life, **settings) for life in (0.0, 192.0))
    past = []
    for k in range(3):
        for trainer in (plain, steady):
            trainer.iteration(k)
        past.append([p.detach().clone() for p in plain.online.parameters()])
    assert all(torch.equal(p, q) for p, q in zip(plain.online.parameters(), steady.online.parameters(), strict=True))
    beta, means = 0.5 ** (64 / 192), [p.detach().clone() for p in make().online.parameters()]
    for values in past:
        means = [beta * mean + (1 - beta) * value for mean, value in zip(means, values, strict=True)]

    # an iteration's generator step with the average in the score's place, by hand
    steady.iteration(3)
    by_hand = copy.deepcopy(plain)
    generator_loss, online = by_hand._generator_loss, list(by_hand.online.parameters())

    def asked(sample, iteration):
        newest = [p.detach().clone() for p in online]
        for p, mean in zip(online, means, strict=True):
            p.data = beta * mean + (1 - beta) * p.data
        by_hand.accelerator.backward(generator_loss(sample, iteration))
        for p, value in zip(online, newest, strict=True):
            p.data = value
        return torch.zeros((), requires_grad=True)

    by_hand._generator_loss = asked
    by_hand.iteration(3)
    plain.iteration(3)
    assert torch.allclose(steady.generator.shift, by_hand.generator.shift, atol=1e-6)
    assert torch.allclose(steady.generator_player.norm, by_hand.generator_player.norm, rtol=1e-4)
    assert not torch.allclose(steady.generator_player.norm, plain.generator_player.norm, rtol=2e-2)


def test_outside_the_generators_update_the_newest_weights_are_live():
    score = torch.nn.Linear(2, 2)
    steady, before = SteadyScore(score, 64.0), score.weight.detach().clone()
    score.weight.data += 1
    steady.update(64)
    with steady.read():
        assert torch.allclose(score.weight, before + 0.5)
    assert torch.equal(score.weight, before + 1)
    assert not SteadyScore(score, 0.0).state_dict()


def test_an_error_within_leaves_the_newest_weights():
    score = torch.nn.Linear(2, 2)
    steady = SteadyScore(score, 64.0)
    score.weight.data += 1
    newest = score.weight.detach().clone()
    with pytest.raises(ZeroDivisionError), steady.read():
        raise ZeroDivisionError
    assert torch.equal(score.weight, newest)


def test_a_resumed_trainer_goes_on_bit_for_bit():
    whole = make(online_half_life_images=640.0)
    for k in range(4):
        whole.iteration(k)
    state, nets = copy.deepcopy(whole.state()), [copy.deepcopy(n.state_dict()) for n in (whole.online, whole.generator)]
    resumed = make(online_half_life_images=640.0)
    for network, weights in zip((resumed.online, resumed.generator), nets, strict=True):
        network.load_state_dict(weights)
    resumed.load_state(state)
    for trainer in (whole, resumed):
        trainer.iteration(4)
    assert torch.equal(whole.generator.scale, resumed.generator.scale)


def test_a_run_that_had_no_average_starts_one_from_its_present_weights():
    score = torch.nn.Linear(2, 2)
    steady = SteadyScore(score, 64.0)
    score.weight.data += 1
    steady.load_state_dict({})
    with steady.read():
        present = score.weight.detach().clone()
    assert torch.equal(present, score.weight)


def test_shards_are_refused():
    with pytest.raises(UserError, match=r"online_half_life_images .*sharding=none"):
        TrainingConfig(online_half_life_images=10.0, sharding="fsdp2")
