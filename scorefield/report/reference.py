"""Reference curves: what a preset's own committed run logged, drawn beside every later run of that preset."""

import json
from itertools import pairwise
from pathlib import Path
from typing import Any

from scorefield import resources
from scorefield.report.source import number

KEPT = ("x0_gap/", "grad_norm/", "loss/", "eval/", "monitor/", "x0/", "sigma/")
POINTS = 100  # per curve


def place(preset: Path) -> Path:
    """NAME.curves.json beside NAME.yaml."""
    return preset.with_suffix(".curves.json")


def thinned(points: list[list[float]]) -> list[list[float]]:
    """At most ``POINTS`` points, each the mean of an equal run of neighbours; few points stay as they are."""
    if len(points) <= POINTS:
        return points
    cuts = [round(k * len(points) / POINTS) for k in range(POINTS + 1)]
    runs = [points[a:b] for a, b in pairwise(cuts)]
    return [[sum(p[0] for p in run) / len(run), sum(p[1] for p in run) / len(run)] for run in runs]


def gather(metrics: list[dict[str, Any]]) -> dict[str, list[list[float]]]:
    """Curves [[images, value], …] of the figures that tell how training goes."""
    curves: dict[str, list[list[float]]] = {}
    for record in metrics:
        images = number(record.get("images"))
        for key, value in record.items():
            y = number(value)
            if images is not None and y is not None and key.startswith(KEPT):
                curves.setdefault(key, []).append([images, y])
    return {key: [[float(f"{x:.5g}"), float(f"{y:.5g}")] for x, y in thinned(p)] for key, p in sorted(curves.items())}


def curves_of(environment: dict[str, Any]) -> dict[str, list[tuple[float, float]]]:
    """The reference curves of the preset that a run was started from, {} where it has none."""
    preset = environment.get("preset")
    if not isinstance(preset, str) or not preset:
        return {}
    path = resources.root() / "configs" / f"{preset}.curves.json"
    try:
        curves = json.loads(path.read_text(encoding="utf-8"))["curves"]
        return {key: [(float(x), float(y)) for x, y in points] for key, points in curves.items()}
    except (OSError, ValueError, KeyError, TypeError):
        return {}
