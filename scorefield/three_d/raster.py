"""Triangles to pixels in numpy: which triangle covers a pixel centre, and where in it.

One pass lists every (triangle, pixel) pair whose centre lies inside; the baker, the mesh renderer and the inside
test are all made of these pairs. No gradient passes through visibility.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

PAIRS = 4_000_000  # candidate pairs handled at a time; bounds the memory at about 300 MB
EDGE = 1e-9  # of the area: a centre on a common edge belongs to both triangles


@dataclass
class Pairs:
    """Pixels inside triangles: indices [N] and barycentric weights float64 [N, 3] in the plane."""

    triangle: Any
    row: Any
    column: Any
    weights: Any


def pairs(corners: np.ndarray, height: int, width: int, slack: float = 0.0) -> Iterator[Pairs]:
    """All pixel centres inside triangles, in pieces.

    Args:
        corners: float [F, 3, 2], (column, row) in pixels; the centre of pixel (r, c) lies at (c + 0.5, r + 0.5).
            Either winding; triangles without area and those with a non-finite corner cover nothing.
        slack: centres that lie outside by up to this many pixels count as inside.
    """
    corners = np.asarray(corners, dtype=np.float64)
    edge1, edge2 = corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0]
    area = edge1[:, 0] * edge2[:, 1] - edge1[:, 1] * edge2[:, 0]
    good = np.isfinite(corners).all((1, 2)) & (np.abs(area) > 1e-12)
    limit = np.array([width, height])
    safe = np.where(good[:, None, None], corners, 0.0)
    low = np.clip(np.ceil(safe.min(1) - 0.5 - slack), 0, limit).astype(np.int64)
    high = np.clip(np.floor(safe.max(1) - 0.5 + slack) + 1, 0, limit).astype(np.int64)
    size = np.where(good[:, None], np.maximum(high - low, 0), 0)
    count = size[:, 0] * size[:, 1]
    chosen = np.flatnonzero(count)
    for part in np.split(chosen, _cuts(count[chosen])):
        yield _inside(part, corners, area, low, size, count, slack)


def _cuts(count: np.ndarray) -> np.ndarray:
    """Where to cut the list of triangles so that each piece has about ``PAIRS`` candidates."""
    return np.flatnonzero(np.diff(np.cumsum(count) // PAIRS)) + 1


def _inside(part, corners, area, low, size, count, slack: float) -> Pairs:
    triangle = np.repeat(part, count[part])
    number = np.arange(len(triangle)) - np.repeat(np.cumsum(count[part]) - count[part], count[part])
    columns = np.maximum(size[triangle, 0], 1)
    column, row = low[triangle, 0] + number % columns, low[triangle, 1] + number // columns
    point = np.stack([column, row], -1) + 0.5
    weights = np.empty((len(triangle), 3))
    room = np.empty_like(weights)
    for k in range(3):
        a, b = corners[triangle, (k + 1) % 3], corners[triangle, (k + 2) % 3]
        along = b - a
        weights[:, k] = along[:, 0] * (point[:, 1] - a[:, 1]) - along[:, 1] * (point[:, 0] - a[:, 0])
        weights[:, k] /= area[triangle]
        room[:, k] = slack * np.hypot(along[:, 0], along[:, 1]) / np.abs(area[triangle])
    kept = (weights >= -EDGE - room).all(1)
    weights = np.clip(weights[kept], 0, None)
    return Pairs(triangle[kept], row[kept], column[kept], weights / weights.sum(1, keepdims=True))


def nearest(corners: np.ndarray, depth: np.ndarray | None, height: int, width: int, slack: float = 0.0):
    """(triangle int64 [H, W], -1 for none, weights float64 [H, W, 3]) of the nearest triangle of each pixel.

    Args:
        depth: [F, 3], a quantity that is linear across the picture (1/z in perspective); the largest wins. Without
            it the triangle that covers the centre best (whose smallest weight is largest) wins.
    """
    best = np.full(height * width, -np.inf)
    triangle = np.full(height * width, -1, dtype=np.int64)
    weights = np.zeros((height * width, 3))
    for found in pairs(corners, height, width, slack):
        rank = found.weights.min(1) if depth is None else (found.weights * depth[found.triangle]).sum(1)
        place = found.row * width + found.column
        order = np.lexsort((rank, place))
        last = np.flatnonzero(np.append(np.diff(place[order]) > 0, True)) if len(order) else order
        winner = order[last]
        better = winner[rank[winner] > best[place[winner]]]
        best[place[better]] = rank[better]
        triangle[place[better]] = found.triangle[better]
        weights[place[better]] = found.weights[better]
    return triangle.reshape(height, width), weights.reshape(height, width, 3)
