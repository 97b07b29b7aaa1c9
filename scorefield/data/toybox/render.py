"""Ray-trace Toybox scenes in closed form: each ray against each part, nearest hit shaded."""

from dataclasses import dataclass

import torch
from torch import Tensor

from scorefield.data.toybox import shapes
from scorefield.data.toybox.models import BACKGROUNDS, COLORS, PAINTS, SHADES, model
from scorefield.data.toybox.scene import OBJECT_NAMES, Scenes, camera_to_world
from scorefield.errors import UserError


@dataclass
class Rendering:
    """Pictures with their truth.

    Attributes:
        image: float32 [B, 3, R, R] in [-1, 1]. mask: [B, R, R] in [0, 1], share of a pixel that the object covers.
        depth: [B, R, R], distance from the camera along the central ray of the pixel (nearest hit of its
            samples; inf where nothing is hit). camera_to_world: [B, 4, 4], OpenGL.
    """

    image: Tensor
    depth: Tensor
    mask: Tensor
    camera_to_world: Tensor


def _matrix(part: shapes.Part, device) -> Tensor:
    return part.rotation().float().to(device)


def sdf(name: str, points: Tensor) -> Tensor:
    """Signed distance [N] of points [N, 3] in the normalised object frame (unit bounding sphere, size 1)."""
    built = model(name)
    raw = points / built.scale + torch.tensor(built.centre, dtype=points.dtype, device=points.device)
    nearest = torch.full(points.shape[:1], shapes.FAR, dtype=points.dtype, device=points.device)
    for part in built.parts:
        turn = part.rotation().to(points)
        local = (raw - torch.tensor(part.at).to(points)) @ turn
        size = torch.tensor(part.size).to(points)
        nearest = torch.minimum(nearest, shapes.distance(part.kind, size, local))
    return nearest * built.scale


def pixel_rays(scenes: Scenes, resolution: int, supersample: int) -> tuple[Tensor, Tensor]:
    """Origins [B, 1, 3] and unit directions [B, P, 3] in the world; rows of pixels from the top left."""
    device = scenes.object.device
    side = resolution * supersample
    steps = (torch.arange(side, device=device) + 0.5) / side * 2 - 1
    y, x = torch.meshgrid(-steps, steps, indexing="ij")
    reach = (scenes.fov_deg.deg2rad() / 2).tan()[:, None]
    local = torch.stack([x.flatten() * reach, y.flatten() * reach, -torch.ones_like(reach * x.flatten())], -1)
    pose = camera_to_world(scenes)
    directions = local @ pose[:, :3, :3].transpose(1, 2)
    return pose[:, None, :3, 3], directions / directions.norm(dim=-1, keepdim=True)


