import itertools
import math

import pytest
import torch

from scorefield.errors import UserError
from scorefield.three_d.grids import DenseGrid, HashGrid


def slow_hash(grid: HashGrid, point: list[float]) -> list[float]:
    """One point, one corner at a time, in Python's own integers."""
    found: list[float] = []
    for side, size, hashed, table in zip(grid.sides, grid.sizes, grid.hashed, grid.tables, strict=True):
        place = [(min(max(x, -1.0), 1.0) + 1) / 2 * side for x in point]
        low = [min(math.floor(x), side - 1) for x in place]
        total = [0.0] * table.shape[1]
        for corner in itertools.product((0, 1), repeat=3):
            share = 1.0
            for axis in range(3):
                t = place[axis] - low[axis]
                t = t * t * (3 - 2 * t) if grid.smoothstep else t
                share *= t if corner[axis] else 1 - t
            x, y, z = (low[axis] + corner[axis] for axis in range(3))
            row = (x ^ (y * 2654435761) ^ (z * 805459861)) % size if hashed else x + (side + 1) * (y + (side + 1) * z)
            for feature in range(table.shape[1]):
                total[feature] += share * table[row, feature].item()
        found += total
    return found


@pytest.mark.parametrize("smoothstep", [False, True])
def test_hash_grid_is_the_slow_reference(smoothstep):
    torch.manual_seed(0)
    grid = HashGrid(levels=5, features=2, log2_size=9, base=4, scale=1.6, smoothstep=smoothstep, init=1.0)
    assert grid.hashed == [False, False, True, True, True]
    points = torch.rand(40, 3) * 2 - 1
    points[:3] = torch.tensor([[1.0, 1.0, 1.0], [-1.0, -1.0, -1.0], [0.0, 1.0, -1.0]])
    slow = torch.tensor([slow_hash(grid, point) for point in points.tolist()])
    torch.testing.assert_close(grid(points), slow, atol=2e-5, rtol=0)


def test_a_dense_grid_reproduces_linear_functions():
    grid = DenseGrid([3, 9], 2)
    for level in grid.levels:
        axis = torch.linspace(-1, 1, level.shape[-1])
        z, y, x = torch.meshgrid(axis, axis, axis, indexing="ij")
        level.data[0] = torch.stack([x + 2 * y, 3 * z - x])
    points = torch.rand(50, 3) * 2 - 1
    x, y, z = points.unbind(-1)
    torch.testing.assert_close(grid(points), 2 * torch.stack([x + 2 * y, 3 * z - x], -1), atol=1e-5, rtol=0)
    grid.join = "concat"
    assert grid(points).shape == (50, 4)


def test_gradients_reach_every_level_that_was_read():
    grid = HashGrid(levels=3, features=2, log2_size=10, base=4, scale=2.0)
    grid(torch.rand(64, 3) * 2 - 1).sum().backward()
    assert all(table.grad is not None and table.grad.abs().sum() > 0 for table in grid.tables)


@pytest.mark.parametrize(
    "make", [lambda: DenseGrid([1], 4), lambda: HashGrid(levels=0), lambda: DenseGrid([8], 2, "mix")]
)
def test_impossible_grids_are_refused(make):
    with pytest.raises(UserError):
        make()
