"""Volume rendering of a field, differentiable, composited by nerfacc on every device.

Rays walk the cube in steps of one length. On CUDA nerfacc's marcher picks the intervals that lie in occupied cells; on
other devices, and where its extension does not build, all intervals are laid out and those in empty cells are masked.
Either way the field sees a flat list of points and the rest is the same.
"""

import functools
import math
import warnings
from dataclasses import dataclass

import torch
from torch import Tensor

from scorefield.errors import Notice, UserError
from scorefield.three_d import toolchain
from scorefield.three_d.cameras import Cameras
from scorefield.three_d.chunks import in_chunks
from scorefield.three_d.extra import need
from scorefield.three_d.field import Field
from scorefield.three_d.occupancy import Occupancy

VISIBLE = 1e-3  # samples of less weight get no normal


@dataclass
class Samples:
    """Intervals along rays, flat: the ray's number [M], start and end [M]."""

    ray: Tensor
    start: Tensor
    end: Tensor

    @property
    def middle(self) -> Tensor:
        return (self.start + self.end) / 2


@dataclass
class Render:
    """Pictures of a field.

    Attributes:
        image: [B, 3, H, W] in [0, 1]. opacity: [B, 1, H, W] in [0, 1].
        depth: [B, 1, H, W], expected distance along the ray of what was hit; 0 where nothing was.
        normal: [B, 3, H, W], expected unit normal in the world times opacity; None unless asked for.
        weights: [M], share that each sample has in its pixel. samples: where along which ray. points: [M, 3].
        directions: [M, 3], of each sample's ray. sample_normals: [M, 3], zero for samples that are not seen.
    """

    image: Tensor
    opacity: Tensor
    depth: Tensor
    normal: Tensor | None
    weights: Tensor
    samples: Samples
    points: Tensor
    directions: Tensor
    sample_normals: Tensor | None


def render(
    field: Field,
    cameras: Cameras,
    *,
    samples: int = 64,
    background: Tensor | None = None,
    occupancy: Occupancy | None = None,
    generator: list[torch.Generator] | None = None,
    density_noise: float = 0.0,
    normals: bool = False,
    march: bool | None = None,
    chunk: int = 0,
) -> Render:
    """Render ``field`` from ``cameras``.

    Args:
        samples: steps along the cube's diagonal; the step's length follows, 2 sqrt(3) bound / samples.
        background: [B, 3] flat colours or [B, 3, H, W] in [0, 1]; None asks ``field.background``.
        occupancy: cells to skip. generator: one per camera, shifts each ray's steps at random; None: no shift.
        density_noise: standard deviation of noise on the density before its activation; needs ``generator``.
        normals: compute normals, at four times the cost of density.
        march: nerfacc's CUDA marcher; None uses it where it can be had.
        chunk: points that the field is asked at a time, and again in the backward pass; 0: all at once, and kept.

    Raises:
        UserError: samples below 2, a background of another shape, or nerfacc is not installed.
    """
    if samples < 2:
        raise UserError(f"rendering takes at least 2 samples along a ray, not {samples}")
    origins, directions = (ray.reshape(-1, 3) for ray in cameras.rays())
    step = 2 * math.sqrt(3) * field.bound / samples
    near, far = cross_cube(origins, directions, field.bound)
    if generator is not None:
        pixels = cameras.size[0] * cameras.size[1]
        near = near + step * torch.cat([torch.rand(pixels, device=near.device, generator=g) for g in generator])
    if march is None:
        march = occupancy is not None and can_march(origins.device.type)
    found = walk(origins, directions, near, far, step, occupancy, march)
    along = directions[found.ray]
    points = origins[found.ray] + found.middle[:, None] * along
    noise = None
    if generator is not None and density_noise:
        noise = density_noise * torch.randn(len(points), device=points.device, generator=generator[0])
    density, colour = in_chunks(field.both, chunk, points, noise)
    weights = weigh(found, density, len(origins), near, step, march)
    gather = functools.partial(_accumulate, weights, ray=found.ray, count=len(origins))
    opacity = gather(None).clamp(max=1)
    depth = gather(found.middle[:, None]) / opacity.clamp_min(1e-6)
    image = gather(colour) + (1 - opacity) * _backdrop(field, background, cameras, directions)
    bumps = normal = None
    if normals:
        bumps = sample_normals(field, points, weights, chunk)
        normal = _pictures(gather(bumps), cameras)
    return Render(
        _pictures(image, cameras),
        _pictures(opacity, cameras),
        _pictures(depth, cameras),
        normal,
        weights,
        found,
        points,
        along,
        bumps,
    )


