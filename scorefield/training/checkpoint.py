"""Checkpoints: a folder per saved iteration, renamed into place when whole, checked when read."""

import re
import shutil
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from scorefield.errors import UserError
from scorefield.files import flush, read_json, reason, write_json, write_text

PATTERN = re.compile(r"iteration-(\d{6,})$")


@dataclass
class Checkpoint:
    """What was read back: named weights of each part, the trainer's state, and the iteration to go on from."""

    iteration: int
    weights: dict[str, dict[str, Tensor]]
    state: dict[str, Any]
    folder: Path


def checksum(path: Path) -> int:
    """CRC-32 of a file, read in pieces."""
    value = 0
    with open(path, "rb") as file:
        while piece := file.read(1 << 22):
            value = zlib.crc32(piece, value)
    return value


def save(root: Path, iteration: int, weights: dict[str, dict[str, Tensor]], state: dict[str, Any]) -> Path:
    """Write checkpoint ``root``/iteration-NNNNNN, whole or not at all.

    Tensors that share memory are cloned apart (safetensors refuses shared ones). Raises UserError when the disk
    is full or not writable; what was there before stays.
    """
    folder = root / f"iteration-{iteration:06d}"
    part = root / f".{folder.name}.part"
    shutil.rmtree(part, ignore_errors=True)
    try:
        part.mkdir(parents=True)
        for name, tensors in weights.items():
            plain = {key: value.detach().cpu().contiguous().clone() for key, value in tensors.items()}
            save_file(plain, part / f"{name}.safetensors")
        torch.save(state, part / "state.pt")
        files = sorted(part.iterdir())
        for path in files:  # a name that outlives a power cut must not stand for files that do not
            flush(path)
        sums = {path.name: checksum(path) for path in files}
        write_json(part / "checkpoint.json", {"iteration": iteration, "crc32": sums})
        shutil.rmtree(folder, ignore_errors=True)
        part.rename(folder)
    except UserError:
        shutil.rmtree(part, ignore_errors=True)
        raise
    except Exception as error:  # a full disk reaches us as OSError, RuntimeError or SafetensorError
        shutil.rmtree(part, ignore_errors=True)
        raise UserError(
            f"cannot write checkpoint {folder}: {reason(error)} (earlier ones are untouched; free space, then --resume)"
        ) from error
    return folder


def listed(root: Path) -> list[Path]:
    """Checkpoint folders, newest first."""
    found = [(int(m.group(1)), p) for p in root.glob("iteration-*") if (m := PATTERN.match(p.name))]
    return [path for _, path in sorted(found, reverse=True)]


def damage(folder: Path) -> str:
    """Why a checkpoint cannot be used; "" when it is whole."""
    try:
        record = read_json(folder / "checkpoint.json")
        sums = record["crc32"]
    except (UserError, KeyError, TypeError) as error:
        return str(error)
    for name, value in sums.items():
        path = folder / name
        if not path.exists():
            return f"{name} is missing"
        if checksum(path) != value:
            return f"{name} is truncated or changed"
    return ""


def load(folder: Path, parts: list[str] | None = None) -> Checkpoint:
    """Read a whole checkpoint; raises UserError that says what is wrong with a damaged one."""
    if why := damage(folder):
        raise UserError(f"checkpoint {folder} cannot be used: {why}")
    if (folder / "shards").is_dir():
        from scorefield.training import shards

        weights = shards.read(folder, parts)
    else:
        names = [path.stem for path in folder.glob("*.safetensors")]
        weights = {name: load_file(folder / f"{name}.safetensors") for name in names if parts is None or name in parts}
    state = torch.load(folder / "state.pt", map_location="cpu", weights_only=True)
    return Checkpoint(read_json(folder / "checkpoint.json")["iteration"], weights, state, folder)


def newest_whole(root: Path, say=lambda text: None) -> Path | None:
    """The newest checkpoint that passes its checks; says which damaged ones were passed over."""
    for folder in listed(root):
        why = damage(folder)
        if not why:
            return folder
        say(f"checkpoint {folder.name} cannot be used ({why}); falling back to an older one")
    return None


def prune(root: Path, keep: int, spare: set[str]) -> None:
    """Remove all but the ``keep`` newest checkpoints and those named in ``spare``."""
    for folder in listed(root)[keep:]:
        if folder.name not in spare:
            shutil.rmtree(folder, ignore_errors=True)


def point(root: Path, name: str, target: str) -> None:
    """NAME.txt says which checkpoint folder is the latest or the best."""
    write_text(root / f"{name}.txt", target + "\n")
