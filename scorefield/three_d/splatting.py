"""3D Gaussians to pictures: gsplat on CUDA, and the same sums densely in torch wherever there is none.

Kerbl et al. 2023, arXiv:2308.04079. A Gaussian is projected with the Jacobian of the perspective map at its centre
(EWA), its picture-space covariance gains 0.3 pixels^2, and all are composited front to back in order of their depth.
"""

import importlib.util
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from scorefield.errors import UserError
from scorefield.three_d.cameras import Cameras

BLUR = 0.3  # pixels^2, added to every covariance: no Gaussian is thinner than a pixel
NEAR = 0.01
ALPHA_MAX, ALPHA_MIN = 0.999, 1 / 255  # as gsplat: opaquer is cut off, fainter is not drawn


@dataclass
class Gaussians:
    """N Gaussians as the renderer takes them.

    Attributes:
        means: [N, 3] in the world. scales: [N, 3], standard deviations along the axes. quaternions: [N, 4] of any
            length, (w, x, y, z). opacities: [N] in (0, 1). colours: [N, 3] in [0, 1].
    """

    means: Tensor
    scales: Tensor
    quaternions: Tensor
    opacities: Tensor
    colours: Tensor


@dataclass
class Splatting:
    """Pictures [B, 3, H, W], alpha and depth (times alpha) [B, 1, H, W], and what densification looks at.

    Attributes:
        centres: [B, N, 2] in pixels, keeps its gradient. seen: bool [B, N], whether a Gaussian is in the picture.
    """

    image: Tensor
    alpha: Tensor
    depth: Tensor
    centres: Tensor
    seen: Tensor


def rotations(quaternions: Tensor) -> Tensor:
    """[N, 3, 3] of quaternions [N, 4], (w, x, y, z)."""
    w, x, y, z = F.normalize(quaternions, dim=-1).unbind(-1)
    rows = [
        1 - 2 * (y * y + z * z), 2 * (x * y - w * z), 2 * (x * z + w * y),
        2 * (x * y + w * z), 1 - 2 * (x * x + z * z), 2 * (y * z - w * x),
        2 * (x * z - w * y), 2 * (y * z + w * x), 1 - 2 * (x * x + y * y),
    ]  # fmt: skip
    return torch.stack(rows, -1).unflatten(-1, (3, 3))


def covariances(gaussians: Gaussians) -> Tensor:
    """[N, 3, 3] in the world."""
    root = rotations(gaussians.quaternions) * gaussians.scales[:, None]
    return root @ root.transpose(1, 2)


def project(gaussians: Gaussians, cameras: Cameras) -> tuple[Tensor, Tensor, Tensor]:
    """(centres [B, N, 2] in pixels, covariances [B, N, 2, 2] in pixels^2 without blur, depths [B, N])."""
    extrinsics, intrinsics = cameras.to_opencv()
    extrinsics, intrinsics = extrinsics.to(gaussians.means), intrinsics.to(gaussians.means)
    rotation = extrinsics[:, None, :3, :3]
    x, y, z = (gaussians.means @ extrinsics[:, :3, :3].transpose(1, 2) + extrinsics[:, None, :3, 3]).unbind(-1)
    depth = z.clamp(min=NEAR)
    focal = intrinsics[:, None, 0, 0]
    height, width = cameras.size
    # far outside the picture the map's Jacobian says nothing of the Gaussian: it is taken at the picture's rim
    rim_x, rim_y = 0.65 * width / focal, 0.65 * height / focal
    u, v = (x / depth).clamp(-rim_x, rim_x), (y / depth).clamp(-rim_y, rim_y)
    zero = torch.zeros_like(depth)
    jacobian = torch.stack([focal / depth, zero, -focal * u / depth, zero, focal / depth, -focal * v / depth], -1)
    root = jacobian.unflatten(-1, (2, 3)) @ rotation
    covariance = root @ covariances(gaussians) @ root.transpose(-1, -2)
    centres = torch.stack([focal * x / depth + width / 2, focal * y / depth + height / 2], -1)
    return centres, covariance, z


