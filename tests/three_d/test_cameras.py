import dataclasses
import math

import pytest
import torch

from scorefield.data import toybox
from scorefield.data.toybox.render import pixel_rays
from scorefield.errors import UserError
from scorefield.random import Draws
from scorefield.three_d import camera_law
from scorefield.three_d.cameras import Cameras, from_y_up, look_at, orbit, to_y_up
from scorefield.three_d.settings import ELEVATION_LAWS, CameraConfig

SIZE = (12, 20)


@pytest.fixture
def cameras() -> Cameras:
    torch.manual_seed(0)
    up, turn = torch.rand(6) * 2 - 1, torch.rand(6) * 6
    return orbit(up, turn, 2 + torch.rand(6), 0.4 + torch.rand(6) / 2, SIZE, torch.rand(6, 3) / 10)


def test_rays_are_those_of_toyboxs_own_camera():
    scenes = toybox.sample_scenes(range(5), 0)
    ours = orbit(
        scenes.elevation_deg.deg2rad(),
        scenes.azimuth_deg.deg2rad(),
        scenes.distance,
        scenes.fov_deg.deg2rad(),
        (16, 16),
        from_y_up(scenes.look_at),
    )
    origins, directions = ours.rays()
    place, toward = pixel_rays(scenes, 16, 1)
    torch.testing.assert_close(to_y_up(directions).view(5, -1, 3), toward, atol=1e-5, rtol=0)
    torch.testing.assert_close(to_y_up(origins)[:, 0, 0], place[:, 0], atol=1e-5, rtol=0)


def test_opencv_round_trip_and_pixels(cameras):
    extrinsics, intrinsics = cameras.to_opencv()
    back = Cameras.from_opencv(extrinsics, intrinsics, SIZE)
    torch.testing.assert_close(back.c2w, cameras.c2w, atol=1e-5, rtol=0)
    torch.testing.assert_close(back.fovy, cameras.fovy, atol=1e-5, rtol=0)
    # a point on the ray through each pixel projects onto that pixel's centre, in OpenCV's own arithmetic
    origins, directions = cameras.rays()
    points = (origins + 1.7 * directions).flatten(1, 2)
    seen = torch.einsum("bij,bnj->bni", extrinsics[:, :3, :3], points) + extrinsics[:, None, :3, 3]
    pixels = torch.einsum("bij,bnj->bni", intrinsics, seen)
    pixels = pixels[..., :2] / pixels[..., 2:]
    rows, columns = torch.meshgrid(torch.arange(SIZE[0]), torch.arange(SIZE[1]), indexing="ij")
    centres = torch.stack([columns, rows], -1).flatten(0, 1) + 0.5
    torch.testing.assert_close(pixels, centres.expand_as(pixels), atol=2e-4, rtol=0)
    assert (seen[..., 2] > 0).all()


def test_kornia_projects_alike(cameras):
    pinhole = pytest.importorskip("kornia.geometry.camera").PinholeCamera
    extrinsics, intrinsics = cameras.to_opencv()
    full = torch.eye(4).repeat(len(cameras), 1, 1)
    full[:, :3, :3] = intrinsics
    side = torch.full((len(cameras),), 1.0)
    theirs = pinhole(full, extrinsics, side * SIZE[0], side * SIZE[1])
    points = torch.rand(len(cameras), 3) - 0.5
    seen = (extrinsics[:, :3, :3] @ points[..., None])[..., 0] + extrinsics[:, :3, 3]
    pixel = (intrinsics @ seen[..., None])[..., 0]
    torch.testing.assert_close(theirs.project(points[:, None])[:, 0], pixel[:, :2] / pixel[:, 2:], atol=1e-4, rtol=1e-4)


def test_poses_are_rotations_that_look_at_the_target(cameras):
    turn = cameras.c2w[:, :3, :3]
    torch.testing.assert_close(turn @ turn.transpose(1, 2), torch.eye(3).expand(6, 3, 3), atol=1e-5, rtol=0)
    assert torch.linalg.det(turn).gt(0).all()
    above = orbit(math.pi / 2, 0.0, 2.0, 0.5, (3, 3))
    torch.testing.assert_close(above.rays()[1][0, 1, 1], torch.tensor([0.0, 0.0, -1.0]), atol=1e-6, rtol=0)


def test_oblong_pixels_are_refused(cameras):
    extrinsics, intrinsics = cameras.to_opencv()
    intrinsics[:, 0, 0] *= 1.1
    with pytest.raises(UserError, match="square pixels"):
        Cameras.from_opencv(extrinsics, intrinsics, SIZE)


def test_drawn_cameras_keep_to_their_law():
    config = CameraConfig([8, 30], "uniform", 20.0, [3.5, 3.8], [33.5, 33.5], 0.05)
    draws = Draws(0, 3, torch.arange(400))
    cameras, words = camera_law.draw_cameras(config, draws, (8, 8))
    place = cameras.c2w[:, :3, 3]
    azimuth = torch.rad2deg(torch.atan2(place[:, 0], -place[:, 1]))
    gap = (azimuth[:, None] - torch.tensor([-180.0, -90, 0, 90, 180])).abs().amin(1)
    assert gap.max() < 22  # the target's shift turns the camera a little round the origin
    assert torch.bincount(words, minlength=4).tolist() == [100, 200, 100, 0]
    assert all(len(set(words[i : i + 4].tolist())) == 3 for i in range(0, 400, 4))


