"""Layers shared by the DDPM++, NCSN++ and ADM U-Nets as EDM has them (Karras et al. 2022, arXiv:2206.00364).

Parameter, buffer and attribute names are those of the published checkpoints. Layers work in the dtype of
their input; weights follow it.
"""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from scorefield.errors import UserError, suggest
from scorefield.networks.fresh import fresh
from scorefield.networks.resample import upfirdn2d

# Deviation (or half width) of a weight with unit gain, from fan-in and fan-out.
INIT_SCALES = {
    "xavier_uniform": lambda fan_in, fan_out: math.sqrt(6 / (fan_in + fan_out)),
    "xavier_normal": lambda fan_in, fan_out: math.sqrt(2 / (fan_in + fan_out)),
    "kaiming_uniform": lambda fan_in, fan_out: math.sqrt(3 / fan_in),
    "kaiming_normal": lambda fan_in, fan_out: math.sqrt(1 / fan_in),
}


def initial(shape: Sequence[int], mode: str, fan_in: int, fan_out: int, gain: float) -> nn.Parameter:
    """A random parameter of ``shape``; raises UserError for an unknown ``mode``."""
    if mode not in INIT_SCALES:
        raise UserError(f'unknown init_mode "{mode}": {suggest(str(mode), INIT_SCALES)}')
    scale = INIT_SCALES[mode](fan_in, fan_out) * gain

    def draw() -> Tensor:
        return (torch.randn(*shape) if mode.endswith("normal") else torch.rand(*shape) * 2 - 1) * scale

    return nn.Parameter(fresh(shape, draw))


class Linear(nn.Module):
    """[B, in] to [B, out]."""

    def __init__(
        self,
        in_features: int,
        out_features: int,
        bias: bool = True,
        init_mode: str = "kaiming_normal",
        init_weight: float = 1.0,
        init_bias: float = 0.0,
    ):
        super().__init__()
        self.in_features, self.out_features = in_features, out_features
        fans = {"mode": init_mode, "fan_in": in_features, "fan_out": out_features}
        self.weight = initial([out_features, in_features], gain=init_weight, **fans)
        self.bias = initial([out_features], gain=init_bias, **fans) if bias else None

    def forward(self, x: Tensor) -> Tensor:
        return F.linear(x, self.weight.to(x.dtype), None if self.bias is None else self.bias.to(x.dtype))


