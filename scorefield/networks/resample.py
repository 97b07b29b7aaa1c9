"""Exact FIR resampling in plain torch: upsample, pad, filter, downsample (Karras et al. 2020, arXiv:1912.04958).

Filters are small tensors, [k, k] or, when separable and long, [k]; None is the identity.
"""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from scorefield.errors import UserError

SEPARABLE_TAPS = 8  # one-dimensional filters from this length on stay one-dimensional


def make_filter(taps: Sequence[float] | Tensor | None) -> Tensor:
    """A float32 filter that sums to one: [k, k] from fewer than 8 taps or from [k, k] values, else [k].

    Raises:
        UserError: empty, or more than two axes.
    """
    given = torch.as_tensor(1.0 if taps is None else taps, dtype=torch.float32)
    if given.ndim == 0:
        given = given[None]
    if given.ndim > 2 or given.numel() == 0:
        raise UserError(f"a resampling filter has one or two axes and at least one tap, not shape {list(given.shape)}")
    if given.ndim == 1 and len(given) < SEPARABLE_TAPS:
        given = torch.outer(given, given)
    return given / given.sum()


def _stuff(x: Tensor, up: int) -> Tensor:
    """Each pixel followed by ``up`` - 1 zeros along both axes."""
    batch, channels, height, width = x.shape
    stuffed = F.pad(x[:, :, :, None, :, None], (0, up - 1, 0, 0, 0, up - 1))
    return stuffed.reshape(batch, channels, height * up, width * up)


def _depthwise(x: Tensor, kernel: Tensor, stride: int | tuple[int, int]) -> Tensor:
    """Correlate every channel with ``kernel`` [kh, kw]."""
    channels = x.shape[1]
    weight = kernel.to(x.dtype).expand(channels, 1, *kernel.shape)
    return F.conv2d(x, weight, stride=stride, groups=channels)


def upfirdn2d(
    x: Tensor,
    kernel: Tensor | None,
    up: int = 1,
    down: int = 1,
    padding: int | Sequence[int] = 0,
    flip_filter: bool = False,
    gain: float = 1.0,
) -> Tensor:
    """Zero-stuff by ``up``, pad, convolve with ``kernel`` times ``gain``, keep every ``down``-th pixel.

    Args:
        x: [B, C, H, W]. kernel: from ``make_filter``.
        padding: one number, or (left, right, top, bottom); negative numbers crop.
        flip_filter: correlate instead of convolving.

    Returns:
        [B, C, (H up + top + bottom - kh) // down + 1, …], dtype of ``x``.
    """
    left, right, top, bottom = (padding,) * 4 if isinstance(padding, int) else padding
    if up > 1:
        x = _stuff(x, up)
    x = F.pad(x, (left, right, top, bottom))
    if kernel is None:
        return x[:, :, ::down, ::down] * gain
    if not flip_filter:
        kernel = kernel.flip(list(range(kernel.ndim)))
    taps: Tensor = kernel * gain ** (kernel.ndim / 2)
    if taps.ndim == 2:
        return _depthwise(x, taps, down)
    return _depthwise(_depthwise(x, taps[None], (1, down)), taps[:, None], (down, 1))


def _taps(kernel: Tensor | None) -> tuple[int, int]:
    """(width, height) of a filter."""
    return (1, 1) if kernel is None else (kernel.shape[-1], kernel.shape[0])


def _around(kernel: Tensor | None, up: int, down: int, base: int = 0) -> list[int]:
    """Padding that keeps the picture centred when it is resampled by ``up`` and ``down``."""
    padding = []
    for size in _taps(kernel):
        before, after = base, base
        if up > 1:
            before, after = before + (size + up - 1) // 2, after + (size - up) // 2
        if down > 1:
            before, after = before + (size - down + 1) // 2, after + (size - down) // 2
        padding += [before, after]
    return padding


def upsample2d(x: Tensor, kernel: Tensor | None, up: int = 2) -> Tensor:
    """[B, C, H, W] to [B, C, up H, up W], brightness kept."""
    return upfirdn2d(x, kernel, up=up, padding=_around(kernel, up, 1), gain=up**2)


def downsample2d(x: Tensor, kernel: Tensor | None, down: int = 2) -> Tensor:
    """[B, C, H, W] to [B, C, H / down, W / down], brightness kept."""
    return upfirdn2d(x, kernel, down=down, padding=_around(kernel, 1, down))


def _transposed(x: Tensor, weight: Tensor, stride: int, groups: int) -> Tensor:
    """Transposed convolution with a weight stored as [out, in / groups, k, k]."""
    out, inner, *size = weight.shape
    weight = weight.reshape(groups, out // groups, inner, *size).transpose(1, 2)
    return F.conv_transpose2d(x, weight.reshape(groups * inner, out // groups, *size), stride=stride, groups=groups)


def resampled_conv2d(
    x: Tensor,
    weight: Tensor,
    kernel: Tensor | None = None,
    up: int = 1,
    down: int = 1,
    padding: int = 0,
    groups: int = 1,
) -> Tensor:
    """Convolution with FIR resampling around it: transposed convolution then filter, or filter then stride.

    As in StyleGAN2 the weight is correlated at ``up`` 1 and convolved (flipped) at ``up`` > 1.

    Args:
        x: [B, C, H, W]. weight: [out, C / groups, k, k] in the dtype of ``x``.
        padding: around ``x`` before the weight, in pixels of the higher resolution.
    """
    size = weight.shape[-1]
    around = _around(kernel, up, down, padding)
    if size == 1 and down > 1 and up == 1:  # one pixel at a time: cheaper at the lower resolution
        return F.conv2d(upfirdn2d(x, kernel, down=down, padding=around), weight, groups=groups)
    if size == 1 and up > 1 and down == 1:
        return upfirdn2d(F.conv2d(x, weight, groups=groups), kernel, up=up, padding=around, gain=up**2)
    if up > 1:
        left, right, top, bottom = around
        full = _transposed(x, weight, up, groups)
        rest = (left - (size - 1), right - (size - up), top - (size - 1), bottom - (size - up))
        full = upfirdn2d(full, kernel, padding=rest, gain=up**2)
        return upfirdn2d(full, kernel, down=down) if down > 1 else full
    if down > 1:
        return F.conv2d(upfirdn2d(x, kernel, padding=around), weight, stride=down, groups=groups)
    return F.conv2d(x, weight, padding=padding, groups=groups)
