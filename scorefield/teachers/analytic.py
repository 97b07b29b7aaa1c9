"""Densities whose denoiser is known in closed form at every noise level: the ground truth of the tests."""

import math

import torch
from torch import Tensor

from scorefield.denoiser import Condition, Denoiser
from scorefield.errors import UserError
from scorefield.noise import score_from_x0


class GaussianMixture(Denoiser):
    """Mixture of K Gaussians with full covariances, noised to sigma: every component gains sigma^2 I.

    Args:
        weights: [K], positive, normalised here. means: [K, D]. covariances: [K, D, D], symmetric, positive
            semidefinite.
        sigma_min, sigma_max: range reported to the trainer; the formulas hold at every sigma > 0.

    Samples are [batch, …] with D elements each. Results have the wider dtype of x_t and parameters.

    Raises:
        UserError: shapes that do not fit, weights not positive, or covariances not positive semidefinite.
    """

    def __init__(
        self,
        weights: Tensor,
        means: Tensor,
        covariances: Tensor,
        sigma_min: float = 0.002,
        sigma_max: float = 80.0,
    ):
        super().__init__()
        self.log_weights: Tensor
        self.means: Tensor
        self.eigenvalues: Tensor
        self.eigenvectors: Tensor
        count, dimension = means.shape
        if weights.shape != (count,) or covariances.shape != (count, dimension, dimension):
            raise UserError(
                f"means [{count}, {dimension}] need weights [{count}] and covariances [{count}, {dimension}, "
                f"{dimension}], not {list(weights.shape)} and {list(covariances.shape)}"
            )
        values, vectors = torch.linalg.eigh(covariances)
        if not bool((weights > 0).all()) or float(values.min()) < -1e-6 * float(values.abs().max()):
            raise UserError("mixture weights must be positive and covariances positive semidefinite")
        self.sigma_min, self.sigma_max = sigma_min, sigma_max
        self.register_buffer("log_weights", (weights / weights.sum()).log())
        self.register_buffer("means", means)
        self.register_buffer("eigenvalues", values.clamp(min=0))  # [K, D]
        self.register_buffer("eigenvectors", vectors)  # [K, D, D], columns

    def _components(self, x: Tensor, sigma: Tensor) -> tuple[Tensor, Tensor]:
        """log(weight * density) [batch, K] and denoised estimate [batch, K, D] of each component."""
        variance = self.eigenvalues + sigma[:, None, None] ** 2
        offset = torch.einsum("bkd,kde->bke", x[:, None] - self.means, self.eigenvectors)
        log = -0.5 * (offset**2 / variance + variance.log() + math.log(2 * math.pi)).sum(-1)
        shrunk = torch.einsum("bke,kde->bkd", offset * self.eigenvalues / variance, self.eigenvectors)
        return self.log_weights + log, self.means + shrunk

    def forward(self, x_t: Tensor, sigma: Tensor, condition: Condition | None = None) -> Tensor:
        log, denoised = self._components(x_t.flatten(1), sigma)
        return (log.softmax(1)[..., None] * denoised).sum(1).view(x_t.shape)

    def null_condition(self, like: Condition) -> Condition:
        return like

    def log_density(self, x_t: Tensor, sigma: Tensor) -> Tensor:
        """log q_sigma(x_t) [batch]."""
        return self._components(x_t.flatten(1), sigma)[0].logsumexp(1)

    def score(self, x_t: Tensor, sigma: Tensor) -> Tensor:
        """Gradient of the log density, shaped like x_t."""
        return score_from_x0(self(x_t, sigma), x_t, sigma)

    def sample(self, count: int, generator: torch.Generator | None = None) -> Tensor:
        """Clean samples [count, D]."""
        which = torch.multinomial(self.log_weights.exp(), count, replacement=True, generator=generator)
        z = torch.randn(
            count, self.means.shape[1], generator=generator, dtype=self.means.dtype, device=self.means.device
        )
        return self.means[which] + torch.einsum(
            "be,bde->bd", z * self.eigenvalues[which].sqrt(), self.eigenvectors[which]
        )


class Gaussian(GaussianMixture):
    """One Gaussian: D(x_t, sigma) = mean + C (C + sigma^2 I)^-1 (x_t - mean).

    Args:
        mean: [D]. covariance: [D, D].
    """

    def __init__(self, mean: Tensor, covariance: Tensor, sigma_min: float = 0.002, sigma_max: float = 80.0):
        super().__init__(torch.ones_like(mean[:1]), mean[None], covariance[None], sigma_min, sigma_max)


def eight_modes(radius: float = 2.0, std: float = 0.15, dtype: torch.dtype = torch.float32) -> GaussianMixture:
    """Eight equal round Gaussians on a ring in the plane."""
    angles = torch.arange(8, dtype=dtype) * (math.pi / 4)
    means = radius * torch.stack([angles.cos(), angles.sin()], 1)
    return GaussianMixture(torch.ones(8, dtype=dtype), means, (std**2 * torch.eye(2, dtype=dtype)).expand(8, 2, 2))
