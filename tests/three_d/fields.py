"""Fields whose pictures are known in closed form."""

import torch
from torch import Tensor, nn

from scorefield.three_d.field import Field


class Ball(Field):
    """A ball of constant density and colour round ``centre``."""

    def __init__(self, radius: float = 0.6, sigma: float = 1.5, centre=(0.0, 0.0, 0.0), bound: float = 1.0):
        super().__init__()
        self.radius, self.bound = radius, bound
        self.sigma = nn.Parameter(torch.tensor(sigma))
        self.centre = torch.tensor(centre)

    def density(self, points: Tensor) -> Tensor:
        return torch.where((points - self.centre).norm(dim=-1) < self.radius, self.sigma, 0.0)

    def colour(self, points: Tensor) -> Tensor:
        return torch.tensor([0.8, 0.3, 0.1]).expand_as(points)


class Bump(Field):
    """A smooth bump, differentiable in its parameters (density height, place along x, redness)."""

    def __init__(self, values=(3.0, 0.1, 0.2), bound: float = 1.0):
        super().__init__()
        self.values, self.bound = nn.Parameter(torch.tensor(values)), bound

    def density(self, points: Tensor) -> Tensor:
        offset = torch.cat([points[:, :1] - self.values[1], points[:, 1:]], -1)
        return self.values[0] * (-6 * offset.square().sum(-1)).exp()

    def colour(self, points: Tensor) -> Tensor:
        return torch.stack(
            [(self.values[2] + points[:, 2]).sigmoid(), points[:, 0].sigmoid(), points[:, 1].sigmoid()], -1
        )
