"""Files are whole or not there, whichever library writes them and however the disk fails it."""

import errno
import os
import subprocess
import sys
from pathlib import Path

import pytest

from scorefield.errors import UserError
from scorefield.files import write_atomically, write_folder, write_text

ROOT = Path(__file__).resolve().parents[1]
WRITERS = {
    "bytes": "lambda part: part.write_bytes(bytes(4_000_000))",
    "torch": "lambda part: torch.save({'a': torch.zeros(1_000_000)}, part)",
    "safetensors": "lambda part: save_file({'a': torch.zeros(1_000_000)}, part)",
}
PROBE = """
import resource, sys
from pathlib import Path
import torch
from safetensors.torch import save_file
from scorefield.errors import UserError
from scorefield.files import write_atomically
resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))
for write in (WRITERS):
    try:
        write_atomically(Path(sys.argv[1]) / "file", write)
    except UserError as error:
        print(error)
"""


def test_a_full_disk_is_one_clear_line_from_every_library(tmp_path):
    """A limit on file sizes stands in for the disk."""
    write_text(tmp_path / "file", "as it was")
    code = PROBE.replace("WRITERS", ", ".join(WRITERS.values()))
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    done = subprocess.run([sys.executable, "-c", code, str(tmp_path)], capture_output=True, text=True, env=environment)
    assert done.returncode == 0, done.stderr
    said = done.stdout.splitlines()
    assert len(said) == len(WRITERS)
    for line in said:
        assert line.startswith(f"cannot write {tmp_path / 'file'}: ")
        assert line.endswith("(nothing was changed)")
        assert "File too large" in line or "disk is full" in line
    assert [(path.name, path.read_text()) for path in tmp_path.iterdir()] == [("file", "as it was")]


def test_a_mistake_in_the_writer_is_no_full_disk(tmp_path):
    def mistaken(part):
        raise RuntimeError("shapes do not fit")

    for write in (write_atomically, write_folder):
        with pytest.raises(RuntimeError, match="shapes do not fit"):
            write(tmp_path / "x", mistaken)
    assert list(tmp_path.iterdir()) == []


def test_a_folder_is_replaced_whole_or_not_at_all(tmp_path):
    def good(part):
        part.mkdir()
        (part / "a").write_text("new")

    def bad(part):
        good(part)
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    write_folder(tmp_path / "deep" / "x", good)
    (tmp_path / "deep" / "x" / "b").write_text("only in the old one")
    with pytest.raises(UserError, match=r"x: No space left on device"):
        write_folder(tmp_path / "deep" / "x", bad)
    assert sorted(p.name for p in (tmp_path / "deep" / "x").iterdir()) == ["a", "b"]
    write_folder(tmp_path / "deep" / "x", good)
    assert [p.name for p in (tmp_path / "deep" / "x").iterdir()] == ["a"]
    assert [p.name for p in (tmp_path / "deep").iterdir()] == ["x"]
