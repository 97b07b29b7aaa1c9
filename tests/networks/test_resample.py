"""FIR resampling against its definition written out in numpy and scipy."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from scipy.signal import convolve2d, correlate2d

from scorefield.errors import UserError
from scorefield.networks.resample import downsample2d, make_filter, resampled_conv2d, upfirdn2d, upsample2d

F64 = torch.float64


def rng(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def reference(plane, kernel, up, down, padding, flip, gain):
    """Zero-stuff, pad, convolve, keep every ``down``-th pixel: one plane, in float64 numpy."""
    left, right, top, bottom = padding
    stuffed = np.zeros((plane.shape[0] * up, plane.shape[1] * up))
    stuffed[::up, ::up] = plane
    padded = np.pad(stuffed, [(max(top, 0), max(bottom, 0)), (max(left, 0), max(right, 0))])
    padded = padded[max(-top, 0) : padded.shape[0] - max(-bottom, 0), max(-left, 0) : padded.shape[1] - max(-right, 0)]
    filtered = (correlate2d if flip else convolve2d)(padded, kernel, mode="valid")
    return gain * filtered[::down, ::down]


@pytest.mark.parametrize("up", [1, 2, 3])
@pytest.mark.parametrize("down", [1, 2])
@pytest.mark.parametrize("flip", [False, True])
@pytest.mark.parametrize("padding", [(2, 1, 0, 3), (3, -1, 2, 2)])
def test_upfirdn2d_is_its_definition(up, down, flip, padding):
    x = torch.randn(2, 3, 6, 5, generator=rng(), dtype=F64)
    kernel = torch.randn(3, 4, generator=rng(1), dtype=F64)
    got = upfirdn2d(x, kernel, up=up, down=down, padding=padding, flip_filter=flip, gain=1.7)
    for b in range(2):
        for c in range(3):
            wanted = reference(x[b, c].numpy(), kernel.numpy(), up, down, padding, flip, 1.7)
            np.testing.assert_allclose(got[b, c].numpy(), wanted, rtol=1e-12, atol=1e-12)


def test_separable_filters_stay_one_dimensional_and_agree():
    taps = [1.0, -2, 3, 5, 8, 0, 2, 1]
    line = make_filter(taps)
    assert line.shape == (8,)
    assert make_filter([1, 3, 3, 1]).shape == (4, 4)
    x = torch.randn(1, 2, 9, 9, generator=rng(), dtype=F64)
    both = torch.outer(line.double(), line.double())
    for options in ({"up": 2, "gain": 4.0, "padding": 4}, {"down": 2, "padding": 3, "flip_filter": True}):
        torch.testing.assert_close(upfirdn2d(x, line.double(), **options), upfirdn2d(x, both, **options))


def test_filters_sum_to_one():
    assert make_filter([1, 3, 3, 1]).sum().item() == pytest.approx(1)
    torch.testing.assert_close(make_filter([1, 3, 3, 1]) * 64, torch.outer(*[torch.tensor([1.0, 3, 3, 1])] * 2))
    assert make_filter(None).shape == (1, 1)
    with pytest.raises(UserError, match="one or two axes"):
        make_filter(torch.ones(1, 1, 1))


def test_doubling_with_1331_is_bilinear_with_a_zero_border():
    x = torch.randn(2, 3, 8, 8, generator=rng(), dtype=F64)
    wanted = F.interpolate(F.pad(x, (1, 1, 1, 1)), scale_factor=2, mode="bilinear")[:, :, 2:-2, 2:-2]
    torch.testing.assert_close(upsample2d(x, make_filter([1, 3, 3, 1]).double()), wanted)


@pytest.mark.parametrize("taps", [[1, 1], [1, 3, 3, 1], [1, 2, 1], [1, 4, 6, 4, 1]])
def test_sides_double_and_halve_and_flat_pictures_stay_flat_inside(taps):
    kernel = make_filter(taps).double()
    x = torch.ones(1, 1, 16, 16, dtype=F64)
    up, down = upsample2d(x, kernel), downsample2d(x, kernel)
    assert up.shape[-1] == 32
    assert down.shape[-1] == 8
    torch.testing.assert_close(up[:, :, 6:-6, 6:-6], torch.ones(1, 1, 20, 20, dtype=F64))
    torch.testing.assert_close(down[:, :, 2:-2, 2:-2], torch.ones(1, 1, 4, 4, dtype=F64))


@pytest.mark.parametrize("taps", [[1, 1], [1, 3, 3, 1], [2, 5, 1, 1], [1, 2, 4, 2, 1, 3]])
@pytest.mark.parametrize("size", [1, 3])
def test_up_convolution_is_stuffing_convolution_filter(taps, size):
    """Doubling: zero-stuffed picture, true convolution with the weight, then filter, cropped about the centre."""
    kernel = make_filter(taps).double()
    x = torch.randn(1, 1, 5, 5, generator=rng(), dtype=F64)
    weight = torch.randn(1, 1, size, size, generator=rng(1), dtype=F64)
    got = resampled_conv2d(x, weight, kernel, up=2, padding=size // 2)
    stuffed = np.zeros((10, 10))
    stuffed[::2, ::2] = x[0, 0].numpy()
    full = 4 * convolve2d(convolve2d(stuffed, weight[0, 0].numpy()), kernel.numpy())
    first = size - 1 - size // 2 + len(taps) - 1 - (len(taps) + 1) // 2
    assert got.shape[-1] == 10
    np.testing.assert_allclose(got[0, 0].numpy(), full[first : first + 10, first : first + 10], atol=1e-12)


@pytest.mark.parametrize("size", [1, 3])
@pytest.mark.parametrize("groups", [1, 2])
def test_down_convolution_is_filter_then_strided_correlation(size, groups):
    kernel = make_filter([1, 3, 3, 1]).double()
    x = torch.randn(2, 4, 8, 8, generator=rng(), dtype=F64)
    weight = torch.randn(6, 4 // groups, size, size, generator=rng(1), dtype=F64)
    got = resampled_conv2d(x, weight, kernel, down=2, padding=size // 2, groups=groups)
    blurred = upfirdn2d(x, kernel, padding=1 + size // 2)
    torch.testing.assert_close(got, F.conv2d(blurred, weight, groups=groups)[:, :, ::2, ::2])
    assert got.shape == (2, 6, 4, 4)


@pytest.mark.parametrize("up", [1, 2])
def test_groups_are_separate_convolutions(up):
    kernel = make_filter([1, 3, 3, 1]).double()
    x = torch.randn(1, 6, 4, 4, generator=rng(), dtype=F64)
    weight = torch.randn(8, 3, 3, 3, generator=rng(1), dtype=F64)
    got = resampled_conv2d(x, weight, kernel, up=up, padding=1, groups=2)
    halves = zip(x.chunk(2, 1), weight.chunk(2, 0), strict=True)
    wanted = torch.cat([resampled_conv2d(a, w, kernel, up=up, padding=1) for a, w in halves], 1)
    torch.testing.assert_close(got, wanted)


def test_gradients():
    kernel = make_filter([1, 3, 3, 1]).double()
    x = torch.randn(1, 2, 4, 4, generator=rng(), dtype=F64, requires_grad=True)
    weight = torch.randn(2, 2, 3, 3, generator=rng(1), dtype=F64, requires_grad=True)
    for up, down in ((2, 1), (1, 2)):

        def run(x, weight, up=up, down=down):
            return resampled_conv2d(x, weight, kernel, up=up, down=down, padding=1)

        assert torch.autograd.gradcheck(run, (x, weight))
