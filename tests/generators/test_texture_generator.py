"""Texture refinement: the lookup is exact, its gradient right, the shape untouched, and a run of it goes through."""

import pytest
import torch

from scorefield.errors import UserError
from scorefield.generators.nerf import NerfSettings
from scorefield.generators.texture import Painted, TextureGenerator
from scorefield.random import Draws
from scorefield.three_d import asset, bake, mesh, turntable, unwrap, view
from tests.three_d.shapes import Ball

BALL = Ball(radius=0.6, density=200.0, softness=0.01)


@pytest.fixture(scope="module")
def ball():
    made, _ = asset.extract(BALL, 32, 20.0, 800)
    return bake.bake(unwrap.unwrap(made, 96), BALL, 96)


def test_it_starts_as_the_file_looks(ball):
    cameras = turntable.cameras_round(2, 20.0, 3.0, 35.0, 32)
    expected, alpha = view.render_mesh(ball, cameras)
    painted = Painted(ball)
    for row in range(2):
        colour, opacity, depth, normal = painted(cameras[row : row + 1])
        assert (opacity - alpha[row : row + 1]).abs().max() < 1e-6
        assert (colour - expected[row : row + 1]).abs().max() < 0.03
        middle = depth[0, 0, 16, 16].item()
        assert middle == pytest.approx(3.0 - 0.61, abs=0.03)
        towards = torch.nn.functional.normalize(cameras.c2w[row, :3, 3], dim=0)
        assert normal[0, :, 16, 16] @ towards > 0.95


def test_gradients_are_those_of_finite_differences(ball):
    camera = turntable.cameras_round(1, 20.0, 3.0, 35.0, 16)
    single = Painted(ball)
    weights = torch.rand(1, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    (gradient,) = torch.autograd.grad((single(camera)[0] * weights).sum(), single.paint)
    place = gradient.abs().flatten().argmax()
    values = []
    with torch.no_grad():
        for step in (0.05, -0.05):
            single.paint.view(-1)[place] += step
            values.append((single(camera)[0] * weights).sum())
            single.paint.view(-1)[place] -= step
    assert (values[0] - values[1]) / 0.1 == pytest.approx(gradient.flatten()[place].item(), rel=0.02)


def generator(ball, particles=1):
    encode = lambda images: images  # noqa: E731
    nothing = lambda view, ground, pose: ({}, {}, {})  # noqa: E731
    settings = NerfSettings(particles=particles)
    settings.render.size, settings.background.learned = {0: 24}, {0: 0.0}
    return TextureGenerator(settings, nothing, encode, encode, 24, [ball])


def test_pictures_of_another_colour_repaint_it_and_leave_the_shape(ball):
    made = generator(ball)
    optimizer = torch.optim.Adam(made.parameter_groups(), lr=0.5)
    for k in range(24):
        batch = made.draw(Draws(0, k, torch.arange(4)))
        x0 = made(batch)
        assert x0.shape == (4, 3, 24, 24)
        target = torch.tensor([0.1, 0.8, 0.3]).view(3, 1, 1) * 2 - 1
        seen = made.seen.opacity > 0.99
        loss = ((x0 - target).square() * seen).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        assert made.after_step(k) is None
    repainted, facts = asset.textured(made.fields[0], asset.AssetConfig())
    assert facts["watertight"]
    assert facts["components"] == 1
    assert (repainted.vertices == ball.vertices).all()
    cameras = turntable.cameras_round(4, 15.0, 3.0, 35.0, 32)
    wanted = torch.tensor([0.1, 0.8, 0.3]).view(1, 3, 1, 1)
    before, after = (
        (colour - wanted).abs()[(alpha > 0.99).expand_as(colour)].mean()
        for colour, alpha in (view.render_mesh(painted, cameras) for painted in (ball, repainted))
    )
    assert after < 0.3 * before


def test_it_wants_one_textured_mesh_a_particle(ball):
    with pytest.raises(UserError, match="1 meshes to paint on, but particles is 2"):
        generator(ball, particles=2)
    with pytest.raises(UserError, match="has no texture"):
        Painted(mesh.Mesh(ball.vertices, ball.faces))
