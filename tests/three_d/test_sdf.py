"""Signed distances: density, silhouette and depth of a sphere in closed form; a wrong shape that pictures put right."""

import math

import numpy as np
import pytest
import torch
import trimesh

from scorefield.errors import UserError
from scorefield.three_d import asset, mesh, sdf, shading
from scorefield.three_d.cameras import orbit
from scorefield.three_d.render import render
from tests.three_d.shapes import Ball

RADIUS = 0.6


def lattice(resolution=48):
    return torch.from_numpy(mesh.grid_points(1.0, resolution))


def sphere(stretch=(1.0, 1.0, 1.0), beta=0.01, resolution=48, colour=0.7):
    points = lattice(resolution) * torch.tensor(stretch)
    return sdf.SdfField(points.norm(dim=-1) - RADIUS, torch.full_like(points, colour), beta=beta, levels=(8, 16, 32))


def round_it(count, size=32):
    turn = torch.arange(count) * (2 * math.pi / count)
    tilt = torch.tensor([0.7, -0.5]).repeat(count // 2)
    return orbit(tilt, turn, torch.full((count,), 3.0), torch.full((count,), 0.6), (size, size))


def test_density_is_volsdfs_and_its_integral_along_a_ray_is_known():
    beta = torch.tensor(0.05, dtype=torch.float64)
    d = torch.linspace(1.5, -0.5, 20_001, dtype=torch.float64)
    density = sdf.laplace_density(d, beta)
    assert density[-1] == pytest.approx(20, rel=1e-3)
    assert sdf.laplace_density(torch.zeros(1, dtype=torch.float64), beta) == pytest.approx(10)
    # through a plane: exp(-d/beta) / 2 until the surface, then d/beta more and 1/2 for what lags behind
    optical = torch.trapezoid(density, -d)
    assert optical == pytest.approx(0.5 + 0.5 / 0.05 - 0.5 * (1 - math.exp(-10)), rel=1e-4)


def test_a_sphere_has_the_closed_forms_silhouette_depth_and_normals():
    field, size, beta = sphere(beta=0.01, resolution=64), 40, 0.01
    cameras = round_it(2, size)
    with torch.no_grad():
        seen = render(field, cameras, samples=300, background=torch.zeros(2, 3), normals=True)
    origins, directions = cameras.rays()
    along = (origins * directions).sum(-1)
    beside = (origins.square().sum(-1) - along.square()).clamp_min(0).sqrt()
    assert seen.opacity[:, 0][beside < RADIUS - 0.01].min() > 0.99
    # outside, where d grows like the square of the way along the ray, the tail's integral is a Gaussian one
    optical = 0.5 / beta * (-(beside - RADIUS) / beta).exp() * (2 * math.pi * beta * beside).sqrt()
    outside = beside > RADIUS + 0.01
    assert ((1 - (-optical).exp()) - seen.opacity[:, 0])[outside].abs().max() < 0.05
    assert seen.opacity[:, 0][outside].max() > 0.2  # the tail is seen
    depth = -along - (RADIUS**2 - beside.square()).clamp_min(0).sqrt()
    inner = beside < 0.8 * RADIUS
    assert (seen.depth[:, 0] - depth)[inner].abs().max() < 0.012
    places = origins + depth[..., None] * directions
    exact = (places / RADIUS).permute(0, 3, 1, 2)
    assert ((seen.normal * exact).sum(1))[inner].min() > 0.995


def test_a_stretched_sphere_is_put_right_by_pictures():
    """Opacity and light are enough: no term knows the true distance."""
    target, wrong = sphere(beta=0.02, resolution=32), sphere(stretch=(1.35, 0.8, 1.0), beta=0.04, resolution=32)
    inside = lattice().norm(dim=-1) < RADIUS

    def overlap():
        with torch.no_grad():
            own = wrong.distance(lattice().reshape(-1, 3)).view(inside.shape) < 0
        return ((own & inside).sum() / (own | inside).sum()).item()

    before, white = overlap(), torch.ones(4, 3)
    optimizer = torch.optim.Adam(
        [{"params": wrong.correction.parameters(), "lr": 5e-3}, {"params": [wrong.log_beta], "lr": 0.02}]
    )
    source = torch.Generator().manual_seed(0)
    light = torch.nn.functional.normalize(torch.tensor([[0.3, -0.8, 0.5]]), dim=1).expand(4, 3)
    cameras = round_it(8, 18)

    def pictures(field, some):
        seen = render(field, some, samples=36, background=white, normals=True)
        return shading.shaded(seen, white[:, :, None, None], "lambertian", light)

    with torch.no_grad():
        wanted = [pictures(target, cameras[k::2]) for k in range(2)]
    for step in range(40):
        error = (wanted[step % 2] - pictures(wrong, cameras[step % 2 :: 2])).square().mean()
        points = 2 * torch.rand(1000, 3, generator=source) - 1
        loss = 50 * error + 0.1 * wrong.eikonal(points) + 0.02 * wrong.roughness(points, source)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert before < 0.75
    assert overlap() > 0.92
    made, facts = asset.extract(wrong, 32)
    assert facts["watertight"]
    assert mesh.signed_volume(made) == pytest.approx(4 / 3 * math.pi * RADIUS**3, rel=0.06)
    assert wrong.beta.item() < 0.04  # sharper than it began


def test_the_distance_of_a_mesh_and_the_colours_of_its_field():
    round_one = trimesh.creation.icosphere(subdivisions=4, radius=RADIUS)
    fine = mesh.Mesh(round_one.vertices.astype(np.float32), round_one.faces)
    distance, nearest = sdf.signed_distances(fine, 1.0, 16)
    exact = np.linalg.norm(mesh.grid_points(1.0, 16), axis=-1) - RADIUS
    assert np.abs(distance - exact).max() < 0.02
    assert np.abs(np.linalg.norm(nearest, axis=-1) - RADIUS).max() < 0.003
    ball = Ball(radius=RADIUS, density=200.0, softness=0.005)
    made = sdf.from_field(ball, fine, 24, (8,), 0.01, 2 / 32)
    assert made.eikonal(torch.rand(500, 3) * 1.6 - 0.8).item() < 0.02
    spot = torch.tensor([[0.35, 0.35, 0.35], [-0.35, 0.35, -0.35]])
    torch.testing.assert_close(made.colour(spot), ball.colour(spot), atol=0.02, rtol=0)


def test_what_makes_no_sense_is_refused():
    with pytest.raises(UserError, match="signed distance needs"):
        sdf.SdfField(torch.zeros(4, 4, 4), torch.zeros(3, 4, 4, 3))
    with pytest.raises(UserError, match="beta"):
        sphere(beta=0.0)
