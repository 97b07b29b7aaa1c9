"""Radiance fields: density, colour and background as differentiable functions of place and direction."""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from scorefield.errors import UserError
from scorefield.three_d.compiled import Evaluation, compiled
from scorefield.three_d.grids import DenseGrid, HashGrid

NORMAL_REACH = 0.02  # of the bound: how far apart densities are asked for a normal


class Field(nn.Module):
    """What the renderer and the mesh extraction ask of a scene.

    Attributes:
        bound: the scene lives in the cube [-bound, bound]^3.
    """

    bound: float = 1.0

    def density(self, points: Tensor) -> Tensor:
        """[N] >= 0, per unit length, at points [N, 3] within the cube."""
        raise NotImplementedError

    def colour(self, points: Tensor) -> Tensor:
        """[N, 3] in [0, 1], sRGB, at points [N, 3]."""
        raise NotImplementedError

    def normals(self, points: Tensor) -> Tensor:
        """Unit normals [N, 3], differentiable: against the density's gradient, by central differences."""
        shift = NORMAL_REACH * self.bound * torch.eye(3, device=points.device)
        around = points[:, None] + torch.cat([shift, -shift])
        density = self.density(around.reshape(-1, 3)).view(-1, 2, 3)
        slope = density[:, 1] - density[:, 0]
        return slope / slope.norm(dim=-1, keepdim=True).clamp_min(1e-6)

    def background(self, directions: Tensor) -> Tensor:
        """[N, 3] in [0, 1] of unit directions [N, 3]; white unless a subclass knows better."""
        return torch.ones_like(directions)

    def both(self, points: Tensor, noise: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """(density [N], colour [N, 3]) in one look; ``noise`` [N] joins the density before its activation."""
        return self.density(points), self.colour(points)


def blob(points: Tensor, scale: float, radius: float) -> Tensor:
    """What is added to the density before its activation: scale (1 - |x| / radius), a bump round the origin.

    threestudio's blob_magic3d (10, 0.5) for objects; a negative scale leaves the middle hollow for scenes (-10, 2.5).
    """
    return scale * (1 - points.norm(dim=-1) / radius)


class Background(nn.Module):
    """A small network from a frequency code of the ray's direction (4 octaves) to a colour."""

    def __init__(self, width: int = 32, octaves: int = 4):
        super().__init__()
        self.octaves = octaves
        self.layers = nn.Sequential(nn.Linear(3 + 6 * octaves, width), nn.ReLU(), nn.Linear(width, 3))

    def forward(self, directions: Tensor) -> Tensor:
        turns = directions[..., None] * (2.0 ** torch.arange(self.octaves, device=directions.device)) * torch.pi
        code = torch.cat([directions, turns.sin().flatten(-2), turns.cos().flatten(-2)], -1)
        return self.layers(code).sigmoid()


class GridField(Field):
    """A feature grid with density and colour heads: density = softplus(head + blob), colour = sigmoid(head).

    Args:
        grid: features [N, grid.width] of points [N, 3] in [-1, 1].
        bound: half the side of the cube. hidden: width of one hidden layer of the heads; 0 is a linear head; -1 has
            none: the first four features are density and colour themselves.
        blob_scale, blob_radius: see ``blob``. density_scale: factor on the density after its activation.
        density_bias: what else joins it before.
        learned_background: False leaves it white.
        compile: evaluate it through torch.compile, which is tried when it is first asked.
    """

    def __init__(
        self,
        grid: DenseGrid | HashGrid,
        bound: float = 1.0,
        hidden: int = 0,
        blob_scale: float = 10.0,
        blob_radius: float = 0.5,
        density_scale: float = 1.0,
        density_bias: float = 0.0,
        learned_background: bool = True,
        compile: bool = False,
    ):
        super().__init__()
        if bound <= 0 or density_scale <= 0 or blob_radius <= 0:
            raise UserError("bound, density_scale and blob_radius of a field must be positive")
        if hidden < 0 and grid.width < 4:
            raise UserError(f"a field without heads needs 4 features, its grid has {grid.width}")
        self.grid, self.bound, self.density_scale = grid, float(bound), density_scale
        self.blob_scale, self.blob_radius, self.density_bias = blob_scale, blob_radius, density_bias
        self.head = make_head(grid.width, hidden)
        self.sky = Background() if learned_background else None
        self.compiles, self.fast = compile, dict[str, Evaluation]()

    def __getstate__(self) -> dict[str, Any]:
        """Without what was compiled for this field, whose weights a copy would go on reading."""
        return {**self.__dict__, "fast": {}}

    def raw(self, points: Tensor) -> tuple[Tensor, Tensor]:
        """Density and colour before their activations: [N] and [N, 3].

        Raises UserError where the field is to be compiled and no compiler works.
        """
        if not self.compiles:
            return self.plain(points)
        if (device := str(points.device)) not in self.fast:
            self.fast[device] = compiled(self.plain, list(self.parameters()), points.device)
        return self.fast[device](points)

    def plain(self, points: Tensor) -> tuple[Tensor, Tensor]:
        """``raw``, never compiled."""
        out = self.head(self.grid(points / self.bound))
        start = blob(points, self.blob_scale, self.blob_radius) + self.density_bias
        return out[:, 0] + start, out[:, 1:4]

    def density(self, points: Tensor) -> Tensor:
        return self.density_scale * F.softplus(self.raw(points)[0])

    def colour(self, points: Tensor) -> Tensor:
        return self.raw(points)[1].sigmoid()

    def both(self, points: Tensor, noise: Tensor | None = None) -> tuple[Tensor, Tensor]:
        density, colour = self.raw(points)
        if noise is not None:
            density = density + noise
        return self.density_scale * F.softplus(density), colour.sigmoid()

    def background(self, directions: Tensor) -> Tensor:
        return self.sky(directions) if self.sky is not None else torch.ones_like(directions)


def make_head(width: int, hidden: int) -> nn.Module:
    """Features to four numbers; see ``GridField``."""
    if hidden < 0:
        return nn.Identity()
    if hidden == 0:
        return nn.Linear(width, 4)
    return nn.Sequential(nn.Linear(width, hidden), nn.ReLU(), nn.Linear(hidden, 4))
