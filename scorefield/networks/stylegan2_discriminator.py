"""StyleGAN2's discriminator in plain torch (arXiv:1912.04958, arXiv:2006.06676), for training a GAN from scratch."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from scorefield.errors import UserError
from scorefield.networks.resample import downsample2d, make_filter
from scorefield.networks.style_layers import FIR, Conv2dLayer, FullyConnectedLayer, half_allowed
from scorefield.networks.stylegan2 import channels_at, half_from, resolutions
from scorefield.networks.stylegan2_mapping import MappingNetwork


class DiscriminatorBlock(nn.Module):
    """One resolution of the discriminator; halves the side.

    Args:
        in_channels: 0 for the first block. tmp_channels: within. out_channels: after it.
        first_layer_idx, freeze_layers: layers numbered below ``freeze_layers`` keep their weights as buffers.
    """

    def __init__(
        self,
        in_channels: int,
        tmp_channels: int,
        out_channels: int,
        resolution: int,
        img_channels: int,
        first_layer_idx: int = 0,
        architecture: str = "resnet",
        activation: str = "lrelu",
        resample_filter: Sequence[float] = FIR,
        conv_clamp: float | None = None,
        use_fp16: bool = False,
        freeze_layers: int = 0,
    ):
        super().__init__()
        self.in_channels, self.resolution, self.img_channels = in_channels, resolution, img_channels
        self.architecture, self.use_fp16 = architecture, use_fp16
        self.register_buffer("resample_filter", make_filter(resample_filter))
        self.num_layers = 0

        def trainable() -> bool:
            self.num_layers += 1
            return first_layer_idx + self.num_layers > freeze_layers

        same = {"activation": activation, "conv_clamp": conv_clamp}
        halving = {"down": 2, "resample_filter": resample_filter}
        if in_channels == 0 or architecture == "skip":
            self.fromrgb = Conv2dLayer(img_channels, tmp_channels, 1, trainable=trainable(), **same)
        self.conv0 = Conv2dLayer(tmp_channels, tmp_channels, 3, trainable=trainable(), **same)
        self.conv1 = Conv2dLayer(tmp_channels, out_channels, 3, trainable=trainable(), **halving, **same)
        if architecture == "resnet":
            self.skip = Conv2dLayer(tmp_channels, out_channels, 1, bias=False, trainable=trainable(), **halving)

    def forward(self, x: Tensor | None, img: Tensor | None, force_fp32: bool = False) -> tuple[Tensor, Tensor | None]:
        """Features [B, out, R/2, R/2] and, for architecture "skip", the picture at half the side."""
        given = img if x is None else x
        single = self.resample_filter.dtype
        dtype = torch.float16 if self.use_fp16 and half_allowed(given) and not force_fp32 else single
        x = None if x is None else x.to(dtype)
        if self.in_channels == 0 or self.architecture == "skip":
            img = img.to(dtype)
            rgb = self.fromrgb(img)
            x = rgb if x is None else x + rgb
            img = downsample2d(img, self.resample_filter) if self.architecture == "skip" else None
        if self.architecture == "resnet":
            bypass = self.skip(x, gain=math.sqrt(0.5))
            return bypass + self.conv1(self.conv0(x), gain=math.sqrt(0.5)), img
        return self.conv1(self.conv0(x)), img


class MinibatchStdLayer(nn.Module):
    """Appends the deviation within groups of samples as extra channels (Karras et al. 2018, arXiv:1710.10196).

    Sample i belongs to the group of samples with the same i modulo (batch / group size).
    """

    def __init__(self, group_size: int | None, num_channels: int = 1):
        super().__init__()
        self.group_size, self.num_channels = group_size, num_channels

    def forward(self, x: Tensor) -> Tensor:
        batch, channels, height, width = x.shape
        members = batch if self.group_size is None else min(self.group_size, batch)
        if batch % members:
            raise UserError(f"a batch of {batch} does not divide into groups of {members} (mbstd_group_size)")
        groups = x.reshape(members, -1, self.num_channels, channels // self.num_channels, height, width)
        spread = ((groups - groups.mean(0)).square().mean(0) + 1e-8).sqrt().mean((2, 3, 4))
        extra = spread.repeat(members, 1)[:, :, None, None].expand(-1, -1, height, width)
        return torch.cat([x, extra], 1)


class DiscriminatorEpilogue(nn.Module):
    """From 4x4 features to one number, or to the product with the mapped label (projection)."""

    def __init__(
        self,
        in_channels: int,
        cmap_dim: int,
        resolution: int,
        img_channels: int,
        architecture: str = "resnet",
        mbstd_group_size: int | None = 4,
        mbstd_num_channels: int = 1,
        activation: str = "lrelu",
        conv_clamp: float | None = None,
    ):
        super().__init__()
        self.cmap_dim, self.architecture = cmap_dim, architecture
        if architecture == "skip":
            self.fromrgb = Conv2dLayer(img_channels, in_channels, 1, activation=activation)
        self.mbstd = MinibatchStdLayer(mbstd_group_size, mbstd_num_channels) if mbstd_num_channels > 0 else None
        self.conv = Conv2dLayer(
            in_channels + mbstd_num_channels, in_channels, 3, activation=activation, conv_clamp=conv_clamp
        )
        self.fc = FullyConnectedLayer(in_channels * resolution**2, in_channels, activation=activation)
        self.out = FullyConnectedLayer(in_channels, cmap_dim or 1)

    def forward(self, x: Tensor, img: Tensor | None, cmap: Tensor | None) -> Tensor:
        single = self.fc.weight.dtype
        x = x.to(single)
        if self.architecture == "skip":
            x = x + self.fromrgb(img.to(single))
        if self.mbstd is not None:
            x = self.mbstd(x)
        x = self.out(self.fc(self.conv(x).flatten(1)))
        if self.cmap_dim:
            x = (x * cmap).sum(1, keepdim=True) / math.sqrt(self.cmap_dim)
        return x


class Discriminator(nn.Module):
    """Logits [B, 1] that pictures [B, img_channels, R, R] (of labels [B, c_dim]) are real.

    Args:
        cmap_dim: width of the mapped label, by default the channels at 4x4.
        block_kwargs, mapping_kwargs, epilogue_kwargs: of the parts.
    """

    def __init__(
        self,
        c_dim: int,
        img_resolution: int,
        img_channels: int,
        architecture: str = "resnet",
        channel_base: int = 32768,
        channel_max: int = 512,
        num_fp16_res: int = 0,
        conv_clamp: float | None = None,
        cmap_dim: int | None = None,
        block_kwargs: Mapping[str, Any] | None = None,
        mapping_kwargs: Mapping[str, Any] | None = None,
        epilogue_kwargs: Mapping[str, Any] | None = None,
    ):
        super().__init__()
        self.c_dim, self.img_resolution, self.img_channels = c_dim, img_resolution, img_channels
        self.block_resolutions = resolutions(img_resolution, architecture)[:0:-1]
        half, layers, previous = half_from(img_resolution, num_fp16_res), 0, 0
        bottom = channels_at(4, channel_base, channel_max)
        cmap_dim = 0 if c_dim == 0 else (bottom if cmap_dim is None else cmap_dim)
        common = {"img_channels": img_channels, "architecture": architecture, "conv_clamp": conv_clamp}
        for resolution in self.block_resolutions:
            block = DiscriminatorBlock(
                previous,
                channels_at(resolution, channel_base, channel_max),
                channels_at(resolution // 2, channel_base, channel_max),
                resolution=resolution,
                first_layer_idx=layers,
                use_fp16=resolution >= half,
                **(block_kwargs or {}),
                **common,
            )
            previous, layers = channels_at(resolution // 2, channel_base, channel_max), layers + block.num_layers
            self.add_module(f"b{resolution}", block)
        if c_dim > 0:
            options = {"w_avg_beta": None, **(mapping_kwargs or {})}
            self.mapping = MappingNetwork(0, c_dim, cmap_dim, num_ws=None, **options)
        self.b4 = DiscriminatorEpilogue(bottom, cmap_dim, resolution=4, **(epilogue_kwargs or {}), **common)

    def forward(self, img: Tensor, c: Tensor | None = None, force_fp32: bool = False) -> Tensor:
        expected = (self.img_channels, self.img_resolution, self.img_resolution)
        if tuple(img.shape[1:]) != expected:
            raise UserError(f"the discriminator was made for pictures {list(expected)}, got {list(img.shape[1:])}")
        x, rest = None, img.to(self.b4.fc.weight.dtype)
        for resolution in self.block_resolutions:
            x, rest = self.get_submodule(f"b{resolution}")(x, rest, force_fp32)
        cmap = self.mapping(None, c) if self.c_dim > 0 else None
        return self.b4(x, rest, cmap)
