import math

import pytest
import torch

from scorefield.errors import UserError
from scorefield.three_d.field import GridField
from scorefield.three_d.grids import DenseGrid, HashGrid


def test_the_start_is_the_blob():
    field = GridField(DenseGrid([4], 4, init=0.0), hidden=-1, blob_scale=10.0, blob_radius=0.5, density_scale=2.0)
    points = torch.tensor([[0.0, 0.0, 0.0], [0.0, 0.5, 0.0], [0.0, 0.0, 1.0]])
    wanted = [2 * math.log1p(math.exp(10 * (1 - r / 0.5))) for r in (0.0, 0.5, 1.0)]
    assert field.density(points).tolist() == pytest.approx(wanted, rel=1e-4)
    assert field.colour(points).flatten().tolist() == pytest.approx([0.5] * 9)
    shifted = GridField(DenseGrid([4], 4, init=0.0), hidden=-1, blob_scale=10.0, density_bias=-10.0)
    assert shifted.density(points[:1]).item() == pytest.approx(math.log(2), rel=1e-4)


def test_a_negative_blob_is_hollow():
    field = GridField(HashGrid(levels=2, log2_size=8, init=0.0), bound=5.0, hidden=8, blob_scale=-10.0, blob_radius=2.5)
    inside, shell = field.density(torch.tensor([[0.0, 0.0, 0.0], [0.0, 4.0, 0.0]])).tolist()
    assert inside < 0.01 < 1 < shell


def test_both_is_density_and_colour_with_noise_before_the_activation():
    torch.manual_seed(0)
    field = GridField(DenseGrid([4, 8], 4, init=1.0), hidden=16)
    points = torch.rand(20, 3) * 2 - 1
    density, colour = field.both(points)
    torch.testing.assert_close(density, field.density(points))
    torch.testing.assert_close(colour, field.colour(points))
    assert (field.both(points, torch.full((20,), -50.0))[0] < 1e-6).all()
    sky = field.background(torch.nn.functional.normalize(points, dim=-1))
    assert sky.shape == (20, 3)
    assert sky.min() >= 0
    assert sky.max() <= 1


def test_impossible_fields_are_refused():
    with pytest.raises(UserError, match="4 features"):
        GridField(DenseGrid([4], 2), hidden=-1)
    with pytest.raises(UserError, match="positive"):
        GridField(DenseGrid([4], 4), bound=0.0)
