"""Fields whose shape and colours are known."""

import torch

from scorefield.three_d.field import Field


class Ball(Field):
    """A ball of constant density; each octant has a colour of its own (red by x, green by y, blue by z)."""

    def __init__(self, radius=0.6, density=40.0, centre=(0.0, 0.0, 0.0), bound=1.0, softness=0.02):
        super().__init__()
        self.radius, self.strength, self.bound, self.softness = radius, density, bound, softness
        self.register_buffer("centre", torch.tensor(centre))

    def density(self, points):
        inside = (self.radius - (points - self.centre).norm(dim=-1)) / self.softness
        return self.strength * torch.sigmoid(inside)

    def colour(self, points):
        return torch.where(points > self.centre, 0.9, 0.2)


class Solid(Field):
    """A Toybox object (front along -y, z up) in one colour, dark where its front is."""

    def __init__(self, name, size=0.9, bound=1.0, density=60.0, colour=(0.86, 0.1, 0.1)):
        super().__init__()
        self.name, self.size, self.bound, self.strength = name, size, bound, density
        self.register_buffer("paint", torch.tensor(colour))

    def density(self, points):
        from scorefield.data.toybox import sdf
        from scorefield.three_d.cameras import to_y_up

        distance = sdf(self.name, to_y_up(points) / self.size) * self.size
        return self.strength * torch.sigmoid(-distance / 0.02)

    def colour(self, points):
        return self.paint.expand(len(points), 3)