@torch.no_grad()
def render(scenes: Scenes, resolution: int = 64, supersample: int = 2, device: str | torch.device = "cpu") -> Rendering:
    """Render scenes; each object's scenes go through its parts together, in pieces that bound the memory.

    Raises UserError for a resolution or supersampling below 1.
    """
    if resolution < 1 or supersample < 1:
        raise UserError(
            f"toybox renders at resolution and supersample of 1 and more, not {resolution} and {supersample}"
        )
    batch = len(scenes)
    scenes = scenes.to(device)
    image = torch.empty(batch, 3, resolution, resolution, device=device)
    depth = torch.empty(batch, resolution, resolution, device=device)
    mask = torch.empty(batch, resolution, resolution, device=device)
    rays = (resolution * supersample) ** 2
    piece = max(1, (60_000_000 if image.is_cuda else 400_000) // rays)
    for number in scenes.object.unique().tolist():
        for rows in (scenes.object == number).nonzero().flatten().split(piece):
            colour, far, cover = _trace(OBJECT_NAMES[number], scenes[rows], resolution, supersample)
            side = (len(rows), resolution, supersample, resolution, supersample)
            image[rows] = colour.view(*side, 3).mean((2, 4)).permute(0, 3, 1, 2)
            depth[rows] = far.view(side).amin((2, 4))
            mask[rows] = cover.view(side).mean((2, 4))
    return Rendering(image.clamp(0, 1) * 2 - 1, depth, mask, camera_to_world(scenes))


def _trace(name: str, scenes: Scenes, resolution: int, supersample: int) -> tuple[Tensor, Tensor, Tensor]:
    """Colour [B, P, 3] in [0, 1], depth [B, P] and cover [B, P] of scenes that hold the same object."""
    built = model(name)
    origin, direction = pixel_rays(scenes, resolution, supersample)
    device = direction.device
    ground = _ground(built, scenes, origin, direction)
    # only rays that come near the object are traced: those within its bounding sphere
    along = (origin * direction).sum(-1, keepdim=True)
    scene, pixel = ((origin - along * direction).norm(dim=-1) < scenes.size[:, None]).nonzero(as_tuple=True)
    rays = direction[scene, pixel]
    scale = scenes.size * built.scale
    inside = (origin[:, 0] / scale[:, None] + torch.tensor(built.centre, device=device))[scene]
    best = torch.full(scene.shape, shapes.FAR, device=device)
    normal = torch.zeros_like(rays)
    paint = torch.full(scene.shape, -1, dtype=torch.int64, device=device)
    reached = _reached(built.parts, inside, rays)
    for index, part in enumerate(built.parts):
        turn = _matrix(part, device)
        size = torch.tensor(part.size, device=device)
        near = reached[index].nonzero().flatten()
        local_origin = (inside[near] - torch.tensor(part.at, device=device)) @ turn
        t, bump = shapes.hit(part.kind, size, local_origin, rays[near] @ turn)
        nearer = t < best[near]
        near = near[nearer]
        best[near], normal[near], paint[near] = t[nearer], bump[nearer] @ turn.T, index
    found = (paint >= 0).nonzero().flatten()
    scene, pixel, paint, normal = scene[found], pixel[found], paint[found], normal[found]
    palette = torch.tensor([PAINTS.get(part.paint, (0.0, 0.0, 0.0)) for part in built.parts], device=device)[paint]
    shade = torch.tensor([SHADES.get(part.paint, 0.0) for part in built.parts], device=device)[paint]
    main = torch.tensor(list(COLORS.values()), device=device)[scenes.color][scene]
    colour = palette + shade[:, None] * main  # one of the two is zero
    ground[scene, pixel] = _shade(colour, normal, rays[found], scenes.light[scene], scenes.light_strength[scene])
    depth = torch.full(direction.shape[:2], torch.inf, device=device)
    depth[scene, pixel] = best[found] * scale[scene]
    return ground, depth, torch.isfinite(depth).float()


def _reached(parts: tuple[shapes.Part, ...], origin: Tensor, rays: Tensor) -> Tensor:
    """bool [parts, N]: whether a ray from ``origin`` [N, 3] passes through the sphere around a part; most miss most."""
    at = torch.tensor([part.at for part in parts], device=rays.device)
    radius = torch.tensor([part.radius() for part in parts], device=rays.device)[:, None]
    along = (origin * rays).sum(-1) - at @ rays.T
    away = origin.square().sum(-1) - 2 * at @ origin.T + at.square().sum(-1, keepdim=True)
    return away - along.square() < radius.square() + 1e-3  # more than rounding takes away


def _shade(colour: Tensor, normal: Tensor, rays: Tensor, light: Tensor, strength: Tensor) -> Tensor:
    """Ambient from above, one lamp, a small highlight; all [N, 3] but ``strength`` [N]."""
    normal = normal / normal.norm(dim=-1, keepdim=True).clamp_min(1e-9)
    lambert = (normal * light).sum(-1, keepdim=True).clamp_min(0)
    half = light - rays
    half = half / half.norm(dim=-1, keepdim=True)
    shine = (normal * half).sum(-1, keepdim=True).clamp_min(0).pow(30)
    ambient = 0.54 + 0.10 * normal[:, 1:2]
    return colour * (ambient + 0.50 * strength[:, None] * lambert) + 0.16 * shine


def _ground(built, scenes: Scenes, origin: Tensor, direction: Tensor) -> Tensor:
    """Plain background, a little lighter above, with a soft shadow where the ground lies under the object."""
    colour = torch.tensor(list(BACKGROUNDS.values()), device=direction.device)[scenes.background]
    colour = (colour + scenes.tint)[:, None, :] * (1 + 0.10 * direction[..., 1:2])
    floor = (built.floor * scenes.size)[:, None]
    down = direction[..., 1]
    t = (floor - origin[..., 1]) / torch.where(down > -1e-4, -1e-4, down)
    reach = scenes.size[:, None] * torch.tensor(built.reach, device=direction.device) * 0.85 + 0.05
    # the shadow lies off the object's foot, away from the lamp
    shift = -0.25 * scenes.light[:, None, :]
    x = (origin[..., 0] + t * direction[..., 0] - shift[..., 0]) / reach[:, None, 0]
    z = (origin[..., 2] + t * direction[..., 2] - shift[..., 2]) / reach[:, None, 1]
    shadow = 0.42 * torch.sigmoid(6 * (1 - (x * x + z * z).clamp_max(50).sqrt()))
    shadow = torch.where(down < -1e-4, shadow, 0.0)
    return colour * (1 - shadow[..., None])
