"""Keyed draws: right law, no dependence on the batch split."""

import torch

from scorefield.random import Draws


def test_draws_have_the_right_law():
    draws = Draws(0, 5, torch.arange(4000))
    normal, uniform = draws.normal("a", 50), draws.uniform("b", 50)
    assert abs(normal.mean()) < 0.01
    assert abs(normal.std() - 1) < 0.01
    assert abs(normal.pow(4).mean() - 3) < 0.1
    assert uniform.min() > 0
    assert uniform.max() < 1
    assert abs(uniform.mean() - 0.5) < 0.005
    counts = torch.bincount(draws.integers("c", 7, 20).flatten(), minlength=7)
    assert (counts / counts.sum() - 1 / 7).abs().max() < 0.005


def test_neither_split_nor_order_changes_a_draw_and_every_key_does():
    whole = Draws(1, 2, torch.arange(10)).normal("z", 3, 4)
    assert torch.equal(whole[4:7], Draws(1, 2, torch.arange(4, 7)).normal("z", 3, 4))
    for other in (
        Draws(2, 2, torch.arange(10)).normal("z", 3, 4),
        Draws(1, 3, torch.arange(10)).normal("z", 3, 4),
        Draws(1, 2, torch.arange(10)).normal("y", 3, 4),
        Draws(1, 2, torch.arange(10), "fresh").normal("z", 3, 4),
    ):
        assert abs(torch.corrcoef(torch.stack([whole.flatten(), other.flatten()]))[0, 1]) < 0.3
        assert not torch.equal(whole, other)