class Conv2d(nn.Module):
    """Convolution that may double or halve the side; ``kernel`` 0 only resamples.

    ``fused_resample`` pads once for filter and weight together: the filter comes before the weight when doubling
    and after it when halving. Otherwise resampling comes first.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel: int,
        bias: bool = True,
        up: bool = False,
        down: bool = False,
        resample_filter: Sequence[float] = (1, 1),
        fused_resample: bool = False,
        init_mode: str = "kaiming_normal",
        init_weight: float = 1.0,
        init_bias: float = 0.0,
    ):
        super().__init__()
        self.in_channels, self.out_channels = in_channels, out_channels
        self.up, self.down, self.fused_resample = up, down, fused_resample
        fans = {"mode": init_mode, "fan_in": in_channels * kernel**2, "fan_out": out_channels * kernel**2}
        self.weight = self.bias = None
        if kernel:
            self.weight = initial([out_channels, in_channels, kernel, kernel], gain=init_weight, **fans)
        if kernel and bias:
            self.bias = initial([out_channels], gain=init_bias, **fans)
        taps = torch.as_tensor(resample_filter, dtype=torch.float32)
        outer = torch.outer(taps, taps)[None, None] / taps.sum().square()
        self.register_buffer("resample_filter", outer if up or down else None)
        self.box = len(taps) == 2 and resample_filter[0] == resample_filter[1]  # nearest and mean: no filter needed

    def _double(self, x: Tensor, padding: int) -> Tensor:
        """Zero-stuffed and convolved with four times the filter (a transposed convolution, written forwards)."""
        if self.box and padding == 0:
            return x.repeat_interleave(2, 2).repeat_interleave(2, 3)
        size = self.resample_filter.shape[-1]
        before, after = size - 1 - padding, size - 2 - padding
        return upfirdn2d(x, self.resample_filter[0, 0], up=2, padding=(before, after, before, after), gain=4)

    def _halve(self, x: Tensor, padding: int) -> Tensor:
        """Correlated with the filter, every second pixel kept."""
        if self.box and padding == 0:
            return F.avg_pool2d(x, 2)
        return upfirdn2d(x, self.resample_filter[0, 0], down=2, padding=padding, flip_filter=True)

    def forward(self, x: Tensor) -> Tensor:
        margin = 0 if self.weight is None else self.weight.shape[-1] // 2
        reach = (self.resample_filter.shape[-1] - 1) // 2 if self.up or self.down else 0
        fused = self.fused_resample and self.weight is not None
        if self.up:
            x = self._double(x, max(reach - margin, 0) if fused else reach)
            margin = max(margin - reach, 0) if fused else margin
        elif self.down and fused:
            margin += reach
        elif self.down:
            x = self._halve(x, reach)
        if self.weight is not None:
            x = F.conv2d(x, self.weight.to(x.dtype), padding=margin)
        if self.down and fused:
            x = self._halve(x, 0)
        return x if self.bias is None else x + self.bias.to(x.dtype).view(1, -1, 1, 1)


class GroupNorm(nn.Module):
    """Group normalisation with at least ``min_channels_per_group`` channels in a group."""

    def __init__(self, num_channels: int, num_groups: int = 32, min_channels_per_group: int = 4, eps: float = 1e-5):
        super().__init__()
        self.num_groups, self.eps = min(num_groups, num_channels // min_channels_per_group), eps
        self.weight = nn.Parameter(torch.ones(num_channels))
        self.bias = nn.Parameter(torch.zeros(num_channels))

    def forward(self, x: Tensor) -> Tensor:
        return F.group_norm(x, self.num_groups, self.weight.to(x.dtype), self.bias.to(x.dtype), self.eps)


class PositionalEmbedding(nn.Module):
    """Cosines then sines of ``x`` [B] at frequencies falling geometrically to 1 / max_positions: [B, C].

    With ``endpoint`` the last frequency is 1 / max_positions itself (DDPM++), else one step short of it (ADM).
    """

    def __init__(self, num_channels: int, max_positions: int = 10000, endpoint: bool = False):
        super().__init__()
        self.num_channels, self.max_positions, self.endpoint = num_channels, max_positions, endpoint

    def forward(self, x: Tensor) -> Tensor:
        half = self.num_channels // 2
        steps = torch.arange(half, dtype=torch.float32, device=x.device) / (half - int(self.endpoint))
        angles = x[:, None] * ((1 / self.max_positions) ** steps).to(x.dtype)
        return torch.cat([angles.cos(), angles.sin()], 1)


class FourierEmbedding(nn.Module):
    """Cosines then sines of ``x`` [B] at fixed random frequencies (NCSN++): [B, C]."""

    def __init__(self, num_channels: int, scale: float = 16.0):
        super().__init__()
        self.register_buffer("freqs", torch.randn(num_channels // 2) * scale)

    def forward(self, x: Tensor) -> Tensor:
        angles = x[:, None] * (2 * math.pi * self.freqs).to(x.dtype)
        return torch.cat([angles.cos(), angles.sin()], 1)


class UNetBlock(nn.Module):
    """Residual block with noise-level embedding and optional self-attention (EDM appendix F.2).

    Args:
        attention: add self-attention of ``num_heads``, or of one head per ``channels_per_head`` channels
            (fewer channels than that: no head, so no attention).
        skip_scale: factor after each sum. resample_proj: a 1x1 convolution on the bypass wherever it resamples.
        adaptive_scale: the embedding gives scale and shift after the second norm, else a shift before it.
        init, init_zero, init_attn: how weights start.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        emb_channels: int,
        up: bool = False,
        down: bool = False,
        attention: bool = False,
        num_heads: int | None = None,
        channels_per_head: int = 64,
        dropout: float = 0.0,
        skip_scale: float = 1.0,
        eps: float = 1e-5,
        resample_filter: Sequence[float] = (1, 1),
        resample_proj: bool = False,
        adaptive_scale: bool = True,
        init: Mapping[str, Any] | None = None,
        init_zero: Mapping[str, Any] | None = None,
        init_attn: Mapping[str, Any] | None = None,
    ):
        super().__init__()
        init, init_zero = init or {}, {"init_weight": 0} if init_zero is None else init_zero
        self.in_channels, self.out_channels, self.emb_channels = in_channels, out_channels, emb_channels
        heads = out_channels // channels_per_head if num_heads is None else num_heads
        self.num_heads = heads if attention else 0
        self.dropout, self.skip_scale, self.adaptive_scale = dropout, skip_scale, adaptive_scale
        side = {"up": up, "down": down, "resample_filter": resample_filter}
        self.norm0 = GroupNorm(in_channels, eps=eps)
        self.conv0 = Conv2d(in_channels, out_channels, kernel=3, **side, **init)
        self.affine = Linear(emb_channels, out_channels * (2 if adaptive_scale else 1), **init)
        self.norm1 = GroupNorm(out_channels, eps=eps)
        self.conv1 = Conv2d(out_channels, out_channels, kernel=3, **init_zero)
        self.skip = None
        if out_channels != in_channels or up or down:
            kernel = 1 if resample_proj or out_channels != in_channels else 0
            self.skip = Conv2d(in_channels, out_channels, kernel=kernel, **side, **init)
        if self.num_heads:
            self.norm2 = GroupNorm(out_channels, eps=eps)
            self.qkv = Conv2d(out_channels, out_channels * 3, kernel=1, **(init if init_attn is None else init_attn))
            self.proj = Conv2d(out_channels, out_channels, kernel=1, **init_zero)

    def forward(self, x: Tensor, emb: Tensor) -> Tensor:
        """[B, in, H, W] and emb [B, emb] to [B, out, H', W']."""
        h = self.conv0(F.silu(self.norm0(x)))
        told = self.affine(emb)[:, :, None, None].to(x.dtype)
        if self.adaptive_scale:
            scale, shift = told.chunk(2, 1)
            h = F.silu(shift + self.norm1(h) * (scale + 1))
        else:
            h = F.silu(self.norm1(h + told))
        h = self.conv1(F.dropout(h, self.dropout) if self.training and self.dropout else h)
        x = (h + (x if self.skip is None else self.skip(x))) * self.skip_scale
        if self.num_heads:
            x = (self.proj(self._attend(self.norm2(x))) + x) * self.skip_scale
        return x

    def _attend(self, x: Tensor) -> Tensor:
        """Self-attention over pixels; qkv channels are stored head by head, in a head channel by channel."""
        batch, channels, height, width = x.shape
        parts = self.qkv(x).reshape(batch, self.num_heads, channels // self.num_heads, 3, height * width)
        q, k, v = (part.transpose(2, 3) for part in parts.unbind(3))
        attended = F.scaled_dot_product_attention(q, k, v)
        return attended.transpose(2, 3).reshape(batch, channels, height, width)
