"""The texture of a mesh: each texel takes the colour that a ray into the field would see there."""

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import torch
from torch import Tensor

from scorefield.errors import UserError
from scorefield.three_d import raster
from scorefield.three_d.extra import need
from scorefield.three_d.field import Field
from scorefield.three_d.mesh import Mesh, ask, device_of

SLACK = 0.75  # texels: those that a chart only touches are computed as well, not copied from a neighbour


def vertex_normals(mesh: Mesh) -> np.ndarray:
    """Unit normals float32 [V, 3], outwards, weighted by area; vertices at the same place share theirs."""
    a, b, c = (mesh.vertices[mesh.faces[:, k]].astype(np.float64) for k in range(3))
    _, place = np.unique(mesh.vertices, axis=0, return_inverse=True)
    place = place.reshape(-1)
    total = np.zeros((place.max() + 1, 3))
    np.add.at(total, place[mesh.faces].reshape(-1), np.repeat(np.cross(b - a, c - a), 3, axis=0))
    total = total[place]
    return (total / np.maximum(np.linalg.norm(total, axis=1, keepdims=True), 1e-20)).astype(np.float32)


def surface_colour(field: Field, reach: float, samples: int = 12) -> Callable[[Tensor, Tensor], Tensor]:
    """Colours [N, 3] of surface points [N, 3] with outward normals [N, 3], as a ray along the normal sees them.

    The ray starts ``reach`` outside and ends 3 ``reach`` inside; its colours are weighted as the volume renderer
    weights them. A soft surface has no colour of its own at the threshold, this is what one sees of it.
    """

    def colour(points: Tensor, normals: Tensor) -> Tensor:
        edges = torch.linspace(1.0, -3.0, samples + 1, device=points.device) * reach
        middle, length = (edges[1:] + edges[:-1]) / 2, 4 * reach / samples
        places = points[:, None] + middle[None, :, None] * normals[:, None]
        inside = (places.abs() <= field.bound).all(-1)
        flat = places.reshape(-1, 3)
        optical = torch.where(inside, field.density(flat).view(len(points), samples), 0.0) * length
        clear = torch.exp(-(optical.cumsum(1) - optical))
        weight = clear * (1 - torch.exp(-optical)) + 1e-6  # a ray that meets nothing takes the plain mean
        shade = field.colour(flat).view(len(points), samples, 3)
        return (weight[..., None] * shade).sum(1) / weight.sum(1, keepdim=True)

    return colour


def bake(mesh: Mesh, field: Field, size: int = 512, reach: float = 0.0, samples: int = 12) -> Mesh:
    """The unwrapped mesh with an sRGB texture, its seams and gaps filled, and vertex colours.

    Args:
        size: texels a side. reach: length scale of the surface's softness; 0 takes 1/32 of the field's bound.

    Raises:
        UserError: the mesh has no UV coordinates, or no texel is covered.
    """
    if mesh.uv is None:
        raise UserError("the mesh has no UV coordinates: unwrap it first")
    triangle, weights = raster.nearest(mesh.uv[mesh.faces] * size, None, size, size, SLACK)
    covered = triangle >= 0
    if not covered.any():
        raise UserError(f"no texel of a {size}×{size} texture is covered: choose a larger one")
    corners, share = mesh.faces[triangle[covered]], weights[covered][..., None]
    normals = vertex_normals(mesh)
    points = (mesh.vertices[corners] * share).sum(1)
    facing = (normals[corners] * share).sum(1)
    facing /= np.maximum(np.linalg.norm(facing, axis=1, keepdims=True), 1e-12)
    function = surface_colour(field, reach or field.bound / 32, samples)
    seen = lambda rows: function(rows[:, :3], rows[:, 3:])  # noqa: E731
    picture = np.zeros((size, size, 3), dtype=np.uint8)
    picture[covered] = to_bytes(_ask_both(seen, points, facing, field, samples))
    colours = to_bytes(_ask_both(seen, mesh.vertices, normals, field, samples))
    return replace(mesh, texture=fill(picture, covered), colours=colours)


def _ask_both(function, points: np.ndarray, normals: np.ndarray, field: Field, samples: int) -> np.ndarray:
    rows = np.concatenate([points, normals], 1)
    step = max(1, 262_144 // samples)
    parts = [ask(function, rows[k : k + step], device_of(field)) for k in range(0, len(rows), step)]
    return np.concatenate(parts)


def to_bytes(colours: np.ndarray) -> np.ndarray:
    """sRGB in [0, 1] to uint8; NaN becomes 0."""
    return np.round(np.clip(np.nan_to_num(colours), 0, 1) * 255).astype(np.uint8)


def fill(picture: np.ndarray, covered: np.ndarray) -> np.ndarray:
    """Uncovered texels take the colour of the nearest covered one, so that filtering across seams finds no black."""
    image = need("scipy.ndimage")
    rows, columns = image.distance_transform_edt(~covered, return_distances=False, return_indices=True)
    return picture[rows, columns]
