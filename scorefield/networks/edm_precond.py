"""The four preconditioners of EDM (Karras et al. 2022, arXiv:2206.00364, table 1): D(x; sigma) around a U-Net.

Each makes a raw network F a denoiser, D = c_skip x + c_out F(c_in x, c_noise), in the coordinates
x = x0 + sigma eps, whatever process the network was trained for.
"""

import math
from typing import Any

import torch
from torch import Tensor, nn

from scorefield.errors import UserError, suggest
from scorefield.networks.dhariwal_unet import DhariwalUNet
from scorefield.networks.song_unet import SongUNet
from scorefield.networks.style_layers import half_allowed

MODELS = {"SongUNet": SongUNet, "DhariwalUNet": DhariwalUNet}


class Precond(nn.Module):
    """Base: checks and shapes the inputs; subclasses give ``coefficients``."""

    sigma_min: float
    sigma_max: float

    def __init__(
        self,
        img_resolution: int,
        img_channels: int,
        label_dim: int,
        use_fp16: bool,
        model_type: str,
        out_channels: int,
        model_kwargs: dict[str, Any],
    ):
        super().__init__()
        if model_type not in MODELS:
            raise UserError(f'unknown model_type "{model_type}": {suggest(str(model_type), MODELS)}')
        self.img_resolution, self.img_channels, self.label_dim = img_resolution, img_channels, label_dim
        self.use_fp16 = use_fp16
        self.model = MODELS[model_type](
            img_resolution=img_resolution,
            in_channels=img_channels,
            out_channels=out_channels,
            label_dim=label_dim,
            **model_kwargs,
        )

    def coefficients(self, sigma: Tensor) -> tuple[Tensor | float, Tensor, Tensor | float, Tensor]:
        """c_skip, c_out, c_in, c_noise of sigma [B, 1, 1, 1]."""
        raise NotImplementedError

    def round_sigma(self, sigma: Tensor | float) -> Tensor:
        """The nearest noise level that the network knows; by default every one."""
        return torch.as_tensor(sigma)

    def forward(
        self,
        x: Tensor,
        sigma: Tensor,
        class_labels: Tensor | None = None,
        force_fp32: bool = False,
        **model_kwargs: Any,
    ) -> Tensor:
        """Denoised [B, C, R, R], float32 (float64 for a network in float64).

        Args:
            x: [B, C, R, R]. sigma: [B] or one number. class_labels: [B or 1, label_dim]; None is all zero.
            force_fp32: no half precision on CUDA. model_kwargs: ``augment_labels`` [B, augment_dim].
        """
        single = torch.float64 if next(self.model.parameters()).dtype == torch.float64 else torch.float32
        x, sigma = x.to(single), torch.as_tensor(sigma, device=x.device).to(single).reshape(-1, 1, 1, 1)
        labels = label_rows(class_labels, self.label_dim, x)
        c_skip, c_out, c_in, c_noise = self.coefficients(sigma)
        half = self.use_fp16 and not force_fp32 and half_allowed(x)
        seen = (c_in * x).to(torch.float16 if half else single)
        raw = self.model(seen, c_noise.flatten(), class_labels=labels, **model_kwargs)
        return c_skip * x + c_out * raw[:, : self.img_channels].to(single)


def label_rows(class_labels: Tensor | None, label_dim: int, like: Tensor) -> Tensor | None:
    """Labels [B or 1, label_dim] in the dtype of ``like``; None for a network without labels, zeros for none given."""
    if label_dim == 0:
        return None
    if class_labels is None:
        return torch.zeros(1, label_dim, dtype=like.dtype, device=like.device)
    return class_labels.to(like.dtype).reshape(-1, label_dim)


def on_host(value: Tensor | float) -> Tensor:
    """Numbers as CPU tensors even where the default device is another; tensors as they are."""
    return value if isinstance(value, Tensor) else torch.tensor(value, device="cpu")


class VPPrecond(Precond):
    """Variance preserving: DDPM++ and DDPM trained on eps with a linear beta schedule.

    sigma(t)^2 = exp(beta_d t^2 / 2 + beta_min t) - 1 for t in (0, 1].
    """

    def __init__(
        self,
        img_resolution: int,
        img_channels: int,
        label_dim: int = 0,
        use_fp16: bool = False,
        beta_d: float = 19.9,
        beta_min: float = 0.1,
        M: int = 1000,
        epsilon_t: float = 1e-5,
        model_type: str = "SongUNet",
        **model_kwargs: Any,
    ):
        super().__init__(img_resolution, img_channels, label_dim, use_fp16, model_type, img_channels, model_kwargs)
        self.beta_d, self.beta_min, self.M, self.epsilon_t = beta_d, beta_min, M, epsilon_t
        self.sigma_min, self.sigma_max = float(self.sigma(epsilon_t)), float(self.sigma(1))

    def sigma(self, t: Tensor | float) -> Tensor:
        """Noise level at time t."""
        t = on_host(t)
        return ((0.5 * self.beta_d * t**2 + self.beta_min * t).exp() - 1).sqrt()

    def sigma_inv(self, sigma: Tensor | float) -> Tensor:
        """Time of a noise level."""
        sigma = on_host(sigma)
        return ((self.beta_min**2 + 2 * self.beta_d * (1 + sigma**2).log()).sqrt() - self.beta_min) / self.beta_d

    def coefficients(self, sigma: Tensor) -> tuple[Tensor | float, Tensor, Tensor | float, Tensor]:
        return 1.0, -sigma, 1 / (sigma**2 + 1).sqrt(), (self.M - 1) * self.sigma_inv(sigma)


