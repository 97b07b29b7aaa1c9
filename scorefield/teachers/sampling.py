"""Many-step sampling of a teacher with a stock diffusers scheduler, batched over prompts."""

import torch
from torch import Tensor

from scorefield.denoiser import Condition, Guided, pick
from scorefield.noise import convert
from scorefield.teachers.pixart import PixArtDenoiser


@torch.no_grad()
def sample(
    denoiser: PixArtDenoiser,
    scheduler,
    condition: Condition,
    z: Tensor,
    *,
    steps: int,
    guidance_scale: float,
    batch: int = 256,
) -> Tensor:
    """Latents [N, C, h, w] from start noise ``z`` ~ N(0, I), one per row of ``condition``.

    Each step asks the denoiser in sigma, turns its x0 back into the scheduler's native eps at the scheduler's
    timestep and lets the scheduler step: the stock pipeline's result up to rounding.

    Args:
        scheduler: a diffusers scheduler of the variance-preserving kind (eps prediction), fresh per call.
        guidance_scale: 1 = off.
    """
    guided = Guided(denoiser, guidance_scale).eval()
    parts = []
    for start in range(0, len(z), batch):
        rows = slice(start, start + batch)
        parts.append(_sample(guided, denoiser.process, scheduler, pick(condition, rows), z[rows], steps))
    return torch.cat(parts)


def _sample(guided: Guided, process, scheduler, condition: Condition, z: Tensor, steps: int) -> Tensor:
    scheduler.set_timesteps(steps, device=z.device)
    x = z * scheduler.init_noise_sigma
    for timestep in scheduler.timesteps:
        coordinate = timestep.float().expand(len(z))
        sigma = process.ve_sigma(coordinate)
        alpha = (1 + sigma.square()).rsqrt()
        broad = alpha.view(-1, 1, 1, 1)
        x0 = guided(x / broad, sigma, condition)
        eps = convert(x0, "x0", "eps", x_t=x, alpha=broad, sigma=(alpha * sigma).view(-1, 1, 1, 1))
        x = scheduler.step(eps, timestep, x, return_dict=False)[0]
    return x
