"""What the report reads: the files of one run folder, any of which may be missing or cut off."""

import base64
import io
import json
import math
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

PICTURE_LIMIT = 256  # pixels: larger pictures are embedded reduced to this side
TYPES = {".png": "image/png", ".jpg": "image/jpeg", ".jpeg": "image/jpeg", ".webp": "image/webp"}


def number(value: object) -> float | None:
    """A finite number as float; None for anything else (text, None, NaN, true)."""
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return None
    return float(value) if math.isfinite(value) else None


def load_json(path: Path, default: Any) -> Any:
    """Parsed JSON of the same type as ``default``; ``default`` if missing, broken, unlike."""
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return default
    return value if isinstance(value, type(default)) else default


def load_lines(path: Path) -> list[dict[str, Any]]:
    """All whole JSON objects of a .jsonl file; lines that a killed process cut off are left out."""
    try:
        lines = path.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return []
    records = []
    for line in lines:
        try:
            record = json.loads(line)
        except (ValueError, RecursionError):
            continue
        if isinstance(record, dict):
            records.append(record)
    return records


def load_text(path: Path) -> str:
    """Text of a file, "" when it is missing."""
    try:
        return path.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""


@dataclass
class RunData:
    """Everything a page is made of.

    Attributes:
        folder: the run.
        config, environment, metrics, summary, layout, pairs, worst, attributes: as in the files.
        warnings: what the monitors said, in order (warnings.json).
        fragments: HTML of report/*.html in name order, written by the task and inserted as it is.
    """

    folder: Path
    config: str = ""
    environment: dict[str, Any] = field(default_factory=dict)
    metrics: list[dict[str, Any]] = field(default_factory=list)
    summary: dict[str, Any] = field(default_factory=dict)
    layout: dict[str, Any] = field(default_factory=dict)
    pairs: list[dict[str, Any]] = field(default_factory=list)
    worst: list[dict[str, Any]] = field(default_factory=list)
    attributes: dict[str, Any] = field(default_factory=dict)
    fragments: list[str] = field(default_factory=list)
    warnings: list[dict[str, Any]] = field(default_factory=list)

    @classmethod
    def read(cls, folder: Path) -> "RunData":
        """Read what is there; nothing of it raises."""
        records = {
            name: [r for r in load_json(folder / "evaluation" / f"{name}.json", []) if isinstance(r, dict)]
            for name in ("pairs", "worst")
        }
        metrics = load_lines(folder / "metrics.jsonl")
        return cls(
            folder=folder,
            config=load_text(folder / "config.yaml"),
            environment=load_json(folder / "environment.json", {}),
            metrics=[r for r in metrics if number(r.get("iteration")) is not None],
            summary=load_json(folder / "summary.json", {}),
            layout=load_json(folder / "samples" / "layout.json", {}),
            attributes=load_json(folder / "evaluation" / "attributes.json", {}),
            warnings=[r for r in load_json(folder / "warnings.json", []) if isinstance(r, dict)],
            fragments=[load_text(path) for path in sorted((folder / "report").glob("*.html"))],
            **records,
        )

    def part(self, name: str) -> dict[str, Any]:
        """One object of summary.json ("real", "teacher", "student"), {} when it is not there."""
        value = self.summary.get(name)
        return value if isinstance(value, dict) else {}

    def progress(self) -> tuple[int, int | None]:
        """Iterations done and iterations asked for (None when no file tells).

        The configuration goes before the summary, which may be older than a resumed run. Metrics are written
        at intervals, so that the summary may know of a later iteration than their last line.
        """
        seen = [number(r.get("iteration")) for r in self.metrics[-1:]] + [number(self.summary.get("iterations"))]
        done = int(max((value for value in seen if value is not None), default=0))
        total = self._configured_iterations() or number(self.summary.get("iterations_total"))
        return done, int(total) if total else None

    def _configured_iterations(self) -> float | None:
        import yaml

        try:
            config = yaml.safe_load(self.config)
            return number(config["training"]["iterations"])
        except (yaml.YAMLError, KeyError, TypeError):
            return None

    def unfinished(self) -> bool:
        """Whether the run still goes on or was ended before its summary."""
        done, total = self.progress()
        return not self.summary or (total is not None and done < total)

    def inside(self, name: object) -> Path | None:
        """An existing file of the run folder by its relative name; None for anything else."""
        if not isinstance(name, str) or not name:
            return None
        try:
            path = (self.folder / name).resolve()
            whole = path.is_relative_to(self.folder.resolve()) and path.is_file()
        except (OSError, ValueError):
            return None
        return path if whole else None

    def grids(self) -> list[tuple[int, Path]]:
        """(iteration, path) of samples/iteration-*.png in order of iteration."""
        found = []
        for path in (self.folder / "samples").glob("iteration-*.png"):
            digits = path.stem.removeprefix("iteration-")
            if digits.isdecimal():
                found.append((int(digits), path))
        return sorted(found)


def picture_uri(path: Path | None) -> str | None:
    """A picture file as a data URI, reduced where it is large; None when it cannot be read."""
    from PIL import Image

    if path is None:
        return None
    try:
        with Image.open(path) as picture:
            picture.load()
            if max(picture.size) <= PICTURE_LIMIT and path.suffix.lower() in TYPES:
                return data_uri(path.read_bytes(), TYPES[path.suffix.lower()])
            return image_uri(picture)
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError):
        return None


def image_uri(picture: Any) -> str:
    """A Pillow picture as a data URI: PNG when it is small, else JPEG reduced to PICTURE_LIMIT."""
    from PIL import Image

    buffer = io.BytesIO()
    if max(picture.size) <= PICTURE_LIMIT:
        picture.save(buffer, format="PNG", optimize=True)
        return data_uri(buffer.getvalue(), "image/png")
    reduced = picture.convert("RGB")
    reduced.thumbnail((PICTURE_LIMIT, PICTURE_LIMIT), Image.Resampling.LANCZOS)
    reduced.save(buffer, format="JPEG", quality=90)
    return data_uri(buffer.getvalue(), "image/jpeg")


def data_uri(content: bytes, kind: str) -> str:
    """Bytes as a base64 data URI."""
    return f"data:{kind};base64,{base64.b64encode(content).decode()}"
