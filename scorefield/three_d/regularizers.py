"""Terms beside the loss, each a scalar of one render."""

import torch
from torch import Tensor

from scorefield.three_d.render import Render


def opacity_entropy(render: Render) -> Tensor:
    """Binary entropy of opacity in nats, averaged over pixels: 0 where every pixel is either full or empty."""
    alpha = render.opacity.clamp(1e-5, 1 - 1e-5)
    return -(alpha * alpha.log() + (1 - alpha) * (1 - alpha).log()).mean()


def sparsity(render: Render) -> Tensor:
    """Mean sqrt(opacity^2 + 0.01), threestudio's: as little as the pictures need."""
    return (render.opacity.square() + 0.01).sqrt().mean()


def orientation(render: Render) -> Tensor:
    """Mean over pixels of sum w max(0, n · d)^2 (Ref-NeRF, arXiv:2112.03907): seen normals face the camera."""
    assert render.sample_normals is not None
    away = (render.sample_normals * render.directions).sum(-1).clamp_min(0)
    return (render.weights.detach() * away.square()).sum() / render.opacity.numel()


def z_variance(render: Render) -> Tensor:
    """Mean over pixels of sum w (t - depth)^2 / opacity (HiFA, arXiv:2305.18766): a thin surface along each ray."""
    ray, middle = render.samples.ray, render.samples.middle
    depth, opacity = render.depth.flatten(), render.opacity.flatten()
    spread = render.weights * (middle - depth[ray]).square()
    total = torch.zeros_like(opacity).index_add(0, ray, spread)
    return (total / opacity.clamp_min(1e-3)).mean()


TERMS = {
    "entropy": opacity_entropy,
    "sparsity": sparsity,
    "orientation": orientation,
    "z_variance": z_variance,
}