def splat_dense(gaussians: Gaussians, cameras: Cameras, background: Tensor) -> Splatting:
    """Every Gaussian at every pixel: for some hundreds of Gaussians and small pictures, on any device.

    Args:
        background: [B, 3] or [B, 3, H, W] in [0, 1].
    """
    height, width = cameras.size
    centres, covariance, depth = project(gaussians, cameras)
    if centres.requires_grad:
        centres.retain_grad()
    a = covariance[..., 0, 0] + BLUR
    b, c = covariance[..., 0, 1], covariance[..., 1, 1] + BLUR
    determinant = (a * c - b * b).clamp(min=1e-10)
    rows = torch.arange(height, device=centres.device) + 0.5
    columns = torch.arange(width, device=centres.device) + 0.5
    down = (rows - centres[..., 1:])[..., :, None]  # [B, N, H, 1]
    right = (columns - centres[..., :1])[..., None, :]  # [B, N, 1, W]
    wide = lambda value: value[..., None, None]  # noqa: E731
    power = (wide(c) * right**2 - 2 * wide(b) * right * down + wide(a) * down**2) / wide(2 * determinant)
    alpha = (gaussians.opacities[:, None, None] * (-power).exp()).clamp(max=ALPHA_MAX)
    ahead = depth > NEAR
    alpha = torch.where((alpha >= ALPHA_MIN) & wide(ahead), alpha, 0)

    order = depth.argsort(1)
    alpha = alpha.gather(1, order[..., None, None].expand_as(alpha))
    through = (1 - alpha).cumprod(1)
    weight = alpha * torch.cat([torch.ones_like(through[:, :1]), through[:, :-1]], 1)
    image = torch.einsum("bnhw,bnc->bchw", weight, gaussians.colours[order])
    far = torch.einsum("bnhw,bn->bhw", weight, depth.gather(1, order))[:, None]
    left = through[:, -1:]
    behind = background if background.ndim == 4 else background[:, :, None, None]
    seen = torch.zeros_like(ahead).scatter(1, order, (weight.detach() > 0).flatten(2).any(-1))
    return Splatting(image + left * behind, 1 - left, far, centres, seen)


def splat_cuda(gaussians: Gaussians, cameras: Cameras, background: Tensor) -> Splatting:
    """The same by gsplat's kernels; raises UserError that names the extra where gsplat is not installed."""
    if importlib.util.find_spec("gsplat") is None:
        raise UserError('splats on CUDA need gsplat, which is not installed: pip install "scorefield[splats]"')
    from gsplat import rasterization

    extrinsics, intrinsics = cameras.to_opencv()
    height, width = cameras.size
    seen, alpha, info = rasterization(
        gaussians.means,
        gaussians.quaternions,
        gaussians.scales,
        gaussians.opacities,
        gaussians.colours,
        extrinsics,
        intrinsics,
        width,
        height,
        near_plane=NEAR,
        eps2d=BLUR,
        packed=False,
        render_mode="RGB+D",
    )
    if info["means2d"].requires_grad:
        info["means2d"].retain_grad()
    alpha = alpha.permute(0, 3, 1, 2)
    behind = background if background.ndim == 4 else background[:, :, None, None]
    image = seen[..., :3].permute(0, 3, 1, 2) + (1 - alpha) * behind
    inside = info["radii"].flatten(2).amax(-1) > 0 if info["radii"].ndim == 3 else info["radii"] > 0
    return Splatting(image, alpha, seen[..., 3:].permute(0, 3, 1, 2), info["means2d"], inside)


def splat(gaussians: Gaussians, cameras: Cameras, background: Tensor) -> Splatting:
    """gsplat on CUDA, the dense sum elsewhere."""
    draw = splat_cuda if gaussians.means.is_cuda else splat_dense
    return draw(gaussians, cameras, background)
