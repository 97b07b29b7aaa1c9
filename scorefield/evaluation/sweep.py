"""The best setting of a teacher as a sweep found it, for the very files that it was measured with."""

import hashlib
from pathlib import Path
from typing import Any

from scorefield.files import digest, read_json

PARTS = ("transformer", "unet", "text_encoder*", "tokenizer*", "vae", "scheduler")  # what pictures depend on


def pipeline_digest(pipeline: Path) -> str:
    """sha256 over names and contents of all files in the parts of a diffusers folder: weights and configurations."""
    files = sorted(
        path.relative_to(pipeline).as_posix()
        for part in PARTS
        for path in pipeline.glob(f"{part}/**/*")
        if path.is_file() and not path.name.startswith(".")
    )
    lines = [f"{digest(pipeline / name)}  {name}\n" for name in files]
    return hashlib.sha256("".join(lines).encode()).hexdigest()


def best(pipeline: Path) -> dict[str, Any]:
    """``steps`` and ``guidance`` of sweep.json (scripts/sweep_teacher.py) in the folder or beside it.

    {} where there is none, or where it was measured with other files.
    """
    for place in (pipeline / "sweep.json", pipeline.parent / "sweep.json"):
        if place.is_file():
            sweep = read_json(place)
            if sweep.get("pipeline_sha256") == pipeline_digest(pipeline):
                return sweep["best"]
    return {}