@pytest.mark.parametrize("law", ELEVATION_LAWS)
def test_elevation_laws(law):
    config = CameraConfig(elevation=[-30, 90], elevation_law=law)
    up = torch.rad2deg(camera_law.draw_elevation(config, Draws(0, 0, torch.arange(20000))))
    low, mid = (up < 0).float().mean().item(), (up < 30).float().mean().item()
    # below 0 and below 30 degrees. uniform: 30 and 60 of 120; area: 0.5 and 1 of 1.5 in sine; mixed: half of each;
    # hemisphere: half of the time uniform, else none below 0 and sin 30 below 30
    wanted = {
        "uniform": (1 / 4, 1 / 2),
        "area": (1 / 3, 2 / 3),
        "mixed": (7 / 24, 7 / 12),
        "hemisphere": (1 / 8, 1 / 2),
    }
    assert (low, mid) == pytest.approx(wanted[law], abs=0.012)


def test_jitter_moves_place_target_and_up_by_their_laws():
    base = CameraConfig([20, 20], "uniform", 30.0, [3.0, 3.0], [40, 40], target=0.1)
    draws = Draws(0, 3, torch.arange(20000))
    still, words = camera_law.draw_cameras(base, draws, (8, 8))

    def moved(**jitter):
        found, told = camera_law.draw_cameras(dataclasses.replace(base, **jitter), draws, (8, 8))
        assert torch.equal(told, words)
        assert torch.equal(found.fovy, still.fovy)
        turn = found.c2w[:, :3, :3]
        torch.testing.assert_close(turn @ turn.transpose(1, 2), torch.eye(3).expand_as(turn), atol=1e-5, rtol=0)
        return found.c2w[:, :3, 3] - still.c2w[:, :3, 3], found.c2w

    offset, pose = moved(position_jitter=0.1)
    assert offset.abs().max() < 0.1 + 1e-5
    assert offset.std(0).tolist() == pytest.approx([0.2 / 12**0.5] * 3, rel=0.05)
    target = 0.1 * (2 * draws.uniform("target", 3) - 1)
    ahead = torch.einsum("bij,bi->bj", pose[:, :3, :3], target - pose[:, :3, 3])
    assert ahead[:, :2].abs().max() < 1e-5  # it still looks at its target
    assert pose[:, 2, 0].abs().max() < 1e-5  # … with a level horizon

    offset, pose = moved(target_jitter=0.2)
    assert offset.abs().max() < 1e-5
    away = (target - pose[:, :3, 3]).norm(dim=-1)
    seen = torch.einsum("bij,bi->bj", still.c2w[:, :3, :3], -pose[:, :3, 2]) * away[:, None]
    assert seen[:, :2].std(0).tolist() == pytest.approx([0.2, 0.2], rel=0.08)  # at the target's depth, about

    offset, pose = moved(up_jitter=0.02)
    assert offset.abs().max() < 1e-5
    torch.testing.assert_close(pose[:, :3, 2], still.c2w[:, :3, 2], atol=1e-5, rtol=0)
    roll = (pose[:, :3, 0] * still.c2w[:, :3, 1]).sum(-1)  # sine of the roll; up is seen shortened by cos 20
    assert roll.std().item() == pytest.approx(0.02 / math.cos(math.radians(20)), rel=0.05)


def test_looking_at_is_the_orbits_camera_and_has_an_up_at_the_poles(cameras):
    place, back = cameras.c2w[:, :3, 3], cameras.c2w[:, :3, 2]
    again = look_at(place, place - 2 * back, torch.tensor([[0.0, 0.0, 5.0]]).expand(6, 3), cameras.fovy, SIZE)
    torch.testing.assert_close(again.c2w, cameras.c2w, atol=1e-5, rtol=0)
    above = look_at(*(torch.tensor([[0.0, 0.0, z]]) for z in (2.0, 0.0, 1.0)), torch.ones(1), SIZE)
    assert torch.linalg.det(above.c2w).item() == pytest.approx(1)
    torch.testing.assert_close(above.c2w[0, :3, 1], torch.tensor([0.0, 1.0, 0.0]))


def test_view_words():
    config = CameraConfig(front=30, overhead=60)
    azimuth = torch.tensor([0.0, 29, 31, -90, 170, 370, 10]).deg2rad()
    elevation = torch.tensor([0.0, 0, 0, 0, 0, 0, 70]).deg2rad()
    words = camera_law.names(camera_law.view_words(config, elevation, azimuth))
    assert words == ["front", "front", "side", "side", "back", "front", "overhead"]
    # on the border, left and right get the same word
    borders = torch.tensor([45.0, -45, 315, 135, -135, 225]).deg2rad()
    assert camera_law.names(camera_law.view_words(CameraConfig(front=45), 0 * borders, borders)) == ["side"] * 6
    _, round_about = camera_law.eight_views(CameraConfig(front=45), (8, 8))
    assert camera_law.names(round_about) == ["front", "side", "side", "side", "back", "side", "side", "side"]
