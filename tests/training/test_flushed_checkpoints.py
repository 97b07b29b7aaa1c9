"""A checkpoint gets its name only when all of its files lie on the disk, so that a power cut leaves no empty ones."""

import os
from pathlib import Path

import pytest
import torch

from scorefield.training import checkpoint, shards

WEIGHTS = {"generator": {"w": torch.ones(3)}, "ema": {"w": torch.zeros(3)}, "online": {"v": torch.ones(2)}}


@pytest.fixture
def events(monkeypatch):
    """Inodes that were flushed and folders that were renamed, in order."""
    found, fsync, rename = [], os.fsync, Path.rename

    def flushed(handle):
        fsync(handle)
        found.append(os.fstat(handle).st_ino)

    def renamed(path, target):
        found.append(Path(target).name)
        return rename(path, target)

    monkeypatch.setattr(os, "fsync", flushed)
    monkeypatch.setattr(Path, "rename", renamed)
    return found


@pytest.mark.parametrize("save", [checkpoint.save, shards.save])
def test_every_file_is_on_the_disk_before_the_folder_has_its_name(tmp_path, events, save):
    folder = save(tmp_path, 7, WEIGHTS, {"images": 3})
    assert folder.name == "iteration-000007"
    before = events[: events.index(folder.name)]
    files = [path for path in folder.rglob("*") if path.is_file()]
    assert {"state.pt", "checkpoint.json"} < {path.name for path in files}
    assert [path.name for path in files if path.stat().st_ino not in before] == []
    assert checkpoint.damage(folder) == ""
