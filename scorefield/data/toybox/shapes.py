"""The three kinds of part that Toybox objects are built from: rays against them, and their distances.

A part is an ellipsoid (three radii), a box (three half sizes) or a frustum around its own y axis (bottom
radius, top radius, half height; equal radii make a cylinder, a zero one a cone), moved and turned into place.
"""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

FAR = 1e9
_EPS = 1e-9


@dataclass(frozen=True)
class Part:
    """One solid. ``turn`` is Euler angles in degrees about x, then y, then z; ``paint`` names a colour."""

    kind: str  # ellipsoid, box, frustum
    size: tuple[float, float, float]
    at: tuple[float, float, float]
    paint: str = "main"
    turn: tuple[float, float, float] = (0.0, 0.0, 0.0)

    def rotation(self) -> Tensor:
        """float64 [3, 3], part frame to object frame."""
        matrix = torch.eye(3, dtype=torch.float64)
        for axis, angle in enumerate(torch.tensor(self.turn, dtype=torch.float64).deg2rad()):
            c, s = angle.cos(), angle.sin()
            i, j = (axis + 1) % 3, (axis + 2) % 3
            step = torch.eye(3, dtype=torch.float64)
            step[i, i], step[j, j], step[i, j], step[j, i] = c, c, -s, s
            matrix = step @ matrix
        return matrix

    def corners(self) -> Tensor:
        """float64 [8, 3]: corners of a box around the part, in the object frame."""
        x, y, z = self.half_extent()
        signs = torch.tensor([[i, j, k] for i in (-1, 1) for j in (-1, 1) for k in (-1, 1)], dtype=torch.float64)
        return signs * torch.tensor([x, y, z], dtype=torch.float64) @ self.rotation().T + torch.tensor(self.at)

    def radius(self) -> float:
        """Of a sphere around ``at`` that holds the part."""
        x, y, z = self.half_extent()
        return {"ellipsoid": max(x, y, z), "frustum": math.hypot(x, y), "box": math.hypot(x, y, z)}[self.kind]

    def half_extent(self) -> tuple[float, float, float]:
        if self.kind == "frustum":
            radius = max(self.size[0], self.size[1])
            return radius, self.size[2], radius
        return self.size


def hit(kind: str, size: Tensor, o: Tensor, d: Tensor) -> tuple[Tensor, Tensor]:
    """First hit of rays o + t d from outside, in the part's own frame.

    Args:
        o, d: [..., 3], broadcast against each other.

    Returns:
        t [...] (FAR for a miss) and the outward normal [..., 3] (not normalised for a miss).
    """
    return {"ellipsoid": _hit_ellipsoid, "box": _hit_box, "frustum": _hit_frustum}[kind](size, o, d)


def _hit_ellipsoid(size: Tensor, o: Tensor, d: Tensor) -> tuple[Tensor, Tensor]:
    p, v = o / size, d / size
    a, b, c = (v * v).sum(-1), (p * v).sum(-1), (p * p).sum(-1) - 1
    root = b * b - a * c
    t = (-b - root.clamp_min(0).sqrt()) / a
    t = torch.where((root > 0) & (t > 0), t, FAR)
    return t, (p + t[..., None] * v) / size


def _hit_box(size: Tensor, o: Tensor, d: Tensor) -> tuple[Tensor, Tensor]:
    inverse = 1 / torch.where(d.abs() < _EPS, _EPS, d)
    near, far = -o * inverse - size * inverse.abs(), -o * inverse + size * inverse.abs()
    t, axis = near.max(-1)
    t = torch.where((t < far.min(-1).values) & (t > 0), t, FAR)
    normal = -d.sign() * torch.nn.functional.one_hot(axis, 3).to(d.dtype)
    return t, normal


def _hit_frustum(size: Tensor, o: Tensor, d: Tensor) -> tuple[Tensor, Tensor]:
    bottom, top, half = size
    mid, slope = (bottom + top) / 2, (top - bottom) / (2 * half)
    (ox, oy, oz), (dx, dy, dz) = o.unbind(-1), d.unbind(-1)
    radius, grow = mid + slope * oy, slope * dy
    a = dx * dx + dz * dz - grow * grow
    a = torch.where(a.abs() < _EPS, _EPS, a)
    b = ox * dx + oz * dz - radius * grow
    c = ox * ox + oz * oz - radius * radius
    root = b * b - a * c
    spread = root.clamp_min(0).sqrt() / a.abs()
    side = torch.full_like(root, FAR)
    for t in (-b / a + spread, -b / a - spread):  # the nearer one last, so that it wins
        y = oy + t * dy
        side = torch.where((root > 0) & (t > 0) & (y.abs() <= half) & (t < side), t, side)
    safe = torch.where(dy.abs() < _EPS, _EPS, dy)
    best, lid = side, torch.zeros_like(side)
    for sign, r in ((1.0, top), (-1.0, bottom)):
        t = (sign * half - oy) / safe
        x, z = ox + t * dx, oz + t * dz
        good = (x * x + z * z <= r * r) & (t > 0) & (t < best)
        best, lid = torch.where(good, t, best), torch.where(good, sign, lid)
    x, y, z = ox + best * dx, oy + best * dy, oz + best * dz
    lean = -slope * (mid + slope * y)
    flat = lid != 0
    normal = torch.stack([torch.where(flat, 0.0, x), torch.where(flat, lid, lean), torch.where(flat, 0.0, z)], -1)
    return best, normal


def distance(kind: str, size: Tensor, p: Tensor) -> Tensor:
    """Signed distance [N] of points [N, 3] in the part's frame: exact for box and frustum, a first-order
    estimate with the exact zero set for the ellipsoid."""
    if kind == "ellipsoid":
        k0, k1 = (p / size).norm(dim=-1), (p / size.square()).norm(dim=-1)
        return torch.where(k1 < _EPS, -size.min(), k0 * (k0 - 1) / k1.clamp_min(_EPS))
    if kind == "box":
        q = p.abs() - size
        return q.clamp_min(0).norm(dim=-1) + q.max(-1).values.clamp_max(0)
    bottom, top, half = size
    radial, y = (p[:, 0].square() + p[:, 2].square()).sqrt(), p[:, 1]
    lid = torch.where(y < 0, bottom, top)
    cap = torch.stack([radial - torch.minimum(radial, lid), y.abs() - half], -1)
    edge = torch.stack([top - bottom, 2 * half])
    to_top = torch.stack([top - radial, half - y], -1)
    along = ((to_top * edge).sum(-1) / edge.square().sum()).clamp(0, 1)
    side = torch.stack([radial - top, y - half], -1) + along[:, None] * edge
    inside = (side[:, 0] < 0) & (cap[:, 1] < 0)
    nearest = torch.minimum(cap.square().sum(-1), side.square().sum(-1)).sqrt()
    return torch.where(inside, -nearest, nearest)
