"""Train the judge on Toybox pictures with their true attributes."""

from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from scorefield.evaluation.judge import Judge
from scorefield.pretrain.loop import StageConfig, fit


def augment(images: Tensor, generator: torch.Generator) -> Tensor:
    """Mild shift, blur, noise, gain and offset, so that the judge reads shapes and not rendering grain."""
    batch, device = len(images), images.device

    def uniform(low: float, high: float) -> Tensor:
        return low + (high - low) * torch.rand((batch, 1, 1, 1), generator=generator, device=device)

    shift = 0.1 * (2 * torch.rand((batch, 2), generator=generator, device=device) - 1)
    theta = torch.eye(2, 3, device=device).repeat(batch, 1, 1)
    theta[:, :, 2] = shift
    grid = F.affine_grid(theta, list(images.shape), align_corners=False)
    images = F.grid_sample(images, grid, padding_mode="border", align_corners=False)
    blurred = F.avg_pool2d(F.pad(images, (1, 1, 1, 1), mode="replicate"), 3, 1)
    images = torch.lerp(images, blurred, uniform(-0.3, 1.0))
    noise = torch.randn(images.shape, generator=generator, device=device)
    return images * uniform(0.9, 1.1) + uniform(-0.1, 0.1) + uniform(0.0, 0.1) * noise


def train(
    images: Tensor,
    attributes: dict[str, Tensor],
    names: dict[str, list[str]],
    config: StageConfig,
    *,
    seed: int,
    out: Path,
    device: str,
    say=print,
) -> Judge:
    """Cross entropy on every head; a label of -1 (an object without a front has no view) is left out."""
    torch.manual_seed(seed)
    judge = Judge(names).to(device)
    forward = torch.compile(judge) if config.compile else judge

    def loss(generator: torch.Generator) -> dict[str, Tensor]:
        rows = torch.randint(len(images), (config.batch,), generator=generator, device=device)
        pictures = augment(images[rows].float() / 127.5 - 1, generator)
        logits = forward(pictures)
        return {
            key: F.cross_entropy(value.float(), attributes[key][rows], ignore_index=-1, label_smoothing=0.02)
            for key, value in logits.items()
        }

    fit("judge", nn.ModuleDict({"judge": judge}), loss, config, seed=seed, out=out, device=device, say=say)
    return judge


def accuracy(judge: Judge, images: Tensor, attributes: dict[str, Tensor], device: str) -> dict[str, float]:
    """Share read right per head and for all heads together, on uint8 images [N, 3, H, W]."""
    labels: dict[str, list[Tensor]] = {key: [] for key in judge.heads}
    for part in images.split(1024):
        for key, value in judge.read(part.to(device).float() / 127.5 - 1).labels.items():
            labels[key].append(value)
    right = {}
    for key, parts in labels.items():
        truth = attributes[key].to(device)
        right[key] = (torch.cat(parts) == truth) | (truth < 0)
    right["all"] = torch.stack(list(right.values())).all(0)
    return {key: value.float().mean().item() for key, value in right.items()}
