"""Which points of a lattice a closed surface encloses."""

import numpy as np

from scorefield.three_d import raster
from scorefield.three_d.mesh import Mesh


def inside(mesh: Mesh, bound: float, resolution: int) -> np.ndarray:
    """bool [R, R, R]: points of the lattice over [-bound, bound]^3 that the surface winds around.

    Along the third axis each face adds +1 or -1 from where it is crossed; exact for closed surfaces, overlaps included.
    """
    step = 2 * bound / (resolution - 1)
    place = (mesh.vertices.astype(np.float64) + bound) / step
    place[:, :2] += 0.5 + np.array([1.3e-5, 2.7e-5])  # off the lattice, so that no column meets an edge or a corner
    corners = place[mesh.faces]
    a, b, c = corners[:, 0, :2], corners[:, 1, :2], corners[:, 2, :2]
    sign = np.sign((b - a)[:, 0] * (c - a)[:, 1] - (b - a)[:, 1] * (c - a)[:, 0]).astype(np.int64)
    change = np.zeros((resolution, resolution, resolution + 1), dtype=np.int64)
    for found in raster.pairs(corners[:, :, :2], resolution, resolution):
        height = (found.weights * corners[found.triangle, :, 2]).sum(1)
        level = np.clip(np.ceil(height), 0, resolution).astype(np.int64)
        np.add.at(change, (found.column, found.row, level), -sign[found.triangle])
    return change.cumsum(2)[:, :, :resolution] > 0
