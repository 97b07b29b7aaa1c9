"""Figures with the truth known: exact shapes score as they must, the judge's ceiling, Janus counted by hand."""

import math

import numpy as np
import pytest
import torch

from scorefield import resources
from scorefield.errors import UserError
from scorefield.evaluation.judge import Judge, Reading
from scorefield.three_d import truth, turntable
from scorefield.three_d.cameras import from_y_up
from scorefield.three_d.mesh import Mesh, signed_volume


def world_mesh(name, scale=1.0, yaw=0.0, shift=(0.0, 0.0, 0.0)):
    mesh = truth.true_mesh(name)
    places = scale * truth.turned(mesh.vertices.astype(np.float64), yaw) + np.array(shift)
    return Mesh(from_y_up(torch.from_numpy(places)).float().numpy(), mesh.faces)


def test_the_inside_of_a_mesh_is_where_its_distance_is_negative():
    from scorefield.data import toybox

    mesh = truth.true_mesh("mug")
    full = truth.inside(mesh, 1.05, 48)
    line = torch.linspace(-1.05, 1.05, 48)
    grid = torch.stack(torch.meshgrid(line, line, line, indexing="ij"), -1)
    distance = toybox.sdf("mug", grid.view(-1, 3)).view(48, 48, 48).numpy()
    sure = np.abs(distance) > 0.02
    assert (full == (distance < 0))[sure].all()
    assert full.sum() * (2.1 / 47) ** 3 == pytest.approx(signed_volume(mesh), rel=0.03)


def test_the_true_shape_is_recognised_however_it_is_placed():
    figures = truth.shape_figures(world_mesh("chair", 0.7, math.radians(-40), (0.1, -0.05, 0.08)), "chair")
    assert figures["chamfer"] < 0.035  # two draws of 3,000 points lie about this far apart
    assert figures["iou"] > 0.9
    assert figures["yaw_deg"] == pytest.approx(40, abs=2)
    assert figures["scale"] == pytest.approx(1 / 0.7, rel=0.02)


def test_another_shape_scores_worse():
    figures = truth.shape_figures(world_mesh("mushroom"), "chair")
    assert figures["chamfer"] > 0.06
    assert figures["iou"] < 0.6


def test_the_judge_names_true_objects_all_round():
    judge = Judge.load(resources.asset("toybox") / "judge")
    cameras = turntable.cameras_round(16, 19.0, 3.68, 33.5, 64)
    pictures = truth.true_pictures("a blue car", cameras)[:, 0]
    figures = truth.read_views(judge, pictures, "a blue car", truth.azimuths(cameras))
    assert figures["judge_accuracy"] > 0.9
    assert figures["view_accuracy"] > 0.9
    assert figures["janus_rate"] < 0.1
    half = truth.read_views(judge, pictures, "a blue car", truth.azimuths(cameras) + 180)
    assert half["view_accuracy"] < 0.6
    assert half["janus_rate"] > 0.2
    assert truth.novel_psnr(truth.true_pictures("a blue car", cameras[:2], 3)[:, 2], "a blue car", cameras[:2]) > 60
    assert truth.novel_psnr(torch.rand(2, 3, 64, 64), "a blue car", cameras[:2]) < 12


class Told:
    """A judge that says what it is told to."""

    def __init__(self, view):
        self.view = torch.tensor(view)

    def read(self, images):
        count = len(self.view)
        labels = {"object": torch.full((count,), 5), "color": torch.full((count,), 4), "view": self.view}
        return Reading(labels, {}, torch.zeros(count, 2))


def test_janus_counts_fronts_beyond_the_front_arc():
    degrees = torch.tensor([0.0, 45.0, 59.0, 61.0, 90.0, 180.0, -90.0, 300.1])
    figures = truth.read_views(Told([0, 0, 0, 0, 1, 0, 1, 0]), torch.zeros(8, 3, 8, 8), "a blue car", degrees)
    assert figures["janus_rate"] == pytest.approx(2 / 4)  # of 61, 90, 180, -90; 300.1 is -59.9
    assert figures["view_accuracy"] == pytest.approx(3 / 4)  # of 0, 90, 180, -90
    assert figures["judge_accuracy"] == 1.0
    flat = truth.read_views(Told([0] * 8), torch.zeros(8, 3, 8, 8), "a blue tree", degrees)
    assert flat["janus_rate"] is None
    with pytest.raises(UserError, match="names no Toybox object"):
        truth.read_views(Told([0] * 8), torch.zeros(8, 3, 8, 8), "an astronaut", degrees)


def test_diversity_compares_particles_seen_from_one_side():
    a, b = torch.zeros(4, 2), torch.tensor([[3.0, 4.0]]).repeat(4, 1)
    assert truth.particle_diversity([a, b]) == pytest.approx(5.0)
    assert truth.particle_diversity([a]) is None
