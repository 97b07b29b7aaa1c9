"""Unwrapping, baking, files and pictures of meshes, checked against what the field is known to look like."""

import json
import struct
from io import BytesIO

import imageio.v2 as imageio
import numpy as np
import pytest
import torch
from PIL import Image

from scorefield.errors import UserError
from scorefield.three_d import asset, bake, export, mesh, raster, turntable, unwrap, view
from tests.three_d.shapes import Ball


@pytest.fixture(scope="module")
def ball():
    made, _ = asset.extract(Ball(radius=0.6, density=200.0, softness=0.01), 40, 20.0, 1500)
    return bake.bake(unwrap.unwrap(made, 256), Ball(radius=0.6, density=200.0, softness=0.01), 256)


def colours_at(points):
    """Which of the ball's eight colours belongs to points [N, 3], as uint8."""
    return np.where(points > 0, 230, 51)


def far_from_edges(points):
    return (np.abs(points) > 0.06).all(1)


def test_pixels_are_those_whose_centres_lie_inside():
    corners = np.array([[[0.0, 0.0], [4.0, 0.0], [0.0, 4.0]], [[4.0, 4.0], [4.0, 0.0], [0.0, 4.0]]])
    triangle, weights = raster.nearest(corners, None, 4, 4)
    rows, columns = np.mgrid[:4, :4]
    assert (triangle[rows + columns < 3] == 0).all()
    assert (triangle[rows + columns > 3] == 1).all()
    assert (triangle >= 0).all()  # the diagonal belongs to one of the two
    place = (weights[..., None] * corners[triangle]).sum(2)
    np.testing.assert_allclose(place, np.stack([columns + 0.5, rows + 0.5], -1), atol=1e-9)
    near = np.array([[1.0, 1.0, 1.0], [2.0, 2.0, 2.0]])
    both = np.concatenate([corners[:1], corners[:1]])
    assert (raster.nearest(both, near, 4, 4)[0][rows + columns < 3] == 1).all()
    assert (raster.nearest(np.full((1, 3, 2), np.nan), None, 4, 4)[0] == -1).all()


def test_each_texel_has_the_colour_of_its_place(ball):
    triangle, weights = raster.nearest(ball.uv[ball.faces] * 256, None, 256, 256)
    covered = triangle >= 0
    assert covered.mean() > 0.4
    points = (ball.vertices[ball.faces[triangle[covered]]] * weights[covered][..., None]).sum(1)
    sure = far_from_edges(points)
    np.testing.assert_allclose(ball.texture[covered][sure], colours_at(points[sure]), atol=2)
    assert (ball.texture.max(-1) > 40).all()  # gaps are filled: no black anywhere


def test_unwrapping_refuses_what_would_take_hours(ball):
    with pytest.raises(UserError, match=r"1500 faces, too many to unwrap.*the limit is 100"):
        unwrap.unwrap(mesh.Mesh(ball.vertices, ball.faces[:1500]), 256, limit=100)


def test_the_most_faces_that_may_be_asked_for_are_unwrapped(ball, monkeypatch):
    """Parting sheets adds a few faces to a decimated mesh."""
    rough = mesh.Mesh(ball.vertices, ball.faces)
    monkeypatch.setattr(unwrap, "LIMIT", len(rough.faces) - 10)
    monkeypatch.setattr(asset, "extract", lambda *given: (rough, {}))
    made, _ = asset.textured(Ball(), asset.AssetConfig(faces=unwrap.LIMIT, texture=64))
    assert len(made.faces) == len(rough.faces)
    monkeypatch.setattr(unwrap, "LIMIT", 1000)
    with pytest.raises(UserError, match="too many to unwrap"):
        asset.textured(Ball(), asset.AssetConfig(faces=1000, texture=64))


def read_chunks(path):
    """(JSON, binary) of a GLB, read without any library."""
    data = path.read_bytes()
    assert struct.unpack_from("<4sII", data) == (b"glTF", 2, len(data))
    length, kind = struct.unpack_from("<I4s", data, 12)
    assert kind == b"JSON"
    return json.loads(data[20 : 20 + length]), data[28 + length :]


def test_the_glb_holds_its_texture_the_right_way_up(ball, tmp_path):
    tree, binary = read_chunks(export.write_glb(ball, tmp_path / "ball.glb"))
    material = tree["materials"][0]["pbrMetallicRoughness"]
    assert material["metallicFactor"] == 0
    assert material["roughnessFactor"] == 1
    image = tree["images"][tree["textures"][material["baseColorTexture"]["index"]]["source"]]

    def chunk(number):
        part = tree["bufferViews"][number]
        return binary[part.get("byteOffset", 0) :][: part["byteLength"]]

    picture = np.array(Image.open(BytesIO(chunk(image["bufferView"]))).convert("RGB"))
    np.testing.assert_array_equal(picture, ball.texture)
    names = tree["meshes"][0]["primitives"][0]["attributes"]
    read = {
        key: np.frombuffer(chunk(tree["accessors"][names[key]]["bufferView"]), dtype="<f4").reshape(-1, width)
        for key, width in (("POSITION", 3), ("TEXCOORD_0", 2))
    }
    # glTF: y up, front +z, v downwards: colour under each vertex by the file alone, place in our world by hand
    x, y, z = read["POSITION"].T
    world = np.stack([x, -z, y], -1)
    texel = np.clip((read["TEXCOORD_0"] * 256).astype(int), 0, 255)
    sure = far_from_edges(world)
    assert sure.sum() > 300
    np.testing.assert_allclose(picture[texel[:, 1], texel[:, 0]][sure], colours_at(world[sure]), atol=6)


