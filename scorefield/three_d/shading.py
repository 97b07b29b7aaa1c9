"""What the teacher sees of a surface beside its own colour: lit, lit without colour, or its normals as colours.

Lambertian light from near the camera and ambient light, as in DreamFusion (arXiv:2209.14988); ProlificDreamer's
geometry stage shows normal maps.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from scorefield.three_d.render import Render

AMBIENT, DIFFUSE = 0.6, 0.5  # together a little above 1: a lit surface is as bright as its colour on average
SPREAD = 0.5  # of the lamp about the camera


def lamp(place: Tensor, noise: Tensor) -> Tensor:
    """Unit directions [B, 3] towards lamps near cameras at ``place`` [B, 3], by normal ``noise`` [B, 3]."""
    return F.normalize(F.normalize(place, dim=1) + SPREAD * noise, dim=1)


def shaded(seen: Render, backdrop: Tensor, kind: str, light: Tensor) -> Tensor:
    """Pictures [B, 3, H, W] in [0, 1] of a render with normals, before the ``backdrop`` it was made with.

    Args:
        kind: one of ``scorefield.three_d.settings.SHADINGS``. light: [B, 3], towards the lamp.
    """
    if kind == "albedo":
        return seen.image
    assert seen.normal is not None
    behind = (1 - seen.opacity) * backdrop
    normal = F.normalize(seen.normal, dim=1, eps=1e-6)
    if kind == "normal":
        return (normal + 1) / 2 * seen.opacity + behind
    front = seen.image - behind
    if kind == "textureless":  # one colour for the whole picture, without a gradient
        mean = front.detach().sum((2, 3)) / seen.opacity.detach().sum((2, 3)).clamp_min(1e-6)
        front = mean[:, :, None, None] * seen.opacity
    facing = torch.einsum("bchw,bc->bhw", normal, light)[:, None].clamp_min(0)
    return (front * (AMBIENT + DIFFUSE * facing)).clamp(0, 1) + behind
