"""Which cells of the cube hold anything, so that rays need not ask the field about the others."""

import warnings

import torch
from torch import Tensor, nn

from scorefield.errors import Notice, UserError
from scorefield.three_d.extra import need
from scorefield.three_d.field import Field


class Occupancy(nn.Module):
    """A grid of cells, kept by nerfacc's ``OccGridEstimator`` so that its CUDA marcher can walk it.

    Updates draw their points from a generator of their own, seeded by the iteration: a resumed run repeats them.

    Args:
        bound: half the side of the cube. side: cells along it.
        threshold: a cell counts when a step of length ``step`` through its densest known point absorbs more.
        decay: factor on what is known of a cell, per update.
    """

    def __init__(self, bound: float, side: int = 32, threshold: float = 0.01, step: float = 0.05, decay: float = 0.8):
        super().__init__()
        if side < 2 or not 0 < threshold < 1 or not 0 <= decay < 1:
            raise UserError("an occupancy grid needs side of at least 2, threshold in (0, 1) and decay in [0, 1)")
        self.bound, self.side, self.threshold, self.step, self.decay = bound, side, threshold, step, decay
        self.estimator = need("nerfacc").OccGridEstimator([-bound] * 3 + [bound] * 3, side)
        self.estimator.binaries.fill_(True)
        self.warned = False

    @torch.no_grad()
    def update(self, field: Field, iteration: int, decay: float | None = None) -> float:
        """Look at a random point of every cell; returns the share of cells that are occupied.

        Where nothing at all would be left, all cells are kept (so that the field can come back) and a warning says so.
        A density that is not a number counts as opaque: its cell stays in the pictures, where the trainer sees what is
        broken, and once the field is repaired the record decays like any other.
        """
        estimator = self.estimator
        device = estimator.occs.device
        source = torch.Generator(device).manual_seed(iteration + 1)
        jitter = torch.rand(len(estimator.occs), 3, device=device, generator=source)
        points = ((estimator.grid_coords + jitter) / self.side * 2 - 1) * self.bound
        parts = [1 - (-self.step * field.density(part)).exp() for part in points.split(1 << 18)]
        # maximum() hands a NaN on from either side, and NaN > threshold is false: unreplaced it would prune for good
        known, seen = estimator.occs.nan_to_num(1.0), torch.cat(parts).nan_to_num(1.0)
        estimator.occs.copy_(torch.maximum(known * (self.decay if decay is None else decay), seen))
        occupied = estimator.occs > self.threshold
        if not occupied.any():
            if not self.warned:
                said = "the density field is empty everywhere: no cell is skipped until it comes back"
                warnings.warn(said, Notice, stacklevel=2)
            self.warned = True
            occupied = torch.ones_like(occupied)
        estimator.binaries.copy_(occupied.view_as(estimator.binaries))
        return occupied.float().mean().item()

    def renew(self, field: Field, seed: int, looks: int = 16) -> float:
        """Forget what is known and look ``looks`` times: one look sees a point a cell, and misses cells whose corner
        alone is dense. Returns the share of cells that are occupied."""
        self.estimator.occs.zero_()
        return [self.update(field, seed + look, decay=1.0) for look in range(looks)][-1]

    def holds(self, points: Tensor) -> Tensor:
        """bool [...]: whether points [..., 3] within the cube lie in an occupied cell."""
        cell = ((points / self.bound + 1) * (self.side / 2)).long().clamp_(0, self.side - 1)
        flat = (cell[..., 0] * self.side + cell[..., 1]) * self.side + cell[..., 2]
        return self.estimator.binaries.view(-1)[flat]
