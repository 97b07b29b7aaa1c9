"""Random draws keyed by (seed, iteration, global sample index, stream): a hash, not a state.

Neither the batch split nor the number of processes changes a draw, and a resumed run needs nothing saved.
The hash is splitmix64's finaliser (Steele, Lea and Flood 2014) in int64 arithmetic, so CPU and CUDA give
the same integers.
"""

import math
import zlib

import torch
from torch import Tensor

HOSTED = ("mps",)  # kinds of device without float64: their numbers are drawn on the host and copied


def _signed(value: int) -> int:
    value &= (1 << 64) - 1
    return value - (1 << 64) if value >= 1 << 63 else value


_GOLDEN, _MIX1, _MIX2 = (_signed(v) for v in (0x9E3779B97F4A7C15, 0xBF58476D1CE4E5B9, 0x94D049BB133111EB))


def _shift(x: Tensor, bits: int) -> Tensor:
    """Logical right shift of int64."""
    return (x >> bits) & ((1 << (64 - bits)) - 1)


def mix(x: Tensor) -> Tensor:
    """splitmix64 of int64 values, elementwise."""
    x = x + _GOLDEN
    x = (x ^ _shift(x, 30)) * _MIX1
    x = (x ^ _shift(x, 27)) * _MIX2
    return x ^ _shift(x, 31)


class Draws:
    """The random numbers of some samples of one iteration.

    Args:
        seed: of the run.
        iteration: counts generator updates; -1 and below are free for evaluation.
        indices: int64 [B], the samples' places in the global batch; the device decides where draws are made.
        salt: sets apart a second, independent set of draws for the same samples.
        host: the same indices on the host, for what is prepared there; asked of the device where left out.
    """

    def __init__(self, seed: int, iteration: int, indices: Tensor, salt: str = "", host: Tensor | None = None):
        self.seed, self.iteration, self.indices, self.salt, self.host = seed, iteration, indices, salt, host
        # full, not tensor: a number that is copied to the device would make the host wait for it
        own = self.host_indices() if indices.device.type in HOSTED else indices
        start = torch.full((), _signed(seed * 0x2545F4914F6CDD1D + iteration), device=own.device)
        self._keys = mix(mix(start) ^ own.to(torch.int64)) ^ zlib.crc32(salt.encode())

    def __len__(self) -> int:
        return len(self.indices)

    @property
    def device(self) -> torch.device:
        return self.indices.device

    def host_indices(self) -> Tensor:
        """The indices on the host, without waiting for the device where it was told them."""
        return self.indices.cpu() if self.host is None else self.host

    def bits(self, stream: str, count: int) -> Tensor:
        """int64 [B, count] of 64 random bits."""
        return self._bits(stream, count).to(self.device)

    def _bits(self, stream: str, count: int) -> Tensor:
        keys = mix(self._keys ^ zlib.crc32(stream.encode()))
        return mix(keys[:, None] + torch.arange(count, device=keys.device) * _MIX1)

    def uniform(self, stream: str, *shape: int) -> Tensor:
        """float32 [B, *shape], strictly between 0 and 1."""
        bits = _shift(self._bits(stream, math.prod(shape)), 41)  # 23 bits: exact in float32 with the half added
        return ((bits.float() + 0.5) * 2.0**-23).view(len(self), *shape).to(self.device)

    def normal(self, stream: str, *shape: int) -> Tensor:
        """float32 [B, *shape], standard normal (Box and Muller)."""
        count = math.prod(shape)
        bits = self._bits(stream, (count + 1) // 2)
        first = ((bits & 0xFFFFFFFF).double() + 0.5) * 2.0**-32
        second = _shift(bits, 32).double() * 2.0**-32
        radius = (-2 * first.log()).sqrt()
        pair = torch.stack([radius * (2 * math.pi * second).cos(), radius * (2 * math.pi * second).sin()], -1)
        return pair.flatten(1)[:, :count].float().view(len(self), *shape).to(self.device)

    def integers(self, stream: str, high: int, *shape: int) -> Tensor:
        """int64 [B, *shape] in [0, high)."""
        return (_shift(self._bits(stream, math.prod(shape)), 1) % high).view(len(self), *shape).to(self.device)
