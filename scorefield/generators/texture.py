"""Texture refinement: the shape of exported assets stays, the texture is what the teacher paints on.

A rasteriser says for every pixel which place of the texture it shows; gradients reach the texture through that lookup
and nothing passes through visibility, so that no differentiable rasteriser is needed (ProlificDreamer's third stage).
"""

from collections.abc import Callable
from typing import Any, cast

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from scorefield.errors import UserError
from scorefield.generators.base import Batch, Changes
from scorefield.generators.nerf import NerfGenerator, NerfSettings, ViewConditions
from scorefield.three_d import bake, raster
from scorefield.three_d.cameras import Cameras
from scorefield.three_d.mesh import Mesh
from scorefield.three_d.render import Render, Samples
from scorefield.three_d.view import surface

SUPERSAMPLE = 2
EDGE = 0.02  # colours start at least this far from black and full, where a sigmoid's slope would vanish


class Painted(nn.Module):
    """A mesh whose texture is trained, as logits [1, 3, S, S] in sRGB; its shape is buffers."""

    vertices: Tensor
    faces: Tensor
    uv: Tensor

    def __init__(self, mesh: Mesh):
        super().__init__()
        if mesh.uv is None or mesh.texture is None:
            raise UserError("texture refinement starts from a textured mesh; this one has no texture")
        self.register_buffer("vertices", torch.from_numpy(mesh.vertices))
        self.register_buffer("faces", torch.from_numpy(mesh.faces).float())  # averages of weights hold floats alone
        self.register_buffer("uv", torch.from_numpy(mesh.uv))
        colours = torch.from_numpy(mesh.texture).float().permute(2, 0, 1)[None].contiguous() / 255
        self.paint = nn.Parameter(torch.logit(colours.clamp(EDGE, 1 - EDGE)))
        self.bound = float(np.abs(mesh.vertices).max())

    def shape(self) -> Mesh:
        """The mesh without its texture."""
        return Mesh(self.vertices.cpu().numpy(), self.faces.long().cpu().numpy(), self.uv.cpu().numpy())

    def background(self, directions: Tensor) -> Tensor:
        """White, [N, 3]."""
        return torch.ones_like(directions)

    @torch.no_grad()
    def mesh(self) -> Mesh:
        """The mesh with its texture as it stands, gaps filled anew, and vertex colours."""
        shape = self.shape()
        assert shape.uv is not None
        size = self.paint.shape[-1]
        covered = raster.nearest(shape.uv[shape.faces] * size, None, size, size, bake.SLACK)[0] >= 0
        shape.texture = bake.fill(bake.to_bytes(self.paint.sigmoid()[0].permute(1, 2, 0).cpu().numpy()), covered)
        at = F.grid_sample(self.paint.sigmoid(), self.uv[None, None] * 2 - 1, align_corners=False)
        shape.colours = bake.to_bytes(at[0, :, 0].T.cpu().numpy())
        return shape

    def forward(self, camera: Cameras) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """What one camera sees: (colour [1, 3, H, W] times opacity, opacity [1, 1, H, W], depth [1, 1, H, W], normal
        [1, 3, H, W] times opacity); colour is differentiable with respect to ``paint``."""
        height, width = (side * SUPERSAMPLE for side in camera.size)
        shape, device = self.shape(), self.paint.device
        assert shape.uv is not None
        covered, triangle, share = surface(shape, camera, height, width)
        corners = shape.faces[triangle]
        uv = torch.zeros(height, width, 2)
        place = torch.zeros(height, width, 3)
        normal = torch.zeros(height, width, 3)
        inside = torch.from_numpy(covered)
        uv[inside] = torch.from_numpy((shape.uv[corners] * share[..., None]).sum(1)).float()
        place[inside] = torch.from_numpy((shape.vertices[corners] * share[..., None]).sum(1)).float()
        a, b, c = (torch.from_numpy(shape.vertices[corners[:, k]]) for k in range(3))
        normal[inside] = F.normalize(torch.linalg.cross(b - a, c - a), dim=-1)
        depth = (place.to(device) - camera.c2w[0, :3, 3]).norm(dim=-1) * inside.to(device)
        mask = inside.to(device)[None, None].float()
        seen = F.grid_sample(
            self.paint.sigmoid(), uv.to(device)[None] * 2 - 1, padding_mode="border", align_corners=False
        )
        wide = (seen * mask, mask, depth[None, None] * mask, normal.to(device).permute(2, 0, 1)[None] * mask)
        colour, opacity, far, bumps = (F.avg_pool2d(value, SUPERSAMPLE) for value in wide)
        return colour, opacity, far / opacity.clamp_min(1e-6), bumps


def look_at_paint(painted: Painted, cameras: Cameras, ground: Tensor | None = None) -> Render:
    """A painted mesh from ``cameras`` before ``ground``, [B, 3] or [B, 3, H, W] in [0, 1]; white if left out."""
    parts = zip(*(painted(cameras[row : row + 1]) for row in range(len(cameras))), strict=True)
    colour, opacity, depth, normal = (torch.cat(values) for values in parts)
    ground = torch.ones_like(colour) if ground is None else ground
    ground = ground if ground.ndim == 4 else ground[:, :, None, None]
    none, flat = colour.new_zeros(0), colour.new_zeros(0, 3)
    image = colour + (1 - opacity) * ground
    return Render(image, opacity, depth, normal, none, Samples(none.long(), none, none), flat, flat, None)


class TextureGenerator(NerfGenerator):
    """K textured meshes in place of K fields; cameras, backgrounds and conditions are those of ``NerfGenerator``."""

    def __init__(
        self,
        settings: NerfSettings,
        conditions: ViewConditions,
        encode: Callable[[Tensor], Tensor],
        decode: Callable[[Tensor], Tensor],
        pixels: int,
        meshes: list[Mesh],
    ):
        if len(meshes) != settings.particles:
            raise UserError(f"{len(meshes)} meshes to paint on, but particles is {settings.particles}")
        painted = nn.ModuleList(Painted(mesh) for mesh in meshes)
        super().__init__(settings, conditions, encode, decode, pixels, painted)

    def look(self, cameras: Cameras, particle: int = 0, **options: Any) -> Render:
        return look_at_paint(cast(Painted, self.fields[particle]), cameras, options.get("background"))

    def regularize(self, x0: Tensor, batch: Batch, iteration: int) -> dict[str, Tensor]:
        """Only what speaks of pictures: the shape is fixed."""
        return self.of_pictures(iteration)

    def parameter_groups(self) -> list[dict[str, Any]]:
        return [{"params": list(self.fields.parameters())}]

    @torch.no_grad()
    def after_step(self, iteration: int) -> Changes | None:
        self.seen = self.error = None
        return None
