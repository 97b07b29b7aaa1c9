"""T3Bench's quality: its views, its regions, and the whole of it against a slow computation of its own."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from scorefield.errors import UserError
from scorefield.evaluation.scores import PictureScore
from scorefield.three_d import t3bench
from scorefield.three_d.asset import AssetConfig, textured
from scorefield.three_d.cameras import orbit
from scorefield.three_d.view import render_mesh
from tests.three_d.shapes import Ball


class Redness(PictureScore):
    """Mean red over a picture, so that the truth is easily had."""

    title, key, model = "redness", "redness", "none"

    def read(self, images, prompts):
        assert len(images) == len(prompts)
        return images[:, 0].float().mean((1, 2)) / 255


@pytest.fixture(scope="module")
def ball():
    """A ball off the middle, bright red where x > 0.1, dark elsewhere."""
    return textured(Ball(0.5, centre=(0.1, 0.2, -0.1)), AssetConfig(resolution=32, faces=400, texture=64))[0]


def averaging(subdivisions):
    """Each vertex's mean with its neighbours as a matrix, from the sphere's edges."""
    trimesh = pytest.importorskip("trimesh")
    sphere = trimesh.creation.icosphere(subdivisions=subdivisions)
    matrix = np.eye(len(sphere.vertices))
    for a, b in sphere.edges_unique:
        matrix[a, b] = matrix[b, a] = 1
    return sphere.vertices, matrix / matrix.sum(1, keepdims=True)


def test_regions_are_three_steps_of_a_mean_over_neighbours():
    directions, neighbours = t3bench.icosphere(2)
    vertices, matrix = averaging(2)
    assert len(directions) == 162
    np.testing.assert_allclose(directions, vertices)
    scores = np.random.default_rng(0).normal(size=162)
    wanted = np.linalg.matrix_power(matrix, 3) @ scores
    assert t3bench.best_region(scores, neighbours) == pytest.approx(wanted.max())
    assert t3bench.best_region(np.full(162, 1.5), neighbours) == pytest.approx(1.5)
    lone = np.where(np.arange(162) == 40, 1.0, 0.0)
    assert t3bench.best_region(lone, neighbours) < 0.2  # one lucky view among bad ones counts little


def test_cameras_stand_on_the_sphere_upright():
    for direction in t3bench.icosphere(1)[0]:
        cameras = t3bench.cameras_from(direction, 8)
        x, y, z = direction
        if abs(z) < 0.99:
            same = orbit(float(np.arcsin(z)), float(np.arctan2(x, -y)), 2.2, 0.5, (8, 8))
            torch.testing.assert_close(cameras.c2w, same.c2w.expand(5, 4, 4), atol=1e-5, rtol=0)
        rotation = cameras.c2w[0, :3, :3]
        torch.testing.assert_close(rotation @ rotation.T, torch.eye(3), atol=1e-5, rtol=0)
        torch.testing.assert_close(rotation[:, 2] * 2.2, cameras.c2w[0, :3, 3])
        assert torch.det(rotation) == pytest.approx(1)


def test_quality_is_the_best_region_of_the_best_fields_of_view(ball):
    config = t3bench.T3BenchConfig("redness", subdivisions=0, size=24)
    found = t3bench.quality(ball, "a ball", Redness(), config)
    vertices, matrix = averaging(0)
    middle = (ball.vertices - ball.vertices.mean(0)) / np.abs(ball.vertices - ball.vertices.mean(0)).max()
    seen = []
    for x, y, z in vertices:
        views = [
            render_mesh(
                replace(ball, vertices=middle),
                orbit(float(np.arcsin(z)), float(np.arctan2(x, -y)), 2.2, float(np.pi / part), (24, 24)),
            )[0]
            for part in (3, 4, 5, 6, 7.5)
        ]
        seen.append(max((view[0, 0] * 255).round().mean().item() / 255 for view in views))
    wanted = (np.linalg.matrix_power(matrix, 3) @ np.array(seen)).max()
    assert found == {"t3bench_redness": pytest.approx(wanted, abs=2e-3)}
    assert max(seen) > 0.85  # the bright side fills the narrowest view
    assert min(seen) < 0.3
    published = t3bench.T3BenchConfig("imagereward", subdivisions=0, size=24)
    assert t3bench.quality(ball, "a ball", Redness(), published)["t3bench_quality"] == pytest.approx(
        20 * wanted + 50, abs=0.05
    )
    assert "12 views at 24 px" in t3bench.facts(Redness(), published)["t3bench_quality"]["definition"]


def test_impossible_settings_are_refused():
    with pytest.raises(UserError, match="subdivisions must lie between 0 and 4"):
        t3bench.T3BenchConfig(subdivisions=9)
