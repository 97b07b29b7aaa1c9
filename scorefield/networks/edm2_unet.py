"""EDM2's magnitude-preserving U-Net (config G) and its preconditioner (Karras et al. 2024, arXiv:2312.02696)."""

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from scorefield.errors import UserError
from scorefield.networks.edm2_layers import Block, MPConv, MPFourier, mp_cat, mp_silu, mp_sum
from scorefield.networks.edm_precond import label_rows
from scorefield.networks.style_layers import half_allowed


class UNet(nn.Module):
    """The raw network.

    Args:
        img_resolution: side, of latents or pictures. label_dim: classes, 0 for none.
        channel_mult_noise, channel_mult_emb: width of the noise features and of the embedding over
            ``model_channels``; None for the first and the widest level's.
        label_balance: share of the class in the embedding. concat_balance: share of the encoder's output in the
            decoder's input.
        block_kwargs: of ``Block``.
    """

    def __init__(
        self,
        img_resolution: int,
        img_channels: int,
        label_dim: int,
        model_channels: int = 192,
        channel_mult: Sequence[int] = (1, 2, 3, 4),
        channel_mult_noise: int | None = None,
        channel_mult_emb: int | None = None,
        num_blocks: int = 3,
        attn_resolutions: Sequence[int] = (16, 8),
        label_balance: float = 0.5,
        concat_balance: float = 0.5,
        **block_kwargs: Any,
    ):
        super().__init__()
        widths = [model_channels * mult for mult in channel_mult]
        noise = widths[0] if channel_mult_noise is None else model_channels * channel_mult_noise
        emb = max(widths) if channel_mult_emb is None else model_channels * channel_mult_emb
        self.label_balance, self.concat_balance = label_balance, concat_balance
        self.out_gain = nn.Parameter(torch.zeros(()))
        self.emb_fourier = MPFourier(noise)
        self.emb_noise = MPConv(noise, emb, [])
        self.emb_label = MPConv(label_dim, emb, []) if label_dim else None

        attended, kept = set(attn_resolutions), []
        self.enc, self.dec = nn.ModuleDict(), nn.ModuleDict()
        here = widths[0]
        for level, width in enumerate(widths):
            side = img_resolution >> level
            name = f"{side}x{side}"
            if level == 0:
                self.enc[f"{name}_conv"] = MPConv(img_channels + 1, here, [3, 3])
            else:
                self.enc[f"{name}_down"] = Block(here, here, emb, "enc", "down", **block_kwargs)
            kept.append(here)
            for i in range(num_blocks):
                self.enc[f"{name}_block{i}"] = Block(
                    here, width, emb, "enc", attention=side in attended, **block_kwargs
                )
                here = width
                kept.append(here)
        for level, width in reversed(list(enumerate(widths))):
            side = img_resolution >> level
            name = f"{side}x{side}"
            if level == len(widths) - 1:
                self.dec[f"{name}_in0"] = Block(here, here, emb, "dec", attention=True, **block_kwargs)
                self.dec[f"{name}_in1"] = Block(here, here, emb, "dec", **block_kwargs)
            else:
                self.dec[f"{name}_up"] = Block(here, here, emb, "dec", "up", **block_kwargs)
            for i in range(num_blocks + 1):
                self.dec[f"{name}_block{i}"] = Block(
                    here + kept.pop(), width, emb, "dec", attention=side in attended, **block_kwargs
                )
                here = width
        self.out_conv = MPConv(here, img_channels, [3, 3])

    def forward(self, x: Tensor, noise_labels: Tensor, class_labels: Tensor | None) -> Tensor:
        """[B, C, R, R] of x [B, C, R, R], noise labels [B], class labels [B or 1, label_dim]."""
        emb = self.emb_noise(self.emb_fourier(noise_labels))
        if self.emb_label is not None:
            if class_labels is None:
                raise UserError("this UNet has classes: give class_labels, zeros for no class")
            told = self.emb_label(class_labels * math.sqrt(class_labels.shape[1]))
            emb = mp_sum(emb, told, t=self.label_balance)
        emb = mp_silu(emb)
        x, kept = torch.cat([x, torch.ones_like(x[:, :1])], 1), []  # a channel of ones stands in for biases
        for part in self.enc.values():
            x = part(x, emb) if isinstance(part, Block) else part(x)
            kept.append(x)
        for name, part in self.dec.items():
            if "block" in name:
                x = mp_cat(x, kept.pop(), t=self.concat_balance)
            x = part(x, emb)
        return self.out_conv(x, gain=self.out_gain)


class Precond(nn.Module):
    """EDM's preconditioning around ``UNet``, with a head for the uncertainty of each noise level (section 2.1).

    Args:
        logvar_channels: Fourier features of that head. unet_kwargs: of ``UNet`` and ``Block``.
    """

    sigma_min, sigma_max = 0.0, math.inf

    def __init__(
        self,
        img_resolution: int,
        img_channels: int,
        label_dim: int,
        use_fp16: bool = True,
        sigma_data: float = 0.5,
        logvar_channels: int = 128,
        **unet_kwargs: Any,
    ):
        super().__init__()
        self.img_resolution, self.img_channels, self.label_dim = img_resolution, img_channels, label_dim
        self.use_fp16, self.sigma_data = use_fp16, sigma_data
        self.unet = UNet(img_resolution, img_channels, label_dim, **unet_kwargs)
        self.logvar_fourier = MPFourier(logvar_channels)
        self.logvar_linear = MPConv(logvar_channels, 1, [])

    def forward(
        self,
        x: Tensor,
        sigma: Tensor,
        class_labels: Tensor | None = None,
        force_fp32: bool = False,
        return_logvar: bool = False,
        **unet_kwargs: Any,
    ) -> Tensor | tuple[Tensor, Tensor]:
        """Denoised [B, C, R, R] in float32; with ``return_logvar`` also log variances [B, 1, 1, 1].

        Args:
            x: [B, C, R, R]. sigma: [B] or one number. class_labels: [B or 1, label_dim]; None is all zero.
            force_fp32: no half precision on CUDA.
        """
        single = torch.float64 if self.unet.out_gain.dtype == torch.float64 else torch.float32
        x, sigma = x.to(single), torch.as_tensor(sigma, device=x.device).to(single).reshape(-1, 1, 1, 1)
        labels = label_rows(class_labels, self.label_dim, x)
        total = sigma**2 + self.sigma_data**2
        c_noise = sigma.flatten().log() / 4
        half = self.use_fp16 and not force_fp32 and half_allowed(x)
        seen = (x / total.sqrt()).to(torch.float16 if half else single)
        raw = self.unet(seen, c_noise, labels, **unet_kwargs).to(single)
        denoised = self.sigma_data**2 / total * x + sigma * self.sigma_data / total.sqrt() * raw
        if not return_logvar:
            return denoised
        return denoised, self.logvar_linear(self.logvar_fourier(c_noise)).reshape(-1, 1, 1, 1)
