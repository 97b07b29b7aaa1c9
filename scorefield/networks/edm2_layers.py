"""Magnitude-preserving layers of EDM2 (Karras et al. 2024, arXiv:2312.02696): unit variance in, unit variance out.

There are no biases and no norms; weights are normalised to unit length where they are used. Parameter and
buffer names are those of the published checkpoints.
"""

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from scorefield.errors import UserError, suggest
from scorefield.networks.fresh import fresh
from scorefield.networks.resample import upfirdn2d

RESAMPLE_MODES = ("keep", "down", "up")
FLAVORS = ("enc", "dec")


def normalize(x: Tensor, dim: int | Sequence[int] | None = None, eps: float = 1e-4) -> Tensor:
    """``x`` with unit root mean square over ``dim`` (all but the first axis by default); eq 66 of the paper."""
    axes = list(range(1, x.ndim)) if dim is None else dim
    wide = torch.float64 if x.dtype == torch.float64 else torch.float32
    norm = torch.linalg.vector_norm(x, dim=axes, keepdim=True, dtype=wide)
    norm = eps + norm * math.sqrt(norm.numel() / x.numel())
    return x / norm.to(x.dtype)


def resample(x: Tensor, taps: Sequence[float] = (1, 1), mode: str = "keep") -> Tensor:
    """Double ("up"), halve ("down") or keep the side of [B, C, H, W] with the separable filter ``taps``."""
    if mode == "keep":
        return x
    size = len(taps)
    pad = (size - 1) // 2
    if size == 2 and taps[0] == taps[1]:
        return F.avg_pool2d(x, 2) if mode == "down" else x.repeat_interleave(2, 2).repeat_interleave(2, 3)
    line = torch.tensor(taps, dtype=torch.float32, device=x.device)
    kernel = torch.outer(line, line) / line.sum().square()
    if mode == "down":
        return upfirdn2d(x, kernel, down=2, padding=pad, flip_filter=True)
    before, after = size - 1 - pad, size - 2 - pad
    return upfirdn2d(x, kernel, up=2, padding=(before, after, before, after), gain=4)


def mp_silu(x: Tensor) -> Tensor:
    """SiLU over the root mean square that it has for a standard normal input (eq 81)."""
    return F.silu(x) / 0.596


def mp_sum(a: Tensor, b: Tensor, t: float = 0.5) -> Tensor:
    """Blend of ``a`` (weight 1 - t) and ``b`` (weight t) with the magnitude of uncorrelated parts kept (eq 88)."""
    return a.lerp(b, t) / math.sqrt((1 - t) ** 2 + t**2)


def mp_cat(a: Tensor, b: Tensor, dim: int = 1, t: float = 0.5) -> Tensor:
    """Concatenation with ``b`` contributing the share ``t`` whatever the numbers of channels (eq 103)."""
    first, second = a.shape[dim], b.shape[dim]
    scale = math.sqrt((first + second) / ((1 - t) ** 2 + t**2))
    return torch.cat([a * (scale * (1 - t) / math.sqrt(first)), b * (scale * t / math.sqrt(second))], dim)


class MPFourier(nn.Module):
    """Random Fourier features of ``x`` [B]: sqrt(2) cos(freqs x + phases), [B, C] (eq 75)."""

    def __init__(self, num_channels: int, bandwidth: float = 1.0):
        super().__init__()
        self.register_buffer("freqs", 2 * math.pi * torch.randn(num_channels) * bandwidth)
        self.register_buffer("phases", 2 * math.pi * torch.rand(num_channels))

    def forward(self, x: Tensor) -> Tensor:
        wide = self.freqs.dtype if self.freqs.dtype == torch.float64 else torch.float32
        angles = x.to(wide)[:, None] * self.freqs.to(wide) + self.phases.to(wide)
        return (angles.cos() * math.sqrt(2)).to(x.dtype)


