"""Feature grids over the cube [-1, 1]^3: dense levels through ``grid_sample``, and the multiresolution hash grid.

Both map points [N, 3] to features [N, ``width``] and differ in cost and memory: on a CPU three dense levels cost a
seventeenth of a hash grid of 16 levels, on a GPU the hash grid reaches resolutions that no dense grid can hold.
"""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from scorefield.errors import UserError

PRIMES = (1, 2654435761, 805459861)  # of Müller et al. 2022, arXiv:2201.05989


class DenseGrid(nn.Module):
    """Trilinear features on dense lattices of several resolutions, summed or side by side.

    Args:
        resolutions: vertices along a side of each level. features: a vertex.
        join: "sum" (coarse levels move the fine ones along: quick to optimise) or "concat".
        init: features start uniform in [-init, init].
    """

    def __init__(self, resolutions: Sequence[int], features: int, join: str = "sum", init: float = 1e-4):
        super().__init__()
        if not resolutions or min(resolutions) < 2 or features < 1:
            raise UserError(f"a dense grid needs resolutions of 2 and more and features, not {list(resolutions)}")
        if join not in ("sum", "concat"):
            raise UserError(f'a dense grid joins its levels by "sum" or "concat", not "{join}"')
        self.join = join
        self.width = features * (len(resolutions) if join == "concat" else 1)
        self.levels = nn.ParameterList(
            nn.Parameter((torch.rand(1, features, side, side, side) * 2 - 1) * init) for side in resolutions
        )

    def forward(self, points: Tensor) -> Tensor:
        """Features [N, width] of points [N, 3] in [-1, 1] (held at the border beyond)."""
        place = points.view(1, 1, 1, -1, 3)
        read = [
            F.grid_sample(level, place, align_corners=True, padding_mode="border").view(level.shape[1], -1)
            for level in self.levels
        ]
        return (torch.stack(read).sum(0) if self.join == "sum" else torch.cat(read)).T


class HashGrid(nn.Module):
    """Multiresolution hash encoding (Müller et al. 2022): dense below 2^log2_size vertices a level, hashed above.

    Args:
        levels, features: numbers of levels and of features a level. log2_size: entries of a level, as a power of 2.
        base, scale: vertices along a side of the first level, growth per level (16 and 1.447 reach 4096 in 16 levels).
        smoothstep: interpolate with 3 t^2 - 2 t^3, so that the field has continuous gradients.
    """

    def __init__(
        self,
        levels: int = 16,
        features: int = 2,
        log2_size: int = 19,
        base: int = 16,
        scale: float = 1.447269237440378,
        smoothstep: bool = False,
        init: float = 1e-4,
    ):
        super().__init__()
        if levels < 1 or features < 1 or base < 2 or scale < 1 or not 1 <= log2_size <= 30:
            raise UserError(
                "a hash grid needs levels and features of at least 1, base of at least 2, scale of at least 1 and "
                "log2_size in 1 to 30"
            )
        self.smoothstep, self.width = smoothstep, levels * features
        self.sides = [int(base * scale**level) for level in range(levels)]
        limit = 2**log2_size
        self.sizes = [min((side + 1) ** 3, limit) for side in self.sides]
        self.hashed = [(side + 1) ** 3 > limit for side in self.sides]
        self.tables = nn.ParameterList(nn.Parameter((torch.rand(size, features) * 2 - 1) * init) for size in self.sizes)
        self.corners: Tensor
        corners = torch.tensor([[i, j, k] for i in (0, 1) for j in (0, 1) for k in (0, 1)])
        self.register_buffer("corners", corners, persistent=False)

    def index(self, vertices: Tensor, level: int) -> Tensor:
        """Table rows [...] of lattice vertices int64 [..., 3] of a level."""
        if not self.hashed[level]:
            stride = self.sides[level] + 1
            return vertices[..., 0] + stride * (vertices[..., 1] + stride * vertices[..., 2])
        x, y, z = (vertices[..., axis] * PRIMES[axis] for axis in range(3))
        return (x ^ y ^ z) % self.sizes[level]

    def forward(self, points: Tensor) -> Tensor:
        """Features [N, width] of points [N, 3] in [-1, 1] (held at the border beyond)."""
        unit = (points.clamp(-1, 1) + 1) / 2
        read = []
        for level, (side, table) in enumerate(zip(self.sides, self.tables, strict=True)):
            place = unit * side
            low = place.detach().floor().clamp_max(side - 1)
            along = place - low
            if self.smoothstep:
                along = along * along * (3 - 2 * along)
            vertices = low.long()[:, None, :] + self.corners
            shares = torch.where(self.corners.bool(), along[:, None, :], 1 - along[:, None, :]).prod(-1)
            values = F.embedding(self.index(vertices, level), table)
            read.append((values * shares[..., None]).sum(1))
        return torch.cat(read, -1)