def cross_cube(origins: Tensor, directions: Tensor, bound: float) -> tuple[Tensor, Tensor]:
    """Distances [N] at which rays enter (at least 0) and leave the cube [-bound, bound]^3; equal for a miss."""
    inverse = 1 / torch.where(directions.abs() < 1e-9, 1e-9, directions)
    first, second = (-bound - origins) * inverse, (bound - origins) * inverse
    near = torch.minimum(first, second).amax(-1).clamp_min(0)
    return near, torch.maximum(torch.maximum(first, second).amin(-1), near)


@torch.no_grad()
def walk(
    origins: Tensor,
    directions: Tensor,
    near: Tensor,
    far: Tensor,
    step: float,
    occupancy: Occupancy | None,
    march: bool,
) -> Samples:
    """Intervals in occupied cells; where there are none at all, every interval, so that the field gets gradients."""
    if march and occupancy is not None:
        ray, start, end = occupancy.estimator.sampling(
            origins, directions, t_min=near, t_max=far, render_step_size=step, early_stop_eps=0.0
        )
        if len(ray):
            return Samples(ray, start, end)
        occupancy = None
    count = max(1, math.ceil(float((far - near).max()) / step))
    start = near[:, None] + step * torch.arange(count, device=near.device)
    keep = start + step / 2 < far[:, None]
    if occupancy is not None:
        middles = origins[:, None] + (start + step / 2)[..., None] * directions[:, None]
        full = keep & occupancy.holds(middles)
        keep = full if full.any() else keep
    if not keep.any():
        keep[:, 0] = True  # no ray meets the cube: the field's border is asked
    ray, _ = keep.nonzero(as_tuple=True)
    return Samples(ray, start[keep], start[keep] + step)


def weigh(found: Samples, density: Tensor, rays: int, near: Tensor, step: float, march: bool) -> Tensor:
    """Compositing weights [M] of flat samples."""
    nerfacc = need("nerfacc")
    if march:
        return nerfacc.render_weight_from_density(found.start, found.end, density, ray_indices=found.ray, n_rays=rays)[
            0
        ]
    place = ((found.start - near[found.ray]) / step).round().long()
    count = int(place.max()) + 1
    flat = found.ray * count + place
    layout = density.new_zeros(rays * count).index_copy(0, flat, density).view(rays, count)
    start = near[:, None] + step * torch.arange(count, device=near.device)
    return nerfacc.render_weight_from_density(start, start + step, layout)[0].view(-1)[flat]


def _accumulate(weights: Tensor, values: Tensor | None, ray: Tensor, count: int) -> Tensor:
    return need("nerfacc").accumulate_along_rays(weights, values, ray_indices=ray, n_rays=count)


def _pictures(values: Tensor, cameras: Cameras) -> Tensor:
    return values.view(len(cameras), *cameras.size, -1).permute(0, 3, 1, 2)


def _backdrop(field: Field, background: Tensor | None, cameras: Cameras, directions: Tensor) -> Tensor:
    """[rays, 3]"""
    if background is None:
        return field.background(directions)
    batch, pixels = len(cameras), cameras.size[0] * cameras.size[1]
    if background.shape == (batch, 3):
        return background.repeat_interleave(pixels, 0)
    if background.shape == (batch, 3, *cameras.size):
        return background.permute(0, 2, 3, 1).reshape(-1, 3)
    raise UserError(
        f"a background must be [B, 3] or [B, 3, H, W] for {batch} cameras of {cameras.size}, "
        f"not {list(background.shape)}"
    )


def sample_normals(field: Field, points: Tensor, weights: Tensor, chunk: int = 0) -> Tensor:
    """Unit normals [M, 3] of the field; zero for unseen samples. ``chunk`` as of ``render``."""
    seen = (weights.detach() > VISIBLE).nonzero().flatten()
    normals = torch.zeros_like(points)
    if not len(seen):
        return normals
    (found,) = in_chunks(lambda part: (field.normals(part),), chunk, points[seen])
    return normals.index_copy(0, seen, found)


@functools.cache
def can_march(device: str) -> bool:
    """Whether nerfacc's CUDA extension is there, built on the first call; says once why not."""
    if device != "cuda":
        return False
    nerfacc = need("nerfacc")
    try:
        grid = nerfacc.OccGridEstimator([-1.0] * 3 + [1.0] * 3, 2).to(device)
        grid.binaries.fill_(True)
        origin = torch.tensor([[0.0, 0.0, -2.0]], device=device)
        ray, _, _ = grid.sampling(origin, torch.tensor([[0.0, 0.0, 1.0]], device=device), render_step_size=0.5)
        return len(ray) > 0
    except Exception as error:  # it surfaces as AttributeError, OSError, ImportError or RuntimeError
        why = toolchain.reason(error)
        said = f"nerfacc's CUDA extension cannot be built, {why}; rendering goes on in batches"
        warnings.warn(said, Notice, stacklevel=2)
        return False
