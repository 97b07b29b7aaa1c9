"""Layers with equalised learning rate and modulated convolutions (StyleGAN2, arXiv:1912.04958; ADA, arXiv:2006.06676).

Parameter, buffer and attribute names are those of the published checkpoints.
"""

import math
from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from scorefield.errors import UserError, suggest
from scorefield.networks.fresh import fresh
from scorefield.networks.resample import make_filter, resampled_conv2d

FIR = (1, 3, 3, 1)


class Activation(NamedTuple):
    """A nonlinearity and the gain that gives back unit variance."""

    apply: Callable[[Tensor], Tensor]
    gain: float


ACTIVATIONS = {
    "linear": Activation(lambda x: x, 1.0),
    "relu": Activation(F.relu, math.sqrt(2)),
    "lrelu": Activation(lambda x: F.leaky_relu(x, 0.2), math.sqrt(2)),
    "tanh": Activation(torch.tanh, 1.0),
    "sigmoid": Activation(torch.sigmoid, 1.0),
    "elu": Activation(F.elu, 1.0),
    "selu": Activation(F.selu, 1.0),
    "softplus": Activation(F.softplus, 1.0),
    "swish": Activation(F.silu, math.sqrt(2)),
}


def activation_gain(name: str) -> float:
    """Gain of an activation; raises UserError for an unknown name."""
    if name not in ACTIVATIONS:
        raise UserError(f'unknown activation "{name}": {suggest(str(name), ACTIVATIONS)}')
    return ACTIVATIONS[name].gain


def half_allowed(x: Tensor) -> bool:
    """Whether half precision is worth its rounding where ``x`` lies: on CUDA only."""
    return x.is_cuda


def biased(
    x: Tensor, bias: Tensor | None, activation: str, gain: float | None = None, clamp: float | None = None
) -> Tensor:
    """clamp(gain * activation(x + bias)), bias along axis 1; ``gain`` None is the activation's own."""
    if bias is not None:
        x = x + bias.to(x.dtype).view(1, -1, *[1] * (x.ndim - 2))
    x = ACTIVATIONS[activation].apply(x)
    gain = ACTIVATIONS[activation].gain if gain is None else gain
    if gain != 1:
        x = x * gain
    return x if clamp is None else x.clamp(-clamp, clamp)


def unit_moment(x: Tensor, dim: int = 1, eps: float = 1e-8) -> Tensor:
    """``x`` divided by its root mean square along ``dim``."""
    return x * (x.square().mean(dim, keepdim=True) + eps).rsqrt()


class FullyConnectedLayer(nn.Module):
    """Linear layer whose stored weight is N(0, 1) / lr_multiplier; the scale to unit variance is applied at run time.

    Shapes: [B, in] to [B, out].
    """

    def __init__(
        self,
        in_features: int,
        out_features: int,
        bias: bool = True,
        activation: str = "linear",
        lr_multiplier: float = 1.0,
        bias_init: float = 0.0,
    ):
        super().__init__()
        activation_gain(activation)
        self.in_features, self.out_features, self.activation = in_features, out_features, activation
        shape = (out_features, in_features)
        self.weight = nn.Parameter(fresh(shape, lambda: torch.randn(shape) / lr_multiplier))
        self.bias = nn.Parameter(torch.full((out_features,), float(bias_init))) if bias else None
        self.weight_gain = lr_multiplier / math.sqrt(in_features)
        self.bias_gain = lr_multiplier

    def forward(self, x: Tensor) -> Tensor:
        weight = self.weight.to(x.dtype) * self.weight_gain
        bias = None if self.bias is None else self.bias.to(x.dtype) * self.bias_gain
        if self.activation == "linear":
            return F.linear(x, weight, bias)
        return biased(F.linear(x, weight), bias, self.activation)


class Conv2dLayer(nn.Module):
    """Convolution with equalised learning rate, FIR resampling, bias, activation and clamp.

    ``trainable`` False keeps weight and bias as buffers (layers frozen for transfer learning).
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int,
        bias: bool = True,
        activation: str = "linear",
        up: int = 1,
        down: int = 1,
        resample_filter: Sequence[float] = FIR,
        conv_clamp: float | None = None,
        trainable: bool = True,
    ):
        super().__init__()
        self.in_channels, self.out_channels = in_channels, out_channels
        self.activation, self.up, self.down, self.conv_clamp = activation, up, down, conv_clamp
        self.padding = kernel_size // 2
        self.weight_gain = 1 / math.sqrt(in_channels * kernel_size**2)
        self.act_gain = activation_gain(activation)
        self.register_buffer("resample_filter", make_filter(resample_filter))
        shape = (out_channels, in_channels, kernel_size, kernel_size)
        weight = fresh(shape, lambda: torch.randn(shape))
        offset = torch.zeros(out_channels) if bias else None
        if trainable:
            self.weight = nn.Parameter(weight)
            self.bias = nn.Parameter(offset) if offset is not None else None
        else:
            self.register_buffer("weight", weight)
            self.register_buffer("bias", offset)

    def forward(self, x: Tensor, gain: float = 1.0) -> Tensor:
        weight = (self.weight * self.weight_gain).to(x.dtype)
        x = resampled_conv2d(x, weight, self.resample_filter, up=self.up, down=self.down, padding=self.padding)
        clamp = None if self.conv_clamp is None else self.conv_clamp * gain
        return biased(x, self.bias, self.activation, self.act_gain * gain, clamp)


def modulated_conv2d(
    x: Tensor,
    weight: Tensor,
    styles: Tensor,
    noise: Tensor | None = None,
    up: int = 1,
    padding: int = 0,
    kernel: Tensor | None = None,
    demodulate: bool = True,
    fused_modconv: bool = True,
) -> Tensor:
    """Convolution whose input channels are scaled per sample (StyleGAN2 section 2.2).

    With ``demodulate`` each sample's output channels are divided by the norm of their scaled weights (eps 1e-8).

    Args:
        x: [B, I, H, W]. weight: [O, I, k, k]. styles: [B, I]. noise: broadcastable to the output, added last.
        kernel: resampling filter for ``up`` > 1.
        fused_modconv: one grouped convolution with B copies of the weight; else one plain convolution with ``x`` scaled
            before and after. Both give the same numbers; the second needs less memory in training.
    """
    batch, (out, inner, *size) = len(x), weight.shape
    if x.dtype == torch.float16 and demodulate:  # demodulation cancels both factors; sums of squares stay in range
        largest = weight.abs().amax((1, 2, 3), keepdim=True)
        weight = weight * (1 / math.sqrt(weight[0].numel()) / largest)
        styles = styles / styles.abs().amax(1, keepdim=True)
    demodulation = None
    if demodulate:  # norm of the scaled weight, without making a copy of the weight for each sample
        demodulation = (styles.square() @ weight.square().sum((2, 3)).T + 1e-8).rsqrt()
    if fused_modconv:
        scaled = weight[None] * styles[:, None, :, None, None]
        if demodulation is not None:
            scaled = scaled * demodulation[:, :, None, None, None]
        merged = scaled.reshape(batch * out, inner, *size).to(x.dtype)
        x = resampled_conv2d(x.reshape(1, -1, *x.shape[2:]), merged, kernel, up=up, padding=padding, groups=batch)
        x = x.reshape(batch, out, *x.shape[2:])
    else:
        x = x * styles.to(x.dtype)[:, :, None, None]
        x = resampled_conv2d(x, weight.to(x.dtype), kernel, up=up, padding=padding)
        if demodulation is not None:
            x = x * demodulation.to(x.dtype)[:, :, None, None]
    return x if noise is None else x + noise.to(x.dtype)