class MPConv(nn.Module):
    """Convolution, or linear map for ``kernel`` [], with the weights of each output at unit length (eq 47 and 66).

    In train mode a forward first replaces the stored weight by its normalised self (forced weight normalisation,
    section 2.3), so that updates keep their relative size.
    """

    def __init__(self, in_channels: int, out_channels: int, kernel: Sequence[int]):
        super().__init__()
        self.out_channels = out_channels
        shape = (out_channels, in_channels, *kernel)
        self.weight = nn.Parameter(fresh(shape, lambda: torch.randn(shape)))

    def forward(self, x: Tensor, gain: float | Tensor = 1.0) -> Tensor:
        if self.training:
            # not through autograd's eyes: a second forward before the backward leaves the weight as it is
            self.weight.data.copy_(normalize(self.weight.data))
        weight = normalize(self.weight if self.weight.dtype == torch.float64 else self.weight.float())
        weight = (weight * (gain / math.sqrt(weight[0].numel()))).to(x.dtype)
        if weight.ndim == 2:
            return F.linear(x, weight)
        return F.conv2d(x, weight, padding=weight.shape[-1] // 2)


class Block(nn.Module):
    """Encoder or decoder block with an embedding as scale and optional cosine attention (figure 21).

    Args:
        flavor: "enc" normalises the input's pixels and projects it first, "dec" projects on the bypass only.
        res_balance, attn_balance: share of the residual branch and of the attention in their sums.
        clip_act: activations are clipped there at the end; None for no clip.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        emb_channels: int,
        flavor: str = "enc",
        resample_mode: str = "keep",
        resample_filter: Sequence[float] = (1, 1),
        attention: bool = False,
        channels_per_head: int = 64,
        dropout: float = 0.0,
        res_balance: float = 0.3,
        attn_balance: float = 0.3,
        clip_act: float | None = 256,
    ):
        super().__init__()
        if flavor not in FLAVORS or resample_mode not in RESAMPLE_MODES:
            known = suggest(str(flavor), FLAVORS) if flavor not in FLAVORS else suggest(resample_mode, RESAMPLE_MODES)
            raise UserError(f'block of flavor "{flavor}", resample_mode "{resample_mode}": {known}')
        self.out_channels, self.flavor = out_channels, flavor
        self.resample_mode, self.resample_filter = resample_mode, list(resample_filter)
        self.num_heads = out_channels // channels_per_head if attention else 0
        self.dropout, self.clip_act = dropout, clip_act
        self.res_balance, self.attn_balance = res_balance, attn_balance
        self.emb_gain = nn.Parameter(torch.zeros(()))
        self.conv_res0 = MPConv(out_channels if flavor == "enc" else in_channels, out_channels, [3, 3])
        self.emb_linear = MPConv(emb_channels, out_channels, [])
        self.conv_res1 = MPConv(out_channels, out_channels, [3, 3])
        self.conv_skip = MPConv(in_channels, out_channels, [1, 1]) if in_channels != out_channels else None
        self.attn_qkv = MPConv(out_channels, out_channels * 3, [1, 1]) if self.num_heads else None
        self.attn_proj = MPConv(out_channels, out_channels, [1, 1]) if self.num_heads else None

    def forward(self, x: Tensor, emb: Tensor) -> Tensor:
        """[B, in, H, W] and emb [B, emb] to [B, out, H', W']."""
        x = resample(x, self.resample_filter, self.resample_mode)
        if self.flavor == "enc":
            x = normalize(x if self.conv_skip is None else self.conv_skip(x), dim=1)
        y = self.conv_res0(mp_silu(x))
        scale = self.emb_linear(emb, gain=self.emb_gain) + 1
        y = mp_silu(y * scale[:, :, None, None].to(y.dtype))
        y = self.conv_res1(F.dropout(y, self.dropout) if self.training and self.dropout else y)
        if self.flavor == "dec" and self.conv_skip is not None:
            x = self.conv_skip(x)
        x = mp_sum(x, y, t=self.res_balance)
        if self.attn_qkv is not None and self.attn_proj is not None:
            x = mp_sum(x, self.attn_proj(self._attend(self.attn_qkv(x))), t=self.attn_balance)
        return x if self.clip_act is None else x.clamp(-self.clip_act, self.clip_act)

    def _attend(self, qkv: Tensor) -> Tensor:
        """Attention over pixels with q, k and v at unit length; channels are stored head by head."""
        batch, triple, height, width = qkv.shape
        parts = qkv.reshape(batch, self.num_heads, -1, 3, height * width)
        q, k, v = (part.transpose(2, 3) for part in normalize(parts, dim=2).unbind(3))
        attended = F.scaled_dot_product_attention(q, k, v)
        return attended.transpose(2, 3).reshape(batch, triple // 3, height, width)
