"""Files are written whole or not at all: to a neighbour first, flushed to disk, then renamed."""

import hashlib
import json
import os
import re
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from scorefield.errors import UserError


def make_folder(path: Path) -> None:
    """Make a folder with its parents; raises UserError, naming it, where that cannot be."""
    if re.match(r"[a-z0-9+]{2,}:/", str(path)):
        raise UserError(f"{path} is a URL: only run, sample, evaluate, export and report take those, for a run folder")
    try:
        Path(path).mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"cannot make the folder {path}: {reason(error)}") from error


def write_atomically(path: Path, write: Callable[[Path], object]) -> None:
    """Let ``write`` fill a temporary neighbour of ``path``, then rename it into place.

    A reader sees the old file or the new one. Raises UserError, naming the file, if the disk is full or the folder
    cannot be written; the temporary file is removed in every case. ``write`` may be a library's own writer.
    """
    path = Path(path)
    make_folder(path.parent)
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.", suffix=".part")
    os.close(handle)
    temporary = Path(name)
    try:
        write(temporary)
        flush(temporary)
        temporary.chmod(0o644)
        os.replace(temporary, path)
    except Exception as error:
        if not of_the_disk(error):
            raise
        raise UserError(f"cannot write {path}: {reason(error)} (nothing was changed)") from error
    finally:
        temporary.unlink(missing_ok=True)


def flush(path: Path) -> None:
    """Wait until the content of a file that was written lies on the disk."""
    with open(path, "rb") as file:
        os.fsync(file.fileno())


def write_folder(path: Path, write: Callable[[Path], None]) -> None:
    """Let ``write`` make the folder beside ``path``, then put it in the place of ``path``.

    Raises UserError, naming the folder, if the disk is full; a half-written folder is removed in every case.
    """
    path = Path(path)
    part = path.with_name(f".{path.name}.part")
    shutil.rmtree(part, ignore_errors=True)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write(part)
        shutil.rmtree(path, ignore_errors=True)
        part.rename(path)
    except Exception as error:
        if not of_the_disk(error):
            raise
        raise UserError(f"cannot write {path}: {reason(error)}") from error
    finally:
        shutil.rmtree(part, ignore_errors=True)


def digest(path: Path) -> str:
    """sha256 of a file, in hexadecimal."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def of_the_disk(error: Exception) -> bool:
    """Whether a write failed for the disk's sake: safetensors and torch wrap its errors in their own."""
    kind, text = type(error).__name__, str(error)
    wrapped = (kind == "SafetensorError" and "os error" in text) or (
        kind == "RuntimeError" and "inline_container" in text
    )
    return isinstance(error, OSError) or wrapped


def reason(error: Exception) -> str:
    """Why a write failed, in one line; torch only says that its archive came out short."""
    if isinstance(error, RuntimeError) and "inline_container" in str(error):
        return "the disk is full or cannot be written"
    return str(getattr(error, "strerror", None) or error or type(error).__name__).strip().splitlines()[0]


def write_text(path: Path, text: str) -> None:
    """Write ``text`` as UTF-8, whole or not at all."""
    write_atomically(path, lambda part: part.write_text(text, encoding="utf-8"))


def write_json(path: Path, value: Any) -> None:
    """Write ``value`` as indented JSON, whole or not at all."""
    write_text(path, json.dumps(value, indent=2, ensure_ascii=False) + "\n")


def read_json(path: Path) -> Any:
    """Read JSON; raises UserError that names the file and the line when it is missing or broken."""
    try:
        return json.loads(Path(path).read_text(encoding="utf-8"))
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror or error}") from error
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise UserError(f"{path} is not whole JSON: {error}") from error
