"""Networks of one's own as denoisers: a module that is one already, or a bare network under EDM's preconditioning."""

import inspect

import torch
from torch import Tensor, nn

from scorefield.denoiser import Condition, Denoiser
from scorefield.errors import UserError


class PlainDenoiser(Denoiser):
    """A module ``D(x_t, sigma) -> x0`` or ``D(x_t, sigma, condition) -> x0`` as a ``Denoiser``.

    Args:
        module: sees x_t = x0 + sigma eps [B, …] and sigma [B]; gives x0 shaped like x_t.
        sigma_min, sigma_max: the range of noise levels that it was made for.
    """

    def __init__(self, module: nn.Module, sigma_min: float = 0.002, sigma_max: float = 80.0):
        super().__init__()
        self.module, self.sigma_min, self.sigma_max = module, sigma_min, sigma_max
        taken = inspect.signature(module.forward).parameters.values()
        self.told = len([p for p in taken if p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD)]) > 2

    def forward(self, x_t: Tensor, sigma: Tensor, condition: Condition) -> Tensor:
        return (self.module(x_t, sigma, condition) if self.told else self.module(x_t, sigma)).float()

    def null_condition(self, like: Condition) -> Condition:
        if self.told:
            return super().null_condition(like)
        raise UserError("this denoiser takes no condition, so there is nothing to guide: use guidance_scale 1")


class Preconditioned(Denoiser):
    """A bare network F of flat samples as a denoiser: D = c_skip x_t + c_out F([c_in x_t, c_noise]).

    With sd = sigma_data: c_skip = sd^2 / (sigma^2 + sd^2), c_out = sigma sd / sqrt(sigma^2 + sd^2),
    c_in = 1 / sqrt(sigma^2 + sd^2), c_noise = ln(sigma) / 4 (Karras et al. 2022, arXiv:2206.00364, table 1).

    Args:
        network: [B, D + 1] to [B, D]; the last input is c_noise. Samples [B, …] with D elements are flattened for it.
        sigma_data: standard deviation of the data.
    """

    def __init__(self, network: nn.Module, sigma_data: float = 1.0, sigma_min: float = 0.002, sigma_max: float = 80.0):
        super().__init__()
        if not sigma_data > 0:
            raise UserError(f"sigma_data must be positive, not {sigma_data}")
        self.network, self.sigma_data, self.sigma_min, self.sigma_max = network, sigma_data, sigma_min, sigma_max

    def forward(self, x_t: Tensor, sigma: Tensor, condition: Condition | None = None) -> Tensor:
        x, s, sd = x_t.flatten(1), sigma[:, None], self.sigma_data
        h = (s**2 + sd**2).sqrt()
        f = self.network(torch.cat([x / h, s.log() / 4], 1))
        return ((sd / h) ** 2 * x + s * sd / h * f).view(x_t.shape).float()
