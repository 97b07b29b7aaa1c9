"""Pictures of a textured mesh by a software rasteriser: what a viewer shows of the exported file, unlit."""

import numpy as np
import torch
from torch import Tensor

from scorefield.errors import UserError
from scorefield.three_d import raster
from scorefield.three_d.cameras import Cameras
from scorefield.three_d.mesh import Mesh

NEAR = 1e-3


def project(vertices: np.ndarray, camera: Cameras, height: int, width: int) -> tuple[np.ndarray, np.ndarray]:
    """(column and row in pixels [V, 2], depth along the axis [V]) of points seen by the first of ``cameras``."""
    pose = camera.c2w[0].double().cpu().numpy()
    local = (vertices - pose[:3, 3]) @ pose[:3, :3]
    depth = -local[:, 2]
    focal = height / 2 / np.tan(float(camera.fovy[0]) / 2)
    safe = np.where(depth > NEAR, depth, np.nan)
    return np.stack([width / 2 + focal * local[:, 0] / safe, height / 2 - focal * local[:, 1] / safe], -1), depth


def sample_texture(texture: np.ndarray, uv: np.ndarray) -> np.ndarray:
    """Bilinear colours float64 [N, 3] in [0, 1] at uv [N, 2], v downwards, clamped at the border."""
    height, width = texture.shape[:2]
    place = np.clip(uv * [width, height] - 0.5, 0, [width - 1, height - 1])
    low = np.floor(place).astype(np.int64)
    high = np.minimum(low + 1, [width - 1, height - 1])
    share = place - low
    flat = texture.astype(np.float64) / 255
    top = flat[low[:, 1], low[:, 0]] * (1 - share[:, :1]) + flat[low[:, 1], high[:, 0]] * share[:, :1]
    bottom = flat[high[:, 1], low[:, 0]] * (1 - share[:, :1]) + flat[high[:, 1], high[:, 0]] * share[:, :1]
    return top * (1 - share[:, 1:]) + bottom * share[:, 1:]


def surface(mesh: Mesh, camera: Cameras, height: int, width: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(covered bool [H, W], triangle int64 [N], perspective-correct weights float64 [N, 3]) of the covered pixels."""
    place, depth = project(mesh.vertices, camera, height, width)
    inverse = np.where(depth > NEAR, 1 / np.where(depth > NEAR, depth, 1.0), 0.0)[mesh.faces]
    corners = place[mesh.faces]
    edge1, edge2 = corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0]
    towards = edge1[:, 0] * edge2[:, 1] - edge1[:, 1] * edge2[:, 0] < 0  # rows run downwards
    corners = np.where(towards[:, None, None], corners, np.nan)  # glTF's faces are seen from outside only
    triangle, weights = raster.nearest(corners, inverse, height, width)
    covered = triangle >= 0
    share = weights[covered] * inverse[triangle[covered]]
    return covered, triangle[covered], share / share.sum(1, keepdims=True)


def render_mesh(mesh: Mesh, cameras: Cameras, supersample: int = 2) -> tuple[Tensor, Tensor]:
    """(colour float32 [B, 3, H, W] in [0, 1], premultiplied by alpha; alpha [B, 1, H, W]) of a textured mesh.

    Raises UserError for a mesh without texture.
    """
    if mesh.uv is None or mesh.texture is None:
        raise UserError("the mesh has no texture to show")
    height, width = (side * supersample for side in cameras.size)
    pictures = np.zeros((len(cameras), height, width, 4), dtype=np.float32)
    for number in range(len(cameras)):
        covered, triangle, share = surface(mesh, cameras[number : number + 1], height, width)
        uv = (mesh.uv[mesh.faces[triangle]] * share[..., None]).sum(1)
        pictures[number][covered] = np.concatenate([sample_texture(mesh.texture, uv), np.ones((len(uv), 1))], 1)
    whole = torch.from_numpy(pictures).unflatten(1, (-1, supersample)).unflatten(3, (-1, supersample)).mean((2, 4))
    whole = whole.permute(0, 3, 1, 2)
    return whole[:, :3].contiguous(), whole[:, 3:].contiguous()


def over(colour: Tensor, alpha: Tensor, background: Tensor | tuple[float, float, float]) -> Tensor:
    """[B, 3, H, W] in [0, 1]: premultiplied ``colour`` on a plain background (three numbers or [B, 3])."""
    ground = torch.as_tensor(background, dtype=colour.dtype, device=colour.device).view(-1, 3, 1, 1)
    return colour + (1 - alpha) * ground
