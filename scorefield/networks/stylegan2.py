"""StyleGAN2's generator in plain torch (arXiv:1912.04958, arXiv:2006.06676), for the published weights.

Two dialects of the same network exist. The stylegan2-ada one nests ``synthesis_kwargs``, has every block in
float32 and no clamp by default, and follows the mean latent w_avg while training. The stylegan3 one takes the
synthesis options flat, runs the four highest resolutions in half precision with a clamp at 256 by default, and
follows w_avg on request only. ``scorefield.networks.build`` takes the keyword arguments of either.
"""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from scorefield.errors import UserError, suggest
from scorefield.networks.fresh import fresh
from scorefield.networks.resample import make_filter, upsample2d
from scorefield.networks.style_layers import (
    FIR,
    Conv2dLayer,
    FullyConnectedLayer,
    activation_gain,
    biased,
    half_allowed,
    modulated_conv2d,
)
from scorefield.networks.stylegan2_mapping import MappingNetwork

ARCHITECTURES = ("orig", "skip", "resnet")
NOISE_MODES = ("random", "const", "none")


def resolutions(img_resolution: int, architecture: str) -> list[int]:
    """4, 8, … up to ``img_resolution``; raises UserError unless it is a power of two from 4 on."""
    if img_resolution < 4 or img_resolution & (img_resolution - 1):
        raise UserError(f"img_resolution must be a power of two and at least 4, not {img_resolution}")
    if architecture not in ARCHITECTURES:
        raise UserError(f'unknown architecture "{architecture}": {suggest(str(architecture), ARCHITECTURES)}')
    return [2**i for i in range(2, img_resolution.bit_length())]


def channels_at(resolution: int, channel_base: int, channel_max: int) -> int:
    """Feature maps at one resolution."""
    return min(channel_base // resolution, channel_max)


def half_from(img_resolution: int, num_fp16_res: int) -> int:
    """Lowest resolution that runs in half precision on CUDA; 4 and the results of 0 blocks never do."""
    return max(2 * img_resolution // 2**num_fp16_res, 8)


class SynthesisLayer(nn.Module):
    """Modulated convolution, noise, bias, activation, clamp."""

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        w_dim: int,
        resolution: int,
        kernel_size: int = 3,
        up: int = 1,
        use_noise: bool = True,
        activation: str = "lrelu",
        resample_filter: Sequence[float] = FIR,
        conv_clamp: float | None = None,
    ):
        super().__init__()
        self.resolution, self.up, self.use_noise, self.activation = resolution, up, use_noise, activation
        self.conv_clamp, self.padding, self.act_gain = conv_clamp, kernel_size // 2, activation_gain(activation)
        self.register_buffer("resample_filter", make_filter(resample_filter))
        self.affine = FullyConnectedLayer(w_dim, in_channels, bias_init=1)
        shape = (out_channels, in_channels, kernel_size, kernel_size)
        self.weight = nn.Parameter(fresh(shape, lambda: torch.randn(shape)))
        if use_noise:
            self.register_buffer("noise_const", torch.randn(resolution, resolution))
            self.noise_strength = nn.Parameter(torch.zeros(()))
        self.bias = nn.Parameter(torch.zeros(out_channels))

    def _noise(self, x: Tensor, mode: str, given: Tensor | None) -> Tensor | None:
        if not self.use_noise or mode == "none":
            return None
        if mode == "const":
            return self.noise_const * self.noise_strength
        if given is None:
            given = torch.randn(len(x), 1, self.resolution, self.resolution, device=x.device)
        return given * self.noise_strength

    def forward(
        self,
        x: Tensor,
        w: Tensor,
        noise_mode: str = "random",
        fused_modconv: bool = True,
        gain: float = 1.0,
        noise: Tensor | None = None,
    ) -> Tensor:
        """[B, out, up H, up W]; ``noise`` [B, 1, R, R] replaces the draw of mode "random"."""
        x = modulated_conv2d(
            x,
            self.weight,
            self.affine(w),
            noise=self._noise(x, noise_mode, noise),
            up=self.up,
            padding=self.padding,
            kernel=self.resample_filter,
            fused_modconv=fused_modconv,
        )
        clamp = None if self.conv_clamp is None else self.conv_clamp * gain
        return biased(x, self.bias, self.activation, self.act_gain * gain, clamp)


class ToRGBLayer(nn.Module):
    """Modulated convolution to the picture's channels, without demodulation."""

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        w_dim: int,
        kernel_size: int = 1,
        conv_clamp: float | None = None,
    ):
        super().__init__()
        self.conv_clamp, self.padding = conv_clamp, kernel_size // 2
        self.affine = FullyConnectedLayer(w_dim, in_channels, bias_init=1)
        shape = (out_channels, in_channels, kernel_size, kernel_size)
        self.weight = nn.Parameter(fresh(shape, lambda: torch.randn(shape)))
        self.bias = nn.Parameter(torch.zeros(out_channels))
        self.weight_gain = 1 / math.sqrt(in_channels * kernel_size**2)

    def forward(self, x: Tensor, w: Tensor, fused_modconv: bool = True) -> Tensor:
        styles = self.affine(w) * self.weight_gain
        x = modulated_conv2d(
            x, self.weight, styles, padding=self.padding, demodulate=False, fused_modconv=fused_modconv
        )
        return biased(x, self.bias, "linear", clamp=self.conv_clamp)


