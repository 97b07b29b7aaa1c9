"""Labelled pictures: Toybox, .npz and folders agree in form; what does not fit is refused in one sentence."""

import numpy as np
import pytest
import torch
from PIL import Image

from scorefield.data import toybox
from scorefield.errors import UserError
from scorefield.pretrain import labelled


def test_toybox_labels_are_the_scenes():
    found = labelled.read("toybox", resolution=16, count=40, seed=3)
    pictures, scenes = toybox.images(range(40), 3, resolution=16)
    assert torch.equal(found.images, pictures)
    assert torch.equal(found.labels, scenes.object)
    assert found.classes == 14
    both = labelled.read("toybox", resolution=16, count=40, seed=3, label="object-color")
    assert both.classes == 14 * 8
    for head, attribute in (("object", scenes.object), ("color", scenes.color)):
        assert torch.equal(both.truth[head][both.labels], attribute)
    name = f"{toybox.COLORS[scenes.color[5]]} {toybox.OBJECTS[scenes.object[5]]}"
    assert both.names[both.labels[5]] == name
    with pytest.raises(UserError, match="object-color"):
        labelled.read("toybox", resolution=16, count=4, label="color")


@pytest.mark.parametrize("channels_last", [True, False])
def test_npz_in_both_layouts(tmp_path, channels_last):
    images = torch.randint(0, 256, (10, 3, 8, 8), dtype=torch.uint8)
    stored = images.permute(0, 2, 3, 1) if channels_last else images
    np.savez(tmp_path / "a.npz", images=stored.numpy(), labels=np.arange(10, dtype=np.int32) % 4)
    found = labelled.read(str(tmp_path / "a.npz"), resolution=8, count=100)
    assert torch.equal(found.images, images)
    assert found.labels.dtype == torch.int64
    assert found.names == ["0", "1", "2", "3"]
    few = labelled.read(str(tmp_path / "a.npz"), resolution=8, count=5)
    assert len(few) == 5
    assert few.classes == 4


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"images": np.zeros((6, 8, 9, 3), np.uint8)}, "square"),
        ({"images": np.zeros((6, 8, 8, 3), np.float32)}, "uint8"),
        ({"images": np.zeros((0, 8, 8, 3), np.uint8), "labels": np.zeros(0, int)}, "integers"),
        ({"labels": np.arange(5)}, "one a picture"),
        ({"labels": np.zeros(6)}, "integers"),
        ({"labels": np.array([-1, 0, 0, 0, 0, 0])}, "-1"),
        ({"labels": np.array([10**9, 0, 0, 0, 0, 0])}, "number classes"),
        ({"labels": np.arange(6), "classes": np.array(["a", "b"])}, "0 to 1"),
        ({"images": np.zeros((6, 16, 16, 3), np.uint8)}, "resolution=16"),
        ({"images": np.array([object()], dtype=object)}, "cannot read"),
    ],
)
def test_bad_npz(tmp_path, change, message):
    content = {"images": np.zeros((6, 8, 8, 3), np.uint8), "labels": np.arange(6) % 2, **change}
    np.savez(tmp_path / "a.npz", **content)
    with pytest.raises(UserError, match=message):
        labelled.read(str(tmp_path / "a.npz"), resolution=8, count=100)


def test_files_that_are_no_npz(tmp_path):
    (tmp_path / "text.npz").write_text("no archive")
    np.savez(tmp_path / "other.npz", x=np.zeros(3))
    for name, message in (("text.npz", "cannot read"), ("other.npz", "images"), ("none.npz", "neither")):
        with pytest.raises(UserError, match=message):
            labelled.read(str(tmp_path / name), resolution=8, count=1)


def test_folder_of_classes(tmp_path):
    for kind, value, count in (("cat", 10, 3), ("ant", 200, 5)):
        (tmp_path / kind).mkdir()
        for k in range(count):
            Image.new("RGB", (12, 20), (value, k, 0)).save(tmp_path / kind / f"{k}.png")
    found = labelled.read(str(tmp_path), resolution=8, count=100)
    assert found.names == ["ant", "cat"]
    assert found.images.shape == (8, 3, 8, 8)
    assert torch.equal(found.images[:, 0, 0, 0] == 200, found.labels == 0)
    assert sorted(labelled.read(str(tmp_path), resolution=8, count=4).labels.tolist()) == [0, 0, 1, 1]
    (tmp_path / "bat").mkdir()
    with pytest.raises(UserError, match="bat holds no picture"):
        labelled.read(str(tmp_path), resolution=8, count=100)
    (tmp_path / "bat" / "0.png").write_bytes(b"broken")
    with pytest.raises(UserError, match="cannot read the picture"):
        labelled.read(str(tmp_path), resolution=8, count=100)


def test_folder_without_classes(tmp_path):
    Image.new("RGB", (8, 8)).save(tmp_path / "0.png")
    with pytest.raises(UserError, match=r"CLASS/name\.png"):
        labelled.read(str(tmp_path), resolution=8, count=1)


def test_cut_sets_aside_other_pictures():
    images = torch.arange(20).view(20, 1, 1, 1).expand(20, 3, 4, 4).byte()
    train, held_out = labelled.cut(labelled.classified(images, torch.arange(20) % 2, ["a", "b"]), 5, seed=0)
    assert (len(train), len(held_out)) == (15, 5)
    seen = torch.cat([train.images, held_out.images])[:, 0, 0, 0]
    assert sorted(seen.tolist()) == list(range(20))
    assert torch.equal(held_out.attributes["class"], held_out.images[:, 0, 0, 0].long() % 2)
    with pytest.raises(UserError, match="held_out"):
        labelled.cut(train, 15, seed=0)
