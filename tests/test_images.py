"""Pictures to disk and back: exact bytes, grids that can be cut again, clear refusals."""

import pytest
import torch
from PIL import Image

from scorefield.errors import UserError
from scorefield.images import cut_grid, load_image, save_grid, save_image, to_float, to_uint8

torch.set_num_threads(1)


def pictures(n: int, height: int = 8, width: int = 8) -> torch.Tensor:
    generator = torch.Generator().manual_seed(n)
    return to_float(torch.randint(0, 256, (n, 3, height, width), generator=generator, dtype=torch.uint8))


def test_every_byte_survives_the_round_trip():
    levels = torch.arange(256, dtype=torch.uint8)
    assert torch.equal(to_uint8(to_float(levels)), levels)
    assert to_float(levels)[0] == -1
    assert to_float(levels)[255] == 1


def test_rounding_is_to_the_nearest_and_outliers_are_clamped():
    values = torch.tensor([-3.0, -1.0, 0.4 / 127.5 - 1, 0.6 / 127.5 - 1, 1.0, 7.0, float("nan"), float("inf")])
    assert to_uint8(values).tolist() == [0, 0, 0, 1, 255, 255, 0, 255]
    half = to_uint8(torch.tensor([0.25], dtype=torch.bfloat16))
    assert half.item() == round(1.25 * 127.5)


def test_one_picture_survives_a_file(tmp_path):
    picture = pictures(1, 5, 9)[0]
    save_image(picture, tmp_path / "deep" / "a.png")
    assert torch.equal(load_image(tmp_path / "deep" / "a.png"), picture)
    assert [p.name for p in (tmp_path / "deep").iterdir()] == ["a.png"]


def test_transparency_falls_on_white(tmp_path):
    Image.new("RGBA", (2, 2), (255, 0, 0, 0)).save(tmp_path / "clear.png")
    assert torch.equal(load_image(tmp_path / "clear.png"), torch.ones(3, 2, 2))


@pytest.mark.parametrize(("n", "columns"), [(1, 1), (6, 3), (7, 3), (2, 5)])
def test_grids_can_be_cut_again(tmp_path, n, columns):
    tiles = pictures(n, 6, 10)
    save_grid(tiles, tmp_path / "grid.png", columns)
    with Image.open(tmp_path / "grid.png") as file:
        assert file.size == (columns * 10, -(-n // columns) * 6)
    assert torch.equal(cut_grid(tmp_path / "grid.png", (6, 10), columns, n), tiles)
    assert torch.equal(cut_grid(tmp_path / "grid.png", (6, 10), columns, 1), tiles[:1])


def test_labels_are_drawn_below_and_leave_the_tiles_alone(tmp_path):
    tiles = -torch.ones(4, 3, 64, 64)
    labels = ["a red chair", "", "a very long caption " * 9, "Donaudampfschifffahrtsgesellschaft"]
    save_grid(tiles, tmp_path / "grid.png", 2, labels)
    sheet = load_image(tmp_path / "grid.png")
    cell = sheet.shape[1] // 2
    assert cell > 64
    assert (sheet[:, :64] == -1).all()
    below = sheet[:, 64:cell]
    assert (below[:, :, :64] < 0).any()
    assert (below[:, :, 64:] == 1).all()  # an empty label leaves the paper white
    assert (sheet[:, cell + 64 :, 64:] < 0).any()


def test_bad_pictures_are_refused(tmp_path):
    (tmp_path / "text.png").write_text("no picture")
    save_grid(pictures(4), tmp_path / "grid.png", 2)
    whole = (tmp_path / "grid.png").read_bytes()
    (tmp_path / "cut.png").write_bytes(whole[: len(whole) // 2])
    calls = [
        (lambda: load_image(tmp_path / "none.png"), "none.png"),
        (lambda: load_image(tmp_path / "text.png"), "text.png"),
        (lambda: load_image(tmp_path / "cut.png"), "cut.png"),
        (lambda: cut_grid(tmp_path / "grid.png", 8, 3, 4), "were expected"),
        (lambda: cut_grid(tmp_path / "grid.png", 8, 2, 5), "were expected"),
        (lambda: cut_grid(tmp_path / "grid.png", 0, 2, 4), "at least 1"),
        (lambda: save_grid(pictures(4), tmp_path / "x.png", 0), "at least 1 column"),
        (lambda: save_grid(pictures(4), tmp_path / "x.png", 2, ["one"]), "as many labels"),
        (lambda: save_grid(pictures(4)[:0], tmp_path / "x.png", 2), "N >= 1"),
        (lambda: save_image(pictures(4), tmp_path / "x.png"), "height, width"),
        (lambda: to_uint8(torch.zeros(2, dtype=torch.long)), "int64"),
        (lambda: to_float(torch.zeros(2)), "float32"),
    ]
    for call, message in calls:
        with pytest.raises(UserError, match=message):
            call()
    assert not (tmp_path / "x.png").exists()
