"""Particles under several processes: each renders one of its own, all train one online score."""

import pytest
import torch

from scorefield.generators.nerf import NerfGenerator
from scorefield.random import Draws
from tests.generators import particle_ranks as ranks
from tests.training.test_ranks import torchrun


def test_each_process_draws_a_particle_of_its_own(monkeypatch):
    generator, seen = ranks.trainer().generator, []
    assert generator.partial
    assert not ranks.trainer(NerfGenerator, 1).generator.partial
    for k in range(12):
        drawn = []
        for number in ("0", "1"):
            monkeypatch.setenv("RANK", number)
            particle = generator.draw(Draws(0, k, torch.arange(4))).latents["particle"]
            assert (particle == particle[0]).all()
            drawn.append(int(particle[0]))
        assert (drawn[1] - drawn[0]) % 3 == 1
        seen += drawn
    assert set(seen) == {0, 1, 2}


@pytest.mark.slow  # the start of two processes
def test_two_processes_train_their_particles_and_one_online_score(tmp_path):
    done = torchrun("-m", "tests.generators.particle_ranks", str(tmp_path))
    assert done.returncode == 0, done.stderr[-3000:]
    first, second = (torch.load(tmp_path / f"rank-{rank}.pt", weights_only=True) for rank in range(2))
    alone = ranks.finish(ranks.trainer(ranks.Halves))
    start = {f"generator.{n}": p for n, p in ranks.trainer().generator.named_parameters()}
    moved = [(alone[name] - value).abs().max().item() for name, value in start.items()]
    assert sum(value > 0.01 for value in moved) >= 2  # more particles than one were trained
    for name, value in alone.items():
        assert torch.equal(first[name], second[name]), name
        torch.testing.assert_close(first[name], value, atol=2e-4, rtol=1e-3)
