"""Cameras in one convention, and the way to the conventions of others.

World: right-handed, z up. The front of an object looks along -y, and azimuth 0 sees it: the camera stands at
distance (sin azimuth cos elevation, -cos azimuth cos elevation, sin elevation), so that azimuth 90 degrees sees the
object's +x side. Camera: OpenGL, x right, y up, looking along -z; poses are camera-to-world. All angles in radians.

Toybox and glTF have y up and the front along +z; ``from_y_up`` and ``to_y_up`` turn points, directions and poses.
"""

from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F
from torch import Tensor

from scorefield.errors import UserError

Y_UP_TO_WORLD = ((1.0, 0.0, 0.0), (0.0, 0.0, -1.0), (0.0, 1.0, 0.0))
_FLIP = (1.0, -1.0, -1.0)  # OpenGL camera axes to OpenCV's (x right, y down, z forward) and back


def from_y_up(vectors: Tensor) -> Tensor:
    """Vectors [..., 3] of a y-up world (Toybox, glTF) in the world of this package."""
    return vectors @ torch.tensor(Y_UP_TO_WORLD, dtype=vectors.dtype, device=vectors.device).T


def to_y_up(vectors: Tensor) -> Tensor:
    """Vectors [..., 3] of this package's world in a y-up world; the inverse of ``from_y_up``."""
    return vectors @ torch.tensor(Y_UP_TO_WORLD, dtype=vectors.dtype, device=vectors.device)


@dataclass(frozen=True)
class Cameras:
    """Pinhole cameras with square pixels and the principal point in the middle.

    Attributes:
        c2w: float32 [B, 4, 4], camera-to-world, OpenGL. fovy: float32 [B], vertical field of view in radians.
        size: (height, width) in pixels.
    """

    c2w: Tensor
    fovy: Tensor
    size: tuple[int, int]

    def __post_init__(self) -> None:
        if self.c2w.ndim != 3 or self.c2w.shape[1:] != (4, 4) or self.fovy.shape != self.c2w.shape[:1]:
            raise UserError(
                f"cameras need poses [B, 4, 4] and fields of view [B], not {list(self.c2w.shape)} and "
                f"{list(self.fovy.shape)}"
            )
        if min(self.size) < 1:
            raise UserError(f"a camera's picture must be at least 1 by 1 pixel, not {self.size}")

    def __len__(self) -> int:
        return len(self.c2w)

    def __getitem__(self, rows) -> "Cameras":
        return replace(self, c2w=self.c2w[rows], fovy=self.fovy[rows])

    def to(self, device) -> "Cameras":
        """The same cameras on another device."""
        return replace(self, c2w=self.c2w.to(device), fovy=self.fovy.to(device))

    def sized(self, height: int, width: int) -> "Cameras":
        """The same views with other pixels."""
        return replace(self, size=(height, width))

    def rays(self) -> tuple[Tensor, Tensor]:
        """Origins and unit directions, float32 [B, H, W, 3] in the world, through pixel centres from the top left."""
        height, width = self.size
        device = self.c2w.device
        reach = (self.fovy / 2).tan() / (height / 2)  # of one pixel at depth 1
        y = height / 2 - 0.5 - torch.arange(height, device=device)
        x = torch.arange(width, device=device) + 0.5 - width / 2
        y, x = torch.meshgrid(y, x, indexing="ij")
        local = torch.stack([x, y, torch.zeros_like(x)], -1)[None] * reach[:, None, None, None]
        local = torch.cat([local[..., :2], torch.full_like(local[..., :1], -1.0)], -1)
        directions = torch.einsum("bij,bhwj->bhwi", self.c2w[:, :3, :3], local)
        directions = directions / directions.norm(dim=-1, keepdim=True)
        return self.c2w[:, None, None, :3, 3].expand_as(directions), directions

    def to_opencv(self) -> tuple[Tensor, Tensor]:
        """(extrinsics, intrinsics): world-to-camera [B, 4, 4] with y down and z forward, and K [B, 3, 3] in pixels.

        Pixel (row r, column c) has its centre at (c + 0.5, r + 0.5). gsplat and kornia take the two as they are.
        """
        flip = torch.tensor([*_FLIP, 1.0], device=self.c2w.device)
        rotation = (self.c2w[:, :3, :3] * flip[:3]).transpose(1, 2)
        extrinsics = torch.eye(4, device=self.c2w.device).repeat(len(self), 1, 1)
        extrinsics[:, :3, :3] = rotation
        extrinsics[:, :3, 3] = -(rotation @ self.c2w[:, :3, 3:])[..., 0]
        height, width = self.size
        focal = height / 2 / (self.fovy / 2).tan()
        intrinsics = torch.zeros(len(self), 3, 3, device=self.c2w.device)
        intrinsics[:, 0, 0] = intrinsics[:, 1, 1] = focal
        intrinsics[:, 0, 2], intrinsics[:, 1, 2], intrinsics[:, 2, 2] = width / 2, height / 2, 1.0
        return extrinsics, intrinsics

    @staticmethod
    def from_opencv(extrinsics: Tensor, intrinsics: Tensor, size: tuple[int, int]) -> "Cameras":
        """The inverse of ``to_opencv``; raises UserError for oblong pixels or an off-centre principal point."""
        height, width = size
        focal = intrinsics[:, 1, 1]
        centre = torch.tensor([width / 2, height / 2], device=intrinsics.device)
        if not (
            torch.allclose(intrinsics[:, 0, 0], focal, rtol=1e-4)
            and torch.allclose(intrinsics[:, :2, 2], centre.expand(len(intrinsics), 2), atol=1e-3)
        ):
            raise UserError("only cameras with square pixels and a central principal point are taken")
        flip = torch.tensor(_FLIP, device=extrinsics.device)
        rotation = extrinsics[:, :3, :3].transpose(1, 2)
        c2w = torch.eye(4, device=extrinsics.device).repeat(len(extrinsics), 1, 1)
        c2w[:, :3, :3] = rotation * flip
        c2w[:, :3, 3] = -(rotation @ extrinsics[:, :3, 3:])[..., 0]
        return Cameras(c2w, 2 * (height / 2 / focal).atan(), size)