def test_files_come_back_as_they_were_written(ball, tmp_path):
    import trimesh

    paths = export.write_all(ball, tmp_path, "ball")
    back = export.read_glb(paths["glb"])
    np.testing.assert_allclose(back.vertices, ball.vertices, atol=1e-6)
    np.testing.assert_array_equal(back.faces, ball.faces)
    np.testing.assert_allclose(back.uv, ball.uv, atol=1e-6)
    np.testing.assert_array_equal(back.texture, ball.texture)
    seen = trimesh.load(paths["glb"], force="mesh", process=False)
    seen.merge_vertices(merge_tex=True, merge_norm=True)  # seams of the texture are no open edges
    assert seen.is_watertight
    wave = trimesh.load(paths["obj"], process=False)
    picture = np.array(wave.visual.material.image.convert("RGB"))
    places = np.array(wave.vertices)[:, [0, 2, 1]] * [1, -1, 1]
    texel = np.clip((np.array(wave.visual.uv) * [256, -256] + [0, 256]).astype(int), 0, 255)
    sure = far_from_edges(places)
    np.testing.assert_allclose(picture[texel[:, 1], texel[:, 0]][sure], colours_at(places[sure]), atol=6)
    points = trimesh.load(paths["ply"], process=False)
    assert len(points.vertices) == len(ball.vertices)
    np.testing.assert_array_equal(np.array(points.visual.vertex_colors)[:, :3], ball.colours)
    (tmp_path / "cut.glb").write_bytes(paths["glb"].read_bytes()[:500])
    with pytest.raises(UserError, match=r"cannot read a textured mesh from .*cut\.glb"):
        export.read_glb(tmp_path / "cut.glb")


def test_a_rendered_mesh_agrees_with_rays_against_the_sphere(ball):
    cameras = turntable.cameras_round(4, 20.0, 3.0, 35.0, 48)
    colour, alpha = view.render_mesh(ball, cameras, supersample=1)
    origin, direction = cameras.rays()
    along = -(origin * direction).sum(-1)
    beside = (origin.square().sum(-1) - along.square()).sqrt()
    cover = np.linalg.norm(ball.vertices, axis=1).mean()
    sure = (beside - cover).abs() > 0.03
    assert ((alpha[:, 0] > 0.5) == (beside < cover))[sure].all()
    hit = origin + (along - (cover**2 - beside.square()).clamp_min(0).sqrt())[..., None] * direction
    inner = (beside < cover - 0.05) & (hit.abs() > 0.08).all(-1)
    expected = torch.where(hit > 0, 0.9, 0.2)
    assert (colour.permute(0, 2, 3, 1) - expected)[inner].abs().max() < 0.03


def test_turntables_can_be_played(tmp_path):
    frames = torch.rand(6, 3, 40, 50)
    paths = turntable.write_turntable(frames, tmp_path, "turn")
    film = imageio.get_reader(paths["mp4"])
    assert film.count_frames() == 6
    assert film.get_data(0).shape == (48, 64, 3)
    assert len(imageio.mimread(paths["gif"])) == 6
    assert sorted(path.name for path in tmp_path.iterdir()) == ["turn.gif", "turn.mp4"]
    with pytest.raises(UserError, match="N >= 2"):
        turntable.write_turntable(frames[:1], tmp_path, "one")


def test_an_empty_field_leaves_nothing_behind(tmp_path):
    cameras = turntable.cameras_round(2, 20.0, 3.0, 35.0, 32)
    config = asset.AssetConfig(resolution=24, faces=500, texture=64, frames=2, side=32)
    with pytest.raises(UserError, match="density field is empty"):
        asset.make(Ball(density=1e-4), tmp_path, "none", config, cameras)
    assert list(tmp_path.iterdir()) == []
    made = asset.make(Ball(), tmp_path, "ball", config, cameras)
    assert {path.suffix for path in tmp_path.iterdir()} == {".glb", ".obj", ".mtl", ".png", ".ply", ".mp4", ".gif"}
    assert made["watertight"]
    for bad in ({"faces": 5}, {"texture": 8}, {"resolution": 4}, {"frames": 1}, {"threshold": -1.0}):
        with pytest.raises(UserError, match=f"assets.{next(iter(bad))}"):
            asset.AssetConfig(**bad)
