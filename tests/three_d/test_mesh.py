"""Density to mesh: closed-form volumes, thresholds, cleaning, decimation, and what cannot be extracted."""

import math

import numpy as np
import pytest
import torch

from scorefield.errors import UserError
from scorefield.three_d import mesh as meshes
from scorefield.three_d.field import Field
from tests.three_d.shapes import Ball


class Hollow(Ball):
    def density(self, points):
        away = points.norm(dim=-1)
        return self.strength * torch.sigmoid((self.radius - away) / 0.01) * torch.sigmoid((away - 0.3) / 0.01)


class Two(Field):
    """A large ball and a crumb."""

    def density(self, points):
        large = 50 * torch.sigmoid((0.4 - (points + 0.3).norm(dim=-1)) / 0.01)
        return large + 50 * torch.sigmoid((0.07 - (points - 0.7).norm(dim=-1)) / 0.01)


def test_a_sphere_has_the_volume_of_its_level_set():
    ball = Ball(radius=0.6, density=40.0, softness=0.02, centre=(0.1, -0.05, 0.0))
    mesh, facts = meshes.extract(ball, 64, threshold=20.0, faces=20_000)
    assert facts["watertight"]
    assert facts["components"] == 1
    assert meshes.signed_volume(mesh) == pytest.approx(4 / 3 * math.pi * 0.6**3, rel=0.02)  # faces look outwards
    assert mesh.vertices.mean(0) == pytest.approx([0.1, -0.05, 0.0], abs=5e-3)
    level = 20 / (1 + 3)  # three quarters down the sigmoid lie softness * ln 7 further out
    wide, _ = meshes.extract(ball, 64, threshold=level, faces=20_000)
    radius = 0.6 + 0.02 * math.log(7)
    assert meshes.signed_volume(wide) == pytest.approx(4 / 3 * math.pi * radius**3, rel=0.02)


@pytest.mark.parametrize("density", [4.0, 40.0, 4000.0])
def test_the_chosen_threshold_keeps_the_silhouette(density):
    ball = Ball(radius=0.5, density=density)
    grid = meshes.density_grid(ball, 64)
    mesh = meshes.march(grid, 1.0, meshes.choose_threshold(grid, 1.0))
    # where a straight line beside the centre is half opaque, by summing the known density finely
    along = torch.linspace(-1, 1, 2001)
    beside = torch.linspace(0, 0.9, 181)
    points = torch.stack(torch.broadcast_tensors(beside[:, None], torch.zeros(1, 1), along[None]), -1)
    opacity = 1 - torch.exp(-ball.density(points.view(-1, 3)).view(181, 2001).sum(1) * 1e-3)
    seen = beside[opacity > 0.5].max().item()
    assert np.linalg.norm(mesh.vertices, axis=1).max() == pytest.approx(seen, abs=0.03)


def test_a_body_that_touches_the_border_is_closed():
    mesh, facts = meshes.extract(Ball(radius=1.2), 32, threshold=5.0, faces=50_000)
    assert facts["watertight"]
    assert np.abs(mesh.vertices).max() <= 1.0
    assert 6.0 < meshes.signed_volume(mesh) < 8.0


def test_crumbs_and_inner_walls_go():
    grid = meshes.density_grid(Two(), 64)
    before = meshes.march(grid, 1.0, 10.0)
    assert meshes.facts(before)["components"] == 2
    assert meshes.facts(meshes.keep_large(before))["components"] == 1
    grid = meshes.density_grid(Hollow(), 64)
    shell = meshes.march(grid, 1.0, 10.0)
    assert meshes.facts(shell)["components"] == 2
    full = meshes.keep_large(shell)
    assert meshes.facts(full)["components"] == 1
    assert meshes.signed_volume(full) > meshes.signed_volume(shell) + 0.08  # 4/3 pi 0.3^3 = 0.113


def test_decimation_keeps_shape_and_says_what_is_open():
    grid = meshes.density_grid(Ball(), 64)
    fine = meshes.march(grid, 1.0, 20.0)
    coarse = meshes.decimate(fine, 800)
    assert len(coarse.faces) <= 810
    assert meshes.signed_volume(coarse) == pytest.approx(meshes.signed_volume(fine), rel=0.02)
    assert meshes.facts(coarse)["watertight"]
    assert not meshes.facts(meshes.select(coarse, np.arange(len(coarse.faces)) > 0))["watertight"]


def test_a_collapse_that_tears_the_mesh_is_done_again_gently(monkeypatch):
    fine = meshes.march(meshes.density_grid(Ball(), 40), 1.0, 20.0)
    asked, collapse = [], meshes._collapse

    def tearing(mesh, faces, aggression):
        asked.append(aggression)
        made = collapse(mesh, faces, aggression)
        return meshes.select(made, np.arange(len(made.faces)) > 0) if aggression > tear_above else made

    monkeypatch.setattr(meshes, "_collapse", tearing)
    tear_above = 4.0
    assert meshes.facts(meshes.decimate(fine, 2000))["watertight"]
    assert asked == [7.0, 5.0, 3.0]
    tear_above = 0.0
    assert len(meshes.decimate(fine, 2000).faces) > 1900  # open, and ``facts`` says so


def test_nothing_is_made_of_an_empty_or_broken_field():
    with pytest.raises(UserError, match="density field is empty"):
        meshes.extract(Ball(density=0.01), 32)
    with pytest.raises(UserError, match="NaN or infinite"):
        meshes.extract(Ball(density=float("nan")), 32)
    with pytest.raises(UserError, match="the threshold is 1e\\+09"):
        meshes.extract(Ball(), 32, threshold=1e9)
    with pytest.raises(UserError, match="between 8 and 1024"):
        meshes.extract(Ball(), 4)