def orbit(
    elevation: Tensor | float,
    azimuth: Tensor | float,
    distance: Tensor | float,
    fovy: Tensor | float,
    size: tuple[int, int],
    target: Tensor | None = None,
) -> Cameras:
    """Cameras round ``target`` that look at it, upright.

    Args:
        elevation, azimuth, fovy: radians, [B] or numbers. distance: [B] or a number. size: (height, width).
        target: [B, 3] or [3], the origin if left out. Straight up and down (elevation ±90 degrees) are well-defined:
            the picture's right is then the one of the same azimuth.
    """
    given = [torch.as_tensor(value, dtype=torch.float32) for value in (elevation, azimuth, distance, fovy)]
    device = next((v.device for v in given if v.device.type != "cpu"), given[0].device)
    up, turn, away, view = (v.contiguous() for v in torch.broadcast_tensors(*(v.to(device).view(-1) for v in given)))
    zero = torch.zeros_like(turn)
    back = torch.stack([turn.sin() * up.cos(), -turn.cos() * up.cos(), up.sin()], -1)
    right = torch.stack([turn.cos(), turn.sin(), zero], -1)
    over = torch.linalg.cross(back, right)
    place = away[:, None] * back
    if target is not None:
        place = place + target.to(device)
    top = torch.stack([right, over, back, place], -1)
    last = torch.tensor([0.0, 0.0, 0.0, 1.0], device=device).expand(len(top), 1, 4)
    return Cameras(torch.cat([top, last], 1), view, size)


def look_at(place: Tensor, target: Tensor, upright: Tensor, fovy: Tensor, size: tuple[int, int]) -> Cameras:
    """Cameras at ``place`` that look at ``target``, ``upright`` pointing up in the picture.

    Args:
        place, target, upright: [B, 3] in the world, of any length. fovy: radians [B]. size: (height, width).
            Where the direction of view lies along ``upright``, the picture's up is the world's y or x instead.
    """
    back = F.normalize(place - target, dim=-1)
    right = torch.linalg.cross(upright, back)
    for other in ((0.0, 1.0, 0.0), (1.0, 0.0, 0.0)):
        spare = torch.linalg.cross(torch.tensor(other, device=back.device).expand_as(back), back)
        right = torch.where(right.norm(dim=-1, keepdim=True) < 1e-5, spare, right)
    right = F.normalize(right, dim=-1)
    over = torch.linalg.cross(back, right)
    top = torch.stack([right, over, back, place], -1)
    last = torch.tensor([0.0, 0.0, 0.0, 1.0], device=place.device).expand(len(top), 1, 4)
    return Cameras(torch.cat([top, last], 1), fovy, size)