class SynthesisBlock(nn.Module):
    """One resolution: (up-convolution,) convolution, and a contribution to the picture.

    ``in_channels`` 0 is the first block, which starts from a learned constant. ``layer_kwargs`` go to both
    convolutions (``kernel_size`` is theirs alone; the picture's convolution is 1x1).
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        w_dim: int,
        resolution: int,
        img_channels: int,
        is_last: bool,
        architecture: str = "skip",
        resample_filter: Sequence[float] = FIR,
        conv_clamp: float | None = None,
        use_fp16: bool = False,
        **layer_kwargs: Any,
    ):
        super().__init__()
        self.in_channels, self.resolution, self.is_last = in_channels, resolution, is_last
        self.architecture, self.use_fp16 = architecture, use_fp16
        self.num_conv, self.num_torgb = (1 if in_channels == 0 else 2), int(is_last or architecture == "skip")
        self.register_buffer("resample_filter", make_filter(resample_filter))
        if in_channels == 0:
            self.const = nn.Parameter(torch.randn(out_channels, resolution, resolution))
        shared = {"w_dim": w_dim, "resolution": resolution, "conv_clamp": conv_clamp, **layer_kwargs}
        if in_channels:
            self.conv0 = SynthesisLayer(in_channels, out_channels, up=2, resample_filter=resample_filter, **shared)
        self.conv1 = SynthesisLayer(out_channels, out_channels, **shared)
        if self.num_torgb:
            self.torgb = ToRGBLayer(out_channels, img_channels, w_dim, conv_clamp=conv_clamp)
        if in_channels and architecture == "resnet":
            self.skip = Conv2dLayer(
                in_channels, out_channels, kernel_size=1, bias=False, up=2, resample_filter=resample_filter
            )

    def forward(
        self,
        x: Tensor | None,
        img: Tensor | None,
        ws: Tensor,
        noise_mode: str = "random",
        force_fp32: bool = False,
        fused_modconv: bool | None = None,
        noise: Sequence[Tensor | None] = (None, None),
    ) -> tuple[Tensor, Tensor | None]:
        """Features [B, C, R, R] and picture so far, from ws [B, num_conv + num_torgb, w_dim]."""
        single = ws.dtype
        dtype = torch.float16 if self.use_fp16 and half_allowed(ws) and not force_fp32 else single
        if fused_modconv is None:
            # as the official code, but for batches on a CPU, which grouped convolution makes four times slower
            fused_modconv = not self.training and (len(ws) == 1 or (dtype == single and ws.is_cuda))
        w = ws.unbind(1)
        if self.in_channels == 0:
            x = self.const.to(dtype).expand(len(ws), -1, -1, -1)
            x = self.conv1(x, w[0], noise_mode, fused_modconv, noise=noise[0])
        else:
            x, residual = x.to(dtype), math.sqrt(0.5) if self.architecture == "resnet" else 1.0
            bypass = self.skip(x, gain=residual) if self.architecture == "resnet" else None
            x = self.conv0(x, w[0], noise_mode, fused_modconv, noise=noise[0])
            x = self.conv1(x, w[1], noise_mode, fused_modconv, gain=residual, noise=noise[1])
            x = x if bypass is None else bypass + x
        if img is not None:
            img = upsample2d(img, self.resample_filter)
        if self.num_torgb:
            rgb = self.torgb(x, w[self.num_conv], fused_modconv).to(single)
            img = rgb if img is None else img + rgb
        return x, img


class SynthesisNetwork(nn.Module):
    """Pictures from intermediate latents.

    Args:
        channel_base, channel_max: feature maps at resolution R are min(channel_base // R, channel_max).
        num_fp16_res: that many highest resolutions run in half precision on CUDA.
        block_kwargs: of ``SynthesisBlock`` and ``SynthesisLayer``.
    """

    def __init__(
        self,
        w_dim: int,
        img_resolution: int,
        img_channels: int,
        channel_base: int = 32768,
        channel_max: int = 512,
        num_fp16_res: int = 0,
        **block_kwargs: Any,
    ):
        super().__init__()
        self.w_dim, self.img_resolution, self.img_channels = w_dim, img_resolution, img_channels
        self.block_resolutions = resolutions(img_resolution, block_kwargs.get("architecture", "skip"))
        half, self.num_ws, previous = half_from(img_resolution, num_fp16_res), 0, 0
        for resolution in self.block_resolutions:
            width = channels_at(resolution, channel_base, channel_max)
            block = SynthesisBlock(
                previous,
                width,
                w_dim=w_dim,
                resolution=resolution,
                img_channels=img_channels,
                is_last=resolution == img_resolution,
                use_fp16=resolution >= half,
                **block_kwargs,
            )
            previous = width
            self.num_ws += block.num_conv + (block.num_torgb if block.is_last else 0)
            self.add_module(f"b{resolution}", block)

    @property
    def blocks(self) -> list[SynthesisBlock]:
        """From the lowest resolution to the highest."""
        return [self.get_submodule(f"b{resolution}") for resolution in self.block_resolutions]  # type: ignore[misc]

    @property
    def noise_resolutions(self) -> list[int]:
        """Side of the noise map of each layer that takes noise, in the order of the layers."""
        return [b.resolution for b in self.blocks for _ in range(b.num_conv) if b.conv1.use_noise]

    def forward(
        self,
        ws: Tensor,
        noise_mode: str = "random",
        force_fp32: bool = False,
        fused_modconv: bool | None = None,
        noise: Sequence[Tensor] | None = None,
    ) -> Tensor:
        """Pictures [B, img_channels, R, R] in the dtype of the weights, not clamped, of ws [B, num_ws, w_dim].

        Args:
            noise_mode: "random", "const" (the stored maps) or "none".
            force_fp32: no half precision on CUDA.
            fused_modconv: see ``modulated_conv2d``; by default on in eval mode, but for batches on a CPU.
            noise: maps [B, 1, r, r] for ``noise_resolutions``, used by mode "random" instead of a draw.

        Raises:
            UserError: wrong shape of ``ws``, unknown noise mode, wrong number of maps.
        """
        if ws.ndim != 3 or ws.shape[1:] != (self.num_ws, self.w_dim):
            raise UserError(f"ws must have shape [batch, {self.num_ws}, {self.w_dim}], got {list(ws.shape)}")
        if noise_mode not in NOISE_MODES:
            raise UserError(f'unknown noise_mode "{noise_mode}": {suggest(str(noise_mode), NOISE_MODES)}')
        if noise is not None and len(noise) != len(self.noise_resolutions):
            raise UserError(f"noise needs {len(self.noise_resolutions)} maps, got {len(noise)}")
        ws = ws.to(self.b4.const.dtype)
        maps = iter(noise) if noise is not None else None
        x = img = None
        first = 0
        for block in self.blocks:
            some = [next(maps) if maps is not None and block.conv1.use_noise else None for _ in range(block.num_conv)]
            own = ws[:, first : first + block.num_conv + block.num_torgb]
            x, img = block(x, img, own, noise_mode, force_fp32, fused_modconv, some)
            first += block.num_conv
        return img


class Generator(nn.Module):
    """Mapping and synthesis: ``Generator(z, c)`` are pictures [B, img_channels, R, R], about [-1, 1], not clamped.

    Attributes:
        follow_w_avg: whether a forward in train mode updates w_avg (stylegan2-ada's habit) unless told otherwise.
    """

    def __init__(
        self,
        z_dim: int,
        c_dim: int,
        w_dim: int,
        img_resolution: int,
        img_channels: int,
        mapping_kwargs: Mapping[str, Any] | None = None,
        synthesis_kwargs: Mapping[str, Any] | None = None,
        follow_w_avg: bool = True,
    ):
        super().__init__()
        self.z_dim, self.c_dim, self.w_dim = z_dim, c_dim, w_dim
        self.img_resolution, self.img_channels, self.follow_w_avg = img_resolution, img_channels, follow_w_avg
        self.synthesis = SynthesisNetwork(w_dim, img_resolution, img_channels, **(synthesis_kwargs or {}))
        self.num_ws = self.synthesis.num_ws
        self.mapping = MappingNetwork(z_dim, c_dim, w_dim, self.num_ws, **(mapping_kwargs or {}))

    def forward(
        self,
        z: Tensor,
        c: Tensor | None = None,
        truncation_psi: float = 1.0,
        truncation_cutoff: int | None = None,
        update_w_avg: bool | None = None,
        **synthesis_kwargs: Any,
    ) -> Tensor:
        """See ``MappingNetwork.forward`` and ``SynthesisNetwork.forward``."""
        if update_w_avg is None:
            update_w_avg = self.training and self.follow_w_avg
        ws = self.mapping(z, c, truncation_psi, truncation_cutoff, update_w_avg)
        return self.synthesis(ws, **synthesis_kwargs)
