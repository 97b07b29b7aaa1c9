"""A generator that is trained on stored start noise, each with what the teacher made of it."""

from collections.abc import Callable

import torch
from torch import Tensor

from scorefield.denoiser import Condition
from scorefield.generators.base import Batch, Generator
from scorefield.generators.terms.wrapper import WithTerms
from scorefield.random import Draws


class Paired(WithTerms):
    """``inner``, whose batches are drawn from pairs: ``z`` the start noise, ``paired_x0`` the teacher's answer.

    Args:
        z, x0: [N, …]; start noise and the teacher's sample of it.
        conditions: from numbers of pairs int64 [B] to what was told there.
    """

    def __init__(self, inner: Generator, z: Tensor, x0: Tensor, conditions: Callable[[Tensor], Condition]):
        super().__init__(inner, [])
        self.z, self.x0, self.conditions = z, x0, conditions  # no part of its state

    @torch.no_grad()
    def draw(self, draws: Draws) -> Batch:
        batch = self.inner.draw(draws)
        rows = draws.integers("pair", len(self.z))
        batch.latents |= {"z": self.z[rows], "paired_x0": self.x0[rows]}
        batch.teacher_condition = batch.online_condition = self.conditions(rows)
        return batch
