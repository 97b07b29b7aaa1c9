"""Per-sample weights. Functions of sigma serve the online score's loss and the generator losses alike;
``sid`` also looks at the sample and serves the generator only.

Weights multiply a squared (or, for the generator losses, bilinear) error of x0. With t = sigma / (1 + sigma)
and signal-to-noise ratio 1 / sigma^2:

    none, x0            1
    eps, snr            1 / sigma^2                            squared error of eps
    snr_plus_one        1 / sigma^2 + 1                        squared error of v
    flow                1 / t^2                                squared error of the flow velocity
    edm                 (sigma^2 + sd^2) / (sigma sd)^2        squared error of EDM's F (sd = sigma_data)
    min_snr             min(1 / sigma^2, 5)                    Hang et al. 2023, arXiv:2303.09556
    one_minus_t         1 - t                                  SiD-DiT's default k(t)
    sigma               sigma                                  LucidDreamer's weight of ISM
    sigma_squared       sigma^2 / (1 + sigma^2)                native sigma^2 of a VP process (VSD, SDS)
    alpha_sigma_squared the same times 1 / sqrt(1 + sigma^2)   native alpha sigma^2
    sid                 1 / max(mean |x0 - teacher_x0|, 1e-5)  SiD's omega, no gradient, float32
"""

from collections.abc import Callable

import torch
from torch import Tensor

from scorefield.errors import UserError, suggest

SIGMA_WEIGHTINGS: dict[str, Callable[[Tensor, float], Tensor]] = {
    "none": lambda sigma, sd: torch.ones_like(sigma),
    "x0": lambda sigma, sd: torch.ones_like(sigma),
    "eps": lambda sigma, sd: sigma**-2,
    "snr": lambda sigma, sd: sigma**-2,
    "snr_plus_one": lambda sigma, sd: sigma**-2 + 1,
    "flow": lambda sigma, sd: ((1 + sigma) / sigma) ** 2,
    "edm": lambda sigma, sd: sigma**-2 + sd**-2,
    "min_snr": lambda sigma, sd: (sigma**-2).clamp(max=5.0),
    "one_minus_t": lambda sigma, sd: 1 / (1 + sigma),
    "sigma": lambda sigma, sd: sigma,
    "sigma_squared": lambda sigma, sd: sigma**2 / (1 + sigma**2),
    "alpha_sigma_squared": lambda sigma, sd: sigma**2 * (1 + sigma**2) ** -1.5,
}
GENERATOR_WEIGHTINGS = ("sid", *SIGMA_WEIGHTINGS)


def check_weighting(name: str) -> None:
    """Raises UserError for a name that is not a weighting of generator losses."""
    if name not in GENERATOR_WEIGHTINGS:
        raise UserError(f'unknown weighting "{name}": {suggest(str(name), GENERATOR_WEIGHTINGS)}')


@torch.no_grad()
def omega(x0: Tensor, teacher_x0: Tensor, floor: float = 1e-5) -> Tensor:
    """SiD's per-sample normaliser [batch], max(mean |x0 - teacher_x0|, floor), in at least float32."""
    gap = (x0 - teacher_x0).abs()
    return gap.to(torch.promote_types(gap.dtype, torch.float32)).flatten(1).mean(1).clamp(min=floor)


@torch.no_grad()
def sample_weight(name: str, *, x0: Tensor, teacher_x0: Tensor, sigma: Tensor, sigma_data: float) -> Tensor:
    """Weight [batch] of the generator losses; never carries a gradient."""
    if name == "sid":
        return 1 / omega(x0, teacher_x0)
    return SIGMA_WEIGHTINGS[name](sigma, sigma_data)
