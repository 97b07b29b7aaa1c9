"""A generator with terms: what it is, is left alone; what the scores see and add, goes through the terms."""

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from scorefield.denoiser import Condition
from scorefield.generators.base import Batch, Changes, Generator
from scorefield.random import Draws


class Term:
    """Base of all terms; each method does nothing by default. Tensors are those of the trainer's hooks."""

    name = ""

    def draw(self, draws: Draws) -> dict[str, Tensor]:
        """Random numbers [B, …] that the term needs, under names of its own."""
        return {}

    def generator(self, x0: Tensor, batch: Batch, iteration: int) -> Tensor | None:
        """Scalar that joins the generator's loss."""
        return None

    def online(self, x0: Tensor, batch: Batch) -> Tensor | None:
        """Scalar that joins the online score's loss; ``x0`` has no graph."""
        return None

    def weigh(self, x_t: Tensor, sigma: Tensor, batch: Batch) -> Tensor | None:
        """Factors [B] on the losses."""
        return None


class WithTerms(Generator):
    """``inner`` with ``terms``, which are no part of its state; at most one of them weighs samples."""

    def __init__(self, inner: Generator, terms: list[Term]):
        super().__init__()
        self.inner, self.terms, self.steps = inner, terms, inner.steps

    @torch.no_grad()
    def draw(self, draws: Draws) -> Batch:
        batch = self.inner.draw(draws)
        for term in self.terms:
            batch.latents.update(term.draw(draws))
        return batch

    def forward(self, batch: Batch) -> Tensor:
        return self.inner(batch)

    def online_view(self, x0: Tensor, condition: Condition, draws: Draws) -> tuple[Tensor, Condition]:
        return self.inner.online_view(x0, condition, draws)

    def regularize(self, x0: Tensor, batch: Batch, iteration: int) -> dict[str, Tensor]:
        found = {term.name: term.generator(x0, batch, iteration) for term in self.terms}
        return self.inner.regularize(x0, batch, iteration) | {k: v for k, v in found.items() if v is not None}

    def regularize_online(self, x0: Tensor, batch: Batch) -> dict[str, Tensor]:
        found = {f"{term.name}_online": term.online(x0, batch) for term in self.terms}
        return self.inner.regularize_online(x0, batch) | {k: v for k, v in found.items() if v is not None}

    def weigh(self, x_t: Tensor, sigma: Tensor, batch: Batch) -> Tensor | None:
        found = [term.weigh(x_t, sigma, batch) for term in self.terms]
        return next((factors for factors in found if factors is not None), self.inner.weigh(x_t, sigma, batch))

    def parameter_groups(self) -> list[dict[str, Any]]:
        return self.inner.parameter_groups()

    def after_step(self, iteration: int) -> Changes | None:
        return self.inner.after_step(iteration)

    def averaged(self) -> Iterator[tuple[str, Tensor]]:
        """Under the names that they have without terms, so that weights are read either way."""
        return self.inner.averaged()


def plain(generator: Generator) -> Any:
    """The generator without its terms, which draw numbers that pictures have no use for."""
    return generator.inner if isinstance(generator, WithTerms) else generator
