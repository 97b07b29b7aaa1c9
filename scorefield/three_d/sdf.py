"""Surfaces as signed distances on a lattice, rendered as a volume (VolSDF, Yariv et al. 2021, arXiv:2106.12052).

The density of a point at signed distance d (negative inside) is Psi(-d) / beta, with Psi the distribution function of
the Laplace law of scale beta; beta is trained. All of it is trilinear lookups, so no differentiable rasteriser and no
tetrahedra are needed.
"""

import math

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from scorefield.errors import UserError
from scorefield.three_d.bake import surface_colour
from scorefield.three_d.extra import need
from scorefield.three_d.field import Field
from scorefield.three_d.grids import DenseGrid
from scorefield.three_d.mesh import Mesh, ask, device_of, grid_points
from scorefield.three_d.voxels import inside

LEAST_BETA = 1e-3
EDGE = 0.02  # colours start at least this far from black and full, where a sigmoid's slope would vanish
BAND = 5  # cells either side of the surface within which colours are looked up; beyond stands their mean
NEAREST = 3  # triangles that a lattice point's distance is taken from


def laplace_density(distance: Tensor, beta: Tensor) -> Tensor:
    """Psi(-distance) / beta, of the shape of ``distance``: 1/beta deep inside, half of it on the surface."""
    tail = 0.5 * torch.exp(-distance.abs() / beta)
    return torch.where(distance > 0, tail, 1 - tail) / beta


