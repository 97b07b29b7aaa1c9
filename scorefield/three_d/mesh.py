"""From a density field to a closed triangle mesh: grid, threshold, marching cubes, cleaning, and its facts."""

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch

from scorefield.errors import UserError
from scorefield.three_d.extra import need
from scorefield.three_d.field import Field

CHUNK = 262_144  # points of a field asked at a time
FAINTEST = 0.5  # opacity that the most opaque straight line through the field must reach
AS_GOOD = 0.02  # of overlap, between thresholds that are told apart by something else
LEAST_PIXELS = 4  # lines that reach it


@dataclass
class Mesh:
    """Triangles in the world (z up), counter-clockwise seen from outside.

    Attributes:
        vertices: float32 [V, 3]. faces: int64 [F, 3].
        uv: float32 [V, 2] or None, u to the right and v downwards, so that texel row is v times the height.
        texture: uint8 [S, S, 3] sRGB or None. colours: uint8 [V, 3] sRGB or None.
    """

    vertices: np.ndarray
    faces: np.ndarray
    uv: np.ndarray | None = None
    texture: np.ndarray | None = None
    colours: np.ndarray | None = None


def grid_points(bound: float, resolution: int) -> np.ndarray:
    """float32 [R, R, R, 3]: corners of a lattice over the cube, indexed [x, y, z]."""
    line = np.linspace(-bound, bound, resolution, dtype=np.float32)
    return np.stack(np.meshgrid(line, line, line, indexing="ij"), -1)


@torch.no_grad()
def ask(function, points: np.ndarray, device: str | torch.device = "cpu") -> np.ndarray:
    """Values of a field's function at points [N, 3], in pieces, as float32 in memory of the host."""
    parts = torch.from_numpy(np.ascontiguousarray(points, dtype=np.float32)).split(CHUNK)
    return torch.cat([function(part.to(device)).float().cpu() for part in parts]).numpy()


def device_of(field: Any) -> torch.device:
    """Where a field lives: the device of its first parameter or buffer, else the host."""
    if isinstance(field, torch.nn.Module):
        for tensor in (*field.parameters(), *field.buffers()):
            return tensor.device
    return torch.device("cpu")


def density_grid(field: Field, resolution: int) -> np.ndarray:
    """float32 [R, R, R] of densities at ``grid_points``. Raises UserError for NaN or infinite values."""
    points = grid_points(field.bound, resolution).reshape(-1, 3)
    values = ask(field.density, points, device_of(field)).reshape((resolution,) * 3)
    bad = int((~np.isfinite(values)).sum())
    if bad:
        raise UserError(f"the density field is NaN or infinite at {bad} of {values.size} points: nothing was exported")
    return values


def choose_threshold(density: np.ndarray, bound: float) -> float:
    """The density whose solid has the same silhouettes as the field.

    Along each axis a straight line is opaque with 1 - exp(-integral); pixels above one half are the field's silhouette,
    lines that meet a density above the threshold the solid's. Of the thresholds whose mean overlap (intersection over
    union, three axes) comes within ``AS_GOOD`` of the best the highest is taken: a soft surface is seen a little
    inside of its silhouette.

    Raises:
        UserError: the field is empty: hardly any line is half opaque.
    """
    step = 2 * bound / (density.shape[0] - 1)
    masks, peaks, strongest = [], [], 0.0
    for axis in range(3):
        opacity = 1 - np.exp(-density.sum(axis, dtype=np.float64) * step)
        strongest = max(strongest, float(opacity.max()))
        masks.append(opacity > FAINTEST)
        peaks.append(density.max(axis))
    if sum(int(mask.sum()) for mask in masks) < LEAST_PIXELS:
        raise UserError(
            f"the density field is empty (its most opaque line reaches {strongest:.2g} of 1): nothing was exported;"
            " train longer, or look at the samples of the run for where it vanished"
        )
    top = float(density.max())
    candidates = np.geomspace(max(top * 1e-4, 1e-6), top * 0.98, 96)
    score = np.array([np.mean([_overlap(m, p > t) for m, p in zip(masks, peaks, strict=True)]) for t in candidates])
    return float(candidates[score >= score.max() - AS_GOOD][-1])


def _overlap(a: np.ndarray, b: np.ndarray) -> float:
    union = np.logical_or(a, b).sum()
    return float(np.logical_and(a, b).sum() / union) if union else 1.0


