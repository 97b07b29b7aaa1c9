"""A radiance field on the meta device: what a training render holds at once, before any of it is allocated.

How many points the drawn cameras see is counted on the host; from there on everything is as in
``scorefield.three_d.render.render``, composited in one layout, with no cell skipped: the state at a run's start.
"""

import math
from collections.abc import Mapping
from functools import partial
from typing import Any, cast

import torch
from torch import Tensor

from scorefield.cost.shadow import repeatable
from scorefield.generators.base import Batch, Changes
from scorefield.generators.nerf import NerfGenerator
from scorefield.random import Draws
from scorefield.three_d import render as rendering
from scorefield.three_d.camera_law import draw_cameras
from scorefield.three_d.cameras import Cameras
from scorefield.three_d.chunks import in_chunks
from scorefield.three_d.field import Field
from scorefield.three_d.render import Render, Samples, cross_cube

ITERATIONS, COARSE = 24, (32, 32)  # whose cameras are compared, and in how many pixels


class ShadowNerf(NerfGenerator):
    """``NerfGenerator`` with its fields on the meta device and its draws on the host."""

    @torch.no_grad()
    def draw(self, draws: Draws) -> Batch:
        batch = super().draw(self.fullest(draws))
        return Batch(
            batch.latents,
            moved(batch.teacher_condition),
            moved(batch.online_condition),
            moved(batch.negative_condition),
        )

    def fullest(self, draws: Draws) -> Draws:
        """On the host, the draws of that iteration, among the first ones, whose cameras see the most points."""
        law, bound = self.settings.cameras, self.settings.field.bound
        step = 2 * 3**0.5 * bound / self.settings.render.samples
        each = [Draws(draws.seed, k, draws.host_indices(), draws.salt) for k in range(ITERATIONS)]
        return max(each, key=lambda one: count_points(draw_cameras(law, one, COARSE)[0], bound, step)[0])

    def look(self, cameras: Cameras, particle: int = 0, **options: Any) -> Render:
        """What ``render`` makes of ``cameras``, which lie on the host; its pictures hold nothing."""
        field, samples = cast(Field, self.fields[particle]), self.settings.render.samples
        step = 2 * 3**0.5 * field.bound / samples
        points, width = count_points(cameras, field.bound, step)
        afar = cameras.to("meta")
        origins, directions = (ray.reshape(-1, 3) for ray in afar.rays())
        near, _ = cross_cube(origins, directions, field.bound)
        found = lay_out(near, step, points, width)
        along = directions[found.ray]
        place = origins[found.ray] + found.middle[:, None] * along
        noise = torch.randn(points, device="meta") if options.get("density_noise") else None
        chunk = self.settings.render.chunk
        density, colour = in_chunks(repeatable(field.both), chunk, place, noise)
        weights = composite(found, density, near, step, width)
        gather = partial(rendering._accumulate, weights, ray=found.ray, count=len(origins))
        opacity = gather(None).clamp(max=1)
        depth = gather(found.middle[:, None]) / opacity.clamp_min(1e-6)
        behind = rendering._backdrop(field, options.get("background"), cameras, directions)
        image = gather(colour) + (1 - opacity) * behind
        bumps = normal = None
        if options.get("normals"):
            bumps = visible_normals(field, place, weights, chunk)
            normal = rendering._pictures(gather(bumps), cameras)
        image, opacity, depth = (rendering._pictures(value, cameras) for value in (image, opacity, depth))
        return Render(image, opacity, depth, normal, weights, found, place, along, bumps)

    @torch.no_grad()
    def after_step(self, iteration: int) -> Changes | None:
        """No cell becomes known to be empty."""
        self.seen = self.error = None
        return None


def moved(condition: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """A condition on the meta device."""
    return {key: value.to("meta") for key, value in condition.items()}


@torch.no_grad()
def count_points(cameras: Cameras, bound: float, step: float) -> tuple[int, int]:
    """(points that the rays of ``cameras`` take in the cube in steps of one length, those of the longest ray)."""
    origins, directions = (ray.reshape(-1, 3) for ray in cameras.rays())
    near, far = cross_cube(origins, directions, bound)
    each = ((far - near) / step - 0.5).clamp_min(0)  # the mean over where in its first step a ray starts
    return max(1, round(float(each.sum()))), max(1, math.ceil(float(each.max())))


def lay_out(near: Tensor, step: float, points: int, width: int) -> Samples:
    """Flat intervals, and for a moment all that it takes to find them."""
    with torch.no_grad():
        start = near[:, None] + step * torch.arange(width, device="meta")
        keep = start + step / 2 < near[:, None]
        ray, _ = torch.empty(points, 2, dtype=torch.long, device="meta").unbind(1)
        begin = torch.empty(points, device="meta")
        found = Samples(ray, begin, begin + step)
        del start, keep
    return found


def visible_normals(field: Field, points: Tensor, weights: Tensor, chunk: int) -> Tensor:
    """As ``scorefield.three_d.render.sample_normals``, of every point."""
    seen = (weights.detach() > rendering.VISIBLE).nonzero().flatten()
    (found,) = in_chunks(repeatable(lambda part: (field.normals(part),)), chunk, points[seen])
    return torch.zeros_like(points).index_copy(0, seen, found)


def composite(found: Samples, density: Tensor, near: Tensor, step: float, width: int) -> Tensor:
    """Compositing weights of flat samples, as ``scorefield.three_d.render.weigh`` makes them in batches."""
    place = ((found.start - near[found.ray]) / step).round().long()
    flat = found.ray * width + place
    layout = density.new_zeros(len(near) * width).index_copy(0, flat, density).view(len(near), width)
    start = near[:, None] + step * torch.arange(width, device="meta")
    need = rendering.need("nerfacc")
    return need.render_weight_from_density(start, start + step, layout)[0].view(-1)[flat]