class SdfField(Field):
    """A signed distance and a colour on lattices over the cube.

    Args:
        start: float32 [R, R, R] indexed [x, y, z], the signed distance that training starts from; a buffer.
        colours: float32 [R, R, R, 3] in [0, 1].
        levels: vertices a side of the trained correction's lattices, which are summed.
        beta: start of the density's scale, in the world's unit.
        sky: background as a module of directions; None is white.
    """

    start: Tensor

    def __init__(
        self,
        start: Tensor,
        colours: Tensor,
        bound: float = 1.0,
        levels: tuple[int, ...] = (16, 32, 64),
        beta: float = 0.02,
        sky: nn.Module | None = None,
    ):
        super().__init__()
        if start.ndim != 3 or colours.shape != (*start.shape, 3):
            raise UserError(f"a signed distance needs [R, R, R] and colours [R, R, R, 3], not {list(colours.shape)}")
        if beta <= LEAST_BETA:
            raise UserError(f"beta of a signed distance must lie above {LEAST_BETA}, not at {beta}")
        self.bound = float(bound)
        self.register_buffer("start", start.permute(2, 1, 0)[None, None].contiguous().float())
        self.correction = DenseGrid(levels, 1, "sum", init=0.0)
        logits = torch.logit(colours.clamp(EDGE, 1 - EDGE)).permute(3, 2, 1, 0)[None].contiguous()
        self.colours = nn.Parameter(logits.float())
        self.log_beta = nn.Parameter(torch.tensor([math.log(beta - LEAST_BETA)]))
        self.sky = sky

    @property
    def beta(self) -> Tensor:
        """[1]"""
        return self.log_beta.exp() + LEAST_BETA

    @property
    def cell(self) -> float:
        """Edge of a cell of the starting lattice."""
        return 2 * self.bound / (self.start.shape[-1] - 1)

    def distance(self, points: Tensor) -> Tensor:
        """Signed distance [N] of points [N, 3], negative inside."""
        place = points / self.bound
        return look_up(self.start, place)[:, 0] + self.correction(place)[:, 0]

    def slope(self, points: Tensor) -> Tensor:
        """Gradient [N, 3] of ``distance`` by central differences over one cell; its length should be 1."""
        shift = self.cell * torch.eye(3, device=points.device)
        around = points[:, None] + torch.cat([shift, -shift])
        values = self.distance(around.reshape(-1, 3)).view(-1, 2, 3)
        return (values[:, 0] - values[:, 1]) / (2 * self.cell)

    def normals(self, points: Tensor) -> Tensor:
        """Outward unit normals [N, 3], differentiable."""
        return F.normalize(self.slope(points), dim=-1, eps=1e-6)

    def density(self, points: Tensor) -> Tensor:
        return laplace_density(self.distance(points), self.beta)

    def colour(self, points: Tensor) -> Tensor:
        return look_up(self.colours, points / self.bound).sigmoid()

    def both(self, points: Tensor, noise: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """``noise`` [N] moves the surface, in units of beta."""
        distance = self.distance(points)
        if noise is not None:
            distance = distance - self.beta * noise
        return laplace_density(distance, self.beta), self.colour(points)

    def background(self, directions: Tensor) -> Tensor:
        return self.sky(directions) if self.sky is not None else torch.ones_like(directions)

    # ------------------------------------------------------------------ terms of training

    def eikonal(self, points: Tensor) -> Tensor:
        """Mean (|slope| - 1)^2 over points [N, 3]."""
        return (self.slope(points).norm(dim=-1) - 1).square().mean()

    def roughness(self, points: Tensor, source: torch.Generator) -> Tensor:
        """Mean 1 - cosine between normals one cell apart, over those of points [N, 3] near the surface; 0 where none
        is. The counterpart of DMTet's normal consistency."""
        with torch.no_grad():
            near = points[self.distance(points).abs() < 2 * self.cell]
        if not len(near):
            return points.new_zeros(())
        step = torch.randn(near.shape, device=near.device, generator=source)
        beside = near + self.cell * F.normalize(step, dim=-1)
        return (1 - (self.normals(near) * self.normals(beside)).sum(-1)).mean()


def look_up(lattice: Tensor, place: Tensor) -> Tensor:
    """[N, C] of a lattice [1, C, Z, Y, X] at places [N, 3] in [-1, 1], held at the border beyond."""
    read = F.grid_sample(lattice, place.view(1, 1, 1, -1, 3), align_corners=True, padding_mode="border")
    return read.view(lattice.shape[1], -1).T


# ---------------------------------------------------------------------- from a mesh


def signed_distances(mesh: Mesh, bound: float, resolution: int, samples: int = 60_000) -> tuple[np.ndarray, np.ndarray]:
    """(signed distance float32 [R, R, R], nearest place of the surface float32 [R, R, R, 3]) at ``grid_points``.

    The nearest of ``NEAREST`` triangles is taken, those under the nearest of ``samples`` points of the surface.
    """
    trimesh = need("trimesh")
    body = trimesh.Trimesh(mesh.vertices, mesh.faces, process=False)
    spots, face = trimesh.sample.sample_surface(body, samples, seed=0)
    points = grid_points(bound, resolution).reshape(-1, 3).astype(np.float64)
    _, found = need("scipy.spatial").cKDTree(spots).query(points, k=NEAREST)
    best, nearest = np.full(len(points), np.inf), np.zeros_like(points)
    for k in range(NEAREST):
        corners = mesh.vertices[mesh.faces[face[found[:, k]]]].astype(np.float64)
        place = need("trimesh.triangles").closest_point(corners, points)
        away = np.linalg.norm(place - points, axis=1)
        better = away < best
        best[better], nearest[better] = away[better], place[better]
    shape = (resolution,) * 3
    sign = np.where(inside(mesh, bound, resolution), -1.0, 1.0)
    return (best.reshape(shape) * sign).astype(np.float32), nearest.reshape(*shape, 3).astype(np.float32)


def from_field(
    field: Field, mesh: Mesh, resolution: int, levels: tuple[int, ...], beta: float, reach: float
) -> SdfField:
    """The surface ``mesh`` of ``field`` as a signed distance with the field's colours, on the field's device.

    Args:
        resolution: lattice points a side. reach: length scale of the field's softness, as for ``surface_colour``.
    """
    distance, nearest = signed_distances(mesh, field.bound, resolution)
    away = grid_points(field.bound, resolution) - nearest
    normal = away * np.sign(distance)[..., None]
    normal /= np.maximum(np.linalg.norm(normal, axis=-1, keepdims=True), 1e-9)
    seen, device = surface_colour(field, reach), device_of(field)
    band = np.abs(distance) < BAND * 2 * field.bound / (resolution - 1)
    rows = np.concatenate([nearest[band], normal[band]], -1)
    step = 20_000
    parts = [ask(lambda r: seen(r[:, :3], r[:, 3:]), rows[k : k + step], device) for k in range(0, len(rows), step)]
    found = np.concatenate(parts)
    colours = np.broadcast_to(found.mean(0), (*distance.shape, 3)).copy()
    colours[band] = found
    lattices = torch.from_numpy(distance), torch.from_numpy(colours)
    made = SdfField(*lattices, field.bound, levels, beta, getattr(field, "sky", None))
    return made.to(device)