class VEPrecond(Precond):
    """Variance exploding: NCSN++ trained on the score."""

    def __init__(
        self,
        img_resolution: int,
        img_channels: int,
        label_dim: int = 0,
        use_fp16: bool = False,
        sigma_min: float = 0.02,
        sigma_max: float = 100.0,
        model_type: str = "SongUNet",
        **model_kwargs: Any,
    ):
        super().__init__(img_resolution, img_channels, label_dim, use_fp16, model_type, img_channels, model_kwargs)
        self.sigma_min, self.sigma_max = sigma_min, sigma_max

    def coefficients(self, sigma: Tensor) -> tuple[Tensor | float, Tensor, Tensor | float, Tensor]:
        return 1.0, sigma, 1.0, (0.5 * sigma).log()


class iDDPMPrecond(Precond):
    """Improved DDPM: ADM trained on eps at M discrete levels with a cosine schedule; learned variances are cut off.

    ``u`` holds the noise levels, highest first, and 0 last.
    """

    def __init__(
        self,
        img_resolution: int,
        img_channels: int,
        label_dim: int = 0,
        use_fp16: bool = False,
        C_1: float = 0.001,
        C_2: float = 0.008,
        M: int = 1000,
        model_type: str = "DhariwalUNet",
        **model_kwargs: Any,
    ):
        super().__init__(img_resolution, img_channels, label_dim, use_fp16, model_type, img_channels * 2, model_kwargs)
        self.C_1, self.C_2, self.M = C_1, C_2, M
        # in float32 on the host, as the checkpoints have it, whatever the default device is
        steps = self.alpha_bar(torch.arange(M + 1, device="cpu"))
        ratios = (steps[:-1] / steps[1:]).clamp(min=C_1)
        levels = [torch.zeros((), device="cpu")]
        for j in range(M, 0, -1):
            levels.append(((levels[-1] ** 2 + 1) / ratios[j - 1] - 1).sqrt())
        values = [float(level) for level in reversed(levels)]
        self.register_buffer("u", torch.tensor(values))
        self.sigma_min, self.sigma_max = values[M - 1], values[0]

    def alpha_bar(self, j: Tensor | float) -> Tensor:
        """Share of signal variance at step j: 0 for pure noise, near 1 at M."""
        return (0.5 * math.pi * on_host(j) / self.M / (self.C_2 + 1)).sin() ** 2

    def nearest(self, sigma: Tensor) -> Tensor:
        """int64, shaped like ``sigma``: place in ``u`` of the nearest noise level."""
        gaps = (sigma.to(torch.float32).reshape(-1, 1) - self.u).abs()
        return gaps.argmin(1).reshape(sigma.shape)

    def round_sigma(self, sigma: Tensor | float, return_index: bool = False) -> Tensor:
        """The nearest level of ``u``, or its place in ``u``."""
        sigma = torch.as_tensor(sigma, device=self.u.device)
        index = self.nearest(sigma)
        return index if return_index else self.u[index].to(sigma.dtype)

    def coefficients(self, sigma: Tensor) -> tuple[Tensor | float, Tensor, Tensor | float, Tensor]:
        c_noise = (self.M - 1 - self.nearest(sigma)).to(sigma.dtype)
        return 1.0, -sigma, 1 / (sigma**2 + 1).sqrt(), c_noise


class EDMPrecond(Precond):
    """EDM's own preconditioning, with unit variance at input and target of the network (table 1, right)."""

    def __init__(
        self,
        img_resolution: int,
        img_channels: int,
        label_dim: int = 0,
        use_fp16: bool = False,
        sigma_min: float = 0.0,
        sigma_max: float = math.inf,
        sigma_data: float = 0.5,
        model_type: str = "DhariwalUNet",
        **model_kwargs: Any,
    ):
        super().__init__(img_resolution, img_channels, label_dim, use_fp16, model_type, img_channels, model_kwargs)
        self.sigma_min, self.sigma_max, self.sigma_data = sigma_min, sigma_max, sigma_data

    def coefficients(self, sigma: Tensor) -> tuple[Tensor | float, Tensor, Tensor | float, Tensor]:
        total = sigma**2 + self.sigma_data**2
        return self.sigma_data**2 / total, sigma * self.sigma_data / total.sqrt(), 1 / total.sqrt(), sigma.log() / 4
