"""Splats as files: the standard layout, read by columns, and back again as the same picture."""

import re

import numpy as np
import pytest
import torch

from scorefield.errors import UserError
from scorefield.three_d.asset import AssetConfig
from scorefield.three_d.cameras import orbit
from scorefield.three_d.splat_files import C0, make, read_splats, write_splats
from scorefield.three_d.splatting import Gaussians, splat
from scorefield.three_d.turntable import cameras_round


def some(count=20) -> Gaussians:
    rng = torch.Generator().manual_seed(0)
    draw = lambda *shape: torch.randn(*shape, generator=rng)  # noqa: E731
    scales, shades = (0.4 * draw(count, 3) - 2).exp(), draw(count, 3).sigmoid()
    return Gaussians(0.3 * draw(count, 3), scales, draw(count, 4), draw(count).sigmoid(), shades)


def test_columns_are_those_of_the_published_layout(tmp_path):
    gaussians = some()
    data = write_splats(gaussians, tmp_path / "a.ply").read_bytes()
    head, body = data.split(b"end_header\n", 1)
    assert head.startswith(b"ply\nformat binary_little_endian 1.0\nelement vertex 20\n")
    names = re.findall(r"property float (\w+)", head.decode())
    harmonics = ["f_dc_0", "f_dc_1", "f_dc_2"]
    turns = ["rot_0", "rot_1", "rot_2", "rot_3"]
    assert names == [*"xyz", "nx", "ny", "nz", *harmonics, "opacity", "scale_0", "scale_1", "scale_2", *turns]
    table = dict(zip(names, np.frombuffer(body, "<f4").reshape(20, 17).T, strict=True))
    x, y, z = gaussians.means.T
    np.testing.assert_allclose([table["x"], table["y"], table["z"]], np.stack([x, z, -y]), atol=1e-6)
    np.testing.assert_allclose(1 / (1 + np.exp(-table["opacity"])), gaussians.opacities, atol=1e-6)
    np.testing.assert_allclose(np.exp(table["scale_1"]), gaussians.scales[:, 1], rtol=1e-5)
    np.testing.assert_allclose(0.5 + C0 * table["f_dc_2"], gaussians.colours[:, 2], atol=1e-6)


def test_a_file_shows_the_same_picture_and_another_is_refused(tmp_path):
    gaussians, path = some(), tmp_path / "a.ply"
    write_splats(gaussians, path)
    views = orbit(torch.tensor([0.2, -0.5]), torch.tensor([0.4, 2.5]), 2.0, 0.8, (24, 24))
    grey = torch.full((2, 3), 0.5)
    torch.testing.assert_close(
        splat(read_splats(path), views, grey).image, splat(gaussians, views, grey).image, atol=1e-4, rtol=1e-3
    )
    path.write_bytes(path.read_bytes()[:-4])
    with pytest.raises(UserError, match="cut off"):
        read_splats(path)
    path.write_bytes(b"ply\nformat ascii 1.0\nend_header\n")
    with pytest.raises(UserError, match="no binary PLY"):
        read_splats(path)
    gaussians.means[3] = torch.nan
    with pytest.raises(UserError, match="1 of 20 Gaussians"):
        write_splats(gaussians, tmp_path / "b.ply")
    assert not (tmp_path / "b.ply").exists()


def test_an_asset_of_splats_is_a_file_and_a_turntable(tmp_path):
    record = make(some(), tmp_path, "one", AssetConfig(side=16, frames=2), cameras_round(2, 20.0, 3.0, 35.0, 16))
    assert {path.name for path in tmp_path.iterdir()} == {"one.ply", "one.mp4", "one.gif"}
    assert record["gaussians"] == 20
    assert record["watertight"] is None
