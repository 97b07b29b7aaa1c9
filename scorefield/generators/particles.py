"""K samples of one prompt, optimised directly: no network makes them, they are the parameters."""

import torch
from torch import Tensor, nn

from scorefield.denoiser import Condition
from scorefield.generators.base import Batch, Generator
from scorefield.random import Draws


class Particles(Generator):
    """x0 = the particle itself: an image or latent in the teacher's space, K of them under one online score.

    As in ProlificDreamer (arXiv:2305.16213) the online score is not told which particle it sees; what it learns of all
    of them together is all that couples them.

    Args:
        points: [K, …], where they start. condition, negative: of the prompt and of a negative one, one row each.

    A batch of B samples holds particles in turn from a random first one, so that B = K holds each once, and B = m K
    each m times.
    """

    def __init__(self, points: Tensor, condition: Condition | None = None, negative: Condition | None = None):
        super().__init__()
        self.points = nn.Parameter(points.detach().clone().float())
        self.condition, self.negative = dict(condition or {}), dict(negative or {})

    @classmethod
    def scattered(cls, count: int, shape: tuple[int, ...], std: float, seed: int, **conditions) -> "Particles":
        """``count`` particles at N(0, std^2), each depending on (seed, its number) alone."""
        return cls(std * Draws(seed, -1, torch.arange(count)).normal("particles", *shape), **conditions)

    def __len__(self) -> int:
        return len(self.points)

    @torch.no_grad()
    def draw(self, draws: Draws) -> Batch:
        count = len(draws)
        # the same first particle for every sample of the iteration, whichever process holds it
        first = Draws(draws.seed, draws.iteration, torch.zeros_like(draws.indices)).integers("first", len(self))
        which = (draws.indices + first) % len(self)
        told = expanded(self.condition, count, draws.device)
        return Batch({"particle": which}, told, told, expanded(self.negative, count, draws.device))

    def forward(self, batch: Batch) -> Tensor:
        return self.points[batch.latents["particle"]]

    def all(self) -> Batch:
        """Every particle once, in order."""
        device = self.points.device
        told = expanded(self.condition, len(self), device)
        return Batch({"particle": torch.arange(len(self), device=device)}, told, told)


def expanded(condition: Condition, count: int, device: torch.device) -> dict[str, Tensor]:
    """One row of a condition, ``count`` times."""
    return {key: value.to(device).expand(count, *value.shape[1:]) for key, value in condition.items()}
