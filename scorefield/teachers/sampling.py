"""Many-step sampling of a teacher, batched: diffusers schedulers for its pipelines, Euler or Heun for any denoiser."""

from collections.abc import Callable, Mapping
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor

from scorefield.denoiser import Condition, Denoiser, Guided, pick
from scorefield.errors import UserError
from scorefield.noise import karras_sigmas
from scorefield.teachers.native import NativeDenoiser

SetTimesteps = Callable[[Any, int, Tensor], None]


def plain_timesteps(scheduler, steps: int, z: Tensor) -> None:
    """As most stock pipelines prepare their scheduler."""
    scheduler.set_timesteps(steps, device=z.device)


def shift_of(settings: Mapping[str, Any], tokens: int, highest: float) -> float:
    """mu of the resolution-dependent timestep shift for ``tokens`` tokens; ``highest`` is max_shift's default."""
    low, high = settings.get("base_image_seq_len", 256), settings.get("max_image_seq_len", 4096)
    start, end = settings.get("base_shift", 0.5), settings.get("max_shift", highest)
    return start + (end - start) * (tokens - low) / (high - low)


@torch.no_grad()
def sample(
    denoiser: NativeDenoiser,
    scheduler,
    condition: Condition,
    z: Tensor,
    *,
    steps: int,
    guidance_scale: float,
    batch: int = 256,
    set_timesteps: SetTimesteps = plain_timesteps,
) -> Tensor:
    """Latents [N, C, h, w] from start noise ``z`` ~ N(0, I), one per row of ``condition``.

    The scheduler is given the network's own prediction at its own timesteps, as in the stock pipeline (a flow's start,
    t = 1, has no finite sigma).

    Args:
        scheduler: of diffusers, with the denoiser's prediction form.
        guidance_scale: 1 = off.
    """
    guided = Guided(denoiser, guidance_scale).eval()
    parts = []
    for start in range(0, len(z), batch):
        rows = slice(start, start + batch)
        told, x = pick(condition, rows), z[rows]
        set_timesteps(scheduler, steps, x)
        x = x * getattr(scheduler, "init_noise_sigma", 1.0)
        for timestep in scheduler.timesteps:
            seen = scheduler.scale_model_input(x, timestep) if hasattr(scheduler, "scale_model_input") else x
            prediction = guided.guide(denoiser.predict, seen, timestep.float().expand(len(x)), told)
            x = scheduler.step(prediction, timestep, x, return_dict=False)[0]
        parts.append(x)
    return torch.cat(parts)


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
        for sigma, after in pairwise(sigmas):
            x0 = guided(x, sigma.expand(len(x)), told)
            x = x0 + after / sigma * (x - x0)
        parts.append(x)
    return torch.cat(parts)


def heun_levels(sigma_min: float, sigma_max: float, steps: int, rho: float = 7.0) -> Tensor:
    """Noise levels [steps + 1], float64, falling from sigma_max to sigma_min and then 0 (arXiv:2206.00364, eq. 5)."""
    levels = karras_sigmas(torch.linspace(1, 0, steps, dtype=torch.float64), sigma_min, sigma_max, rho)
    return torch.cat([levels, levels.new_zeros(1)])


@torch.no_grad()
def heun(
    denoiser: Denoiser,
    condition: Condition,
    z: Tensor,
    *,
    steps: int = 18,
    rho: float = 7.0,
    guidance_scale: float = 1.0,
    batch: int = 1024,
) -> Tensor:
    """x0 [N, …] from start noise ``z`` ~ N(0, I): EDM's deterministic second-order sampler (algorithm 1).

    Solves dx/dsigma = (x - D(x, sigma)) / sigma from the denoiser's sigma_max down to 0 in 2 steps - 1 passes;
    states are float64 in between, as the steps at high noise are long.

    Args:
        condition: a row per row of ``z``. guidance_scale: 1 = off.

    Raises:
        UserError: fewer than 2 steps.
    """
    if steps < 2:
        raise UserError(f"the Heun sampler needs at least 2 steps, not {steps}")
    guided = Guided(denoiser, guidance_scale).eval()
    levels = heun_levels(denoiser.sigma_min, denoiser.sigma_max, steps, rho).tolist()
    exact = torch.float32 if z.device.type == "mps" else torch.float64  # Apple's GPUs have no float64
    parts = []
    for start in range(0, len(z), batch):
        rows = slice(start, start + batch)
        parts.append(_heun(guided, pick(condition, rows), z[rows].to(exact) * levels[0], levels, z.dtype).to(z.dtype))
    return torch.cat(parts)


def _heun(guided: Guided, condition: Condition, x: Tensor, levels: list[float], dtype: torch.dtype) -> Tensor:
    def slope(x: Tensor, sigma: float) -> Tensor:
        x0 = guided(x.to(dtype), torch.full((len(x),), sigma, dtype=dtype, device=x.device), condition)
        return (x - x0.to(x.dtype)) / sigma

    for here, there in pairwise(levels):
        first = slope(x, here)
        euler = x + (there - here) * first
        x = euler if there == 0 else x + (there - here) * (first + slope(euler, there)) / 2
    return x