def march(density: np.ndarray, bound: float, threshold: float) -> Mesh:
    """The surface where ``density`` crosses ``threshold``, closed at the border of the cube.

    Densities are turned into the opacity of one grid step first: that caps the inside, whose values may be huge, so
    that vertices lie where the crossing is.

    Raises UserError when nothing, or everything, lies above the threshold.
    """
    if not density.min() < threshold < density.max():
        raise UserError(
            f"no surface: densities lie between {density.min():.3g} and {density.max():.3g}, the threshold is "
            f"{threshold:.3g}; nothing was exported"
        )
    sharp = np.log(2) / threshold  # the length that is half opaque at the threshold
    return level_set(1 - np.exp(-density.astype(np.float64) * sharp), bound, 0.5, outside=0.0)


def level_set(volume: np.ndarray, bound: float, level: float, outside: float) -> Mesh:
    """Where values [R, R, R] over the cube cross ``level`` (higher is inside), closed at its border by ``outside``."""
    step = 2 * bound / (volume.shape[0] - 1)
    padded = np.pad(volume.astype(np.float64), 1, constant_values=outside)
    measure = need("skimage.measure")
    vertices, faces, _, _ = measure.marching_cubes(padded, level, spacing=(step,) * 3, allow_degenerate=False)
    vertices = np.clip(vertices - step - bound, -bound, bound)  # the padding's own layer is flat on the border
    mesh = Mesh(vertices.astype(np.float32), faces.astype(np.int64))
    return mesh if signed_volume(mesh) > 0 else replace(mesh, faces=mesh.faces[:, ::-1].copy())


def signed_volume(mesh: Mesh) -> float:
    """Enclosed volume; negative when the faces look inwards."""
    a, b, c = (mesh.vertices[mesh.faces[:, k]].astype(np.float64) for k in range(3))
    return float((a * np.cross(b, c)).sum() / 6)


def labels(mesh: Mesh) -> np.ndarray:
    """int [F]: the connected component of each face."""
    sparse, graph = need("scipy.sparse"), need("scipy.sparse.csgraph")
    ends = mesh.faces[:, [0, 1, 1, 2]].reshape(-1, 2)
    count = len(mesh.vertices)
    links = sparse.coo_matrix((np.ones(len(ends)), (ends[:, 0], ends[:, 1])), shape=(count, count))
    return graph.connected_components(links, directed=False)[1][mesh.faces[:, 0]]


def keep_large(mesh: Mesh, share: float = 0.01) -> Mesh:
    """Without crumbs (components below ``share`` of the largest one's volume) and without walls of inner cavities."""
    label = labels(mesh)
    a, b, c = (mesh.vertices[mesh.faces[:, k]].astype(np.float64) for k in range(3))
    volume = np.bincount(label, (a * np.cross(b, c)).sum(1) / 6)
    return select(mesh, (volume >= share * volume.max())[label])


def select(mesh: Mesh, rows: np.ndarray) -> Mesh:
    """The chosen faces with the vertices that they use."""
    faces = mesh.faces[rows]
    used, places = np.unique(faces, return_inverse=True)
    return Mesh(mesh.vertices[used], places.reshape(faces.shape).astype(np.int64))


def welded(mesh: Mesh) -> Mesh:
    """The shape alone, with vertices at the same place joined: what it was before unwrapping."""
    vertices, place = np.unique(mesh.vertices, axis=0, return_inverse=True)
    return Mesh(vertices, place.reshape(-1)[mesh.faces].astype(np.int64))


def facts(mesh: Mesh) -> dict[str, Any]:
    """{"watertight": bool, "components": int, "faces": int, "vertices": int} before any unwrapping.

    Watertight: every edge belongs to exactly two faces that run along it in opposite directions.
    """
    edges = mesh.faces[:, [0, 1, 1, 2, 2, 0]].reshape(-1, 2)
    forth = np.unique(edges, axis=0, return_counts=True)
    back = np.unique(edges[:, ::-1], axis=0)
    closed = len(forth[0]) == len(back) and bool((forth[0] == back).all()) and bool((forth[1] == 1).all())
    return {
        "watertight": closed,
        "components": int(labels(mesh).max()) + 1 if len(mesh.faces) else 0,
        "faces": len(mesh.faces),
        "vertices": len(mesh.vertices),
    }
