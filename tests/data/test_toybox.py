"""Toybox: deterministic by index, true to its captions, its pictures true to its geometry."""

import pytest
import torch

from scorefield.data import toybox
from scorefield.data.toybox.models import FRONTLESS
from scorefield.data.toybox.render import pixel_rays
from scorefield.errors import UserError


def test_a_scene_depends_on_seed_and_index_only():
    whole, scenes = toybox.images(range(12), seed=3)
    piece, _ = toybox.images([7, 2], seed=3)
    assert torch.equal(whole[[7, 2]], piece)
    other, _ = toybox.images(range(12), seed=4)
    assert not torch.equal(whole, other)
    assert toybox.caption(scenes, range(12), 3)[5:6] == toybox.caption(scenes[5:6], [5], 3)


def test_attributes_are_near_uniform_and_independent():
    scenes = toybox.sample_scenes(range(20_000), seed=0)
    colors = torch.bincount(scenes.color, minlength=len(toybox.COLORS)).float()
    objects = torch.bincount(scenes.object, minlength=len(toybox.OBJECTS)).float()
    for counts in (colors, objects):
        expected = counts.mean()
        assert ((counts - expected).square() / expected).sum() < 45  # chi-square, 13 degrees: far beyond 99.9 %
    pairs = torch.bincount(scenes.object * len(toybox.COLORS) + scenes.color).float()
    assert ((pairs - pairs.mean()).square() / pairs.mean()).sum() < 180  # 111 degrees of freedom


def test_views_keep_to_their_ranges_with_gaps_between():
    scenes = toybox.sample_scenes(range(5000), seed=0)
    for view, centre in ((0, 0.0), (2, 180.0)):
        turn = (scenes.azimuth_deg[scenes.view == view] - centre).abs()
        assert turn.max() <= 22.0
    side = scenes.azimuth_deg[scenes.view == 1].abs()
    assert side.min() >= 68
    assert side.max() <= 112
    frontless = [toybox.OBJECTS.index(name) for name in FRONTLESS]
    assert set(scenes.object[scenes.view < 0].tolist()) == set(frontless)


def test_captions_say_what_is_there_and_parse_gives_it_back():
    scenes = toybox.sample_scenes(range(5000), seed=5)
    captions = toybox.caption(scenes, range(5000), 5)
    assert len(set(captions)) > 1000
    for k, text in enumerate(captions):
        found = toybox.parse(text)
        assert len(text.encode()) <= 56
        assert (found.object, found.color, found.view) == (scenes.object[k], scenes.color[k], scenes.view[k])
        assert found.background in (-1, scenes.background[k])
    assert toybox.parse("a nice day") is None
    assert toybox.parse("A RED chair!").view == -1


def test_everyday_words_mean_the_names():
    for said, meant in {
        "a gray-backed picture of two red airplanes, rear view": "red aeroplane, back view",
        "violet cups seen from the side": "purple mug, side view",
        "two scarlet armchairs in profile": "a red chair, side view",
        "a light blue desk": "a blue table",
        "an aqua toadstool": "a cyan mushroom",
        "frontal shot of three green snowmen": "a green snowman, front view",
        "the backside of a pink teddybear": "a pink bear, back view",
        "orange fir, white background": "an orange tree on white",
        "a blue plane seen from behind, gray background": "blue aeroplane, back view, grey background",
    }.items():
        got, want = toybox.parse(said), toybox.parse(meant)
        assert (got.object, got.color, got.view) == (want.object, want.color, want.view)
    captions = toybox.prompts(3000, seed=2)
    assert sum("airplane" in text for text in captions) > 10
    assert sum("aeroplane" in text for text in captions) > 50


@pytest.mark.parametrize("name", toybox.OBJECTS)
def test_hits_lie_on_the_signed_distance_zero_set(name):
    scenes = toybox.sample_scenes(range(4), seed=1, object=name)
    depth = toybox.render(scenes, 32, supersample=1).depth.flatten(1)
    origin, direction = pixel_rays(scenes, 32, 1)
    for k in range(4):
        seen = torch.isfinite(depth[k])
        points = (origin[k] + depth[k][seen, None] * direction[k][seen]) / scenes.size[k]
        assert seen.sum() > 30
        assert toybox.sdf(name, points).abs().max() < 2e-3


def test_sphere_tracing_the_distance_finds_the_same_depth():
    scenes = toybox.sample_scenes([11], seed=2, object="robot")
    depth = toybox.render(scenes, 24, supersample=1).depth.flatten()
    origin, direction = pixel_rays(scenes, 24, 1)
    rows = torch.isfinite(depth).nonzero().flatten()[::7]
    t = torch.full(rows.shape, 2.0)
    for _ in range(400):
        points = (origin[0] + t[:, None] * direction[0][rows]) / scenes.size
        t = t + 0.5 * scenes.size * toybox.sdf("robot", points)
    close = (t - depth[rows]).abs() < 5e-3
    assert close.float().mean() > 0.97  # a ray that grazes an edge may slip past in one of the two


def test_camera_looks_at_the_middle_of_the_picture():
    scenes = toybox.sample_scenes(range(20), seed=0)
    pose = toybox.camera_to_world(scenes)
    toward = scenes.look_at - pose[:, :3, 3]
    assert torch.allclose(toward / toward.norm(dim=1, keepdim=True), -pose[:, :3, 2], atol=1e-5)
    assert torch.allclose(pose[:, :3, :3] @ pose[:, :3, :3].mT, torch.eye(3).expand(20, 3, 3), atol=1e-5)


def test_objects_stay_inside_the_frame_and_views_differ():
    scenes = toybox.sample_scenes(range(600), seed=0)
    mask = toybox.render(scenes, 32, supersample=1).mask
    edge = torch.cat([mask[:, 0], mask[:, -1], mask[:, :, 0], mask[:, :, -1]], 1).amax(1)
    assert edge.max() == 0
    for name in toybox.OBJECTS:
        if name in FRONTLESS:
            continue
        means = []
        for view in toybox.VIEWS:
            pictures, _ = toybox.images(range(24), 3, resolution=24, object=name, view=view, color=0, background=0)
            means.append(pictures.float().mean(0))
        for a, b in ((0, 1), (0, 2), (1, 2)):
            assert (means[a] - means[b]).abs().max() > 12, (name, a, b)


def test_unknown_names_are_refused():
    with pytest.raises(UserError, match="chair"):
        toybox.sample_scenes([0], 0, object="chairs")
    for wrong in (-1, 99, torch.tensor([99]), torch.tensor([-2])):
        with pytest.raises(UserError, match="object"):
            toybox.sample_scenes([0], 0, object=wrong)
    with pytest.raises(UserError, match="resolution"):
        toybox.render(toybox.sample_scenes([0], 0), resolution=0)
