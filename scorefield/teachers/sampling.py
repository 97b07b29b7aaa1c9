"""Many-step sampling of a teacher, batched over prompts: with a stock diffusers scheduler, or plainly in sigma."""

import itertools

import torch
from torch import Tensor

from scorefield.denoiser import Condition, Denoiser, Guided, pick
from scorefield.noise import convert, karras_sigmas
from scorefield.teachers.pixart import PixArtDenoiser


def make_scheduler(settings: dict):
    """The multistep solver with the teacher's own schedule."""
    from diffusers import DPMSolverMultistepScheduler

    return DPMSolverMultistepScheduler.from_config(settings)


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


@torch.no_grad()
def sample_in_sigma(
    denoiser: Denoiser, condition: Condition, z: Tensor, *, steps: int, guidance_scale: float, batch: int = 256
) -> Tensor:
    """x0 [N, …] from start noise ``z`` ~ N(0, I) by Euler steps of the probability-flow ODE on a Karras grid.

    dx / dsigma = (x - D) / sigma (Karras et al. 2022, arXiv:2206.00364, eq 1 with s = 1), from the denoiser's sigma_max
    (at most 80) to its sigma_min (at least 0.002) and then to 0. For any denoiser; ``steps`` passes, doubled by
    guidance.
    """
    guided = Guided(denoiser, guidance_scale).eval()
    low, high = max(denoiser.sigma_min, 0.002), min(denoiser.sigma_max, 80.0)
    grid = karras_sigmas(torch.linspace(1, 0, steps, device=z.device), low, high)
    sigmas = torch.cat([grid, torch.zeros_like(grid[:1])])
    parts = []
    for start in range(0, len(z), batch):
        rows = slice(start, start + batch)
        told, x = pick(condition, rows), z[rows] * sigmas[0]
        for sigma, after in itertools.pairwise(sigmas):
            x0 = guided(x, sigma.expand(len(x)), told)
            x = x0 + after / sigma * (x - x0)
        parts.append(x)
    return torch.cat(parts)
