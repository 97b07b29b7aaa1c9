"""Seconds and memory of a field's forward and backward pass: hash grids and a dense one, as they are and compiled.

    python scripts/hash_grid_speed.py --device cuda --out runs/hash-grid.json

Points are uniform in the cube, 2^20 of them on a GPU: a chunk of a picture of 512 pixels a side. Rows are printed
as they come; the first call of each, in which a compiler runs, is told apart.
"""

import argparse
import json
import statistics
import time
from pathlib import Path

import torch

from scorefield.files import write_text
from scorefield.generators.nerf import make_field
from scorefield.three_d.settings import FieldConfig

HASH = {"grid": "hash", "levels": 16, "features": 2, "log2_size": 19, "base": 16}
FIELDS = {
    "hash, 16 levels to 2048": HASH | {"scale": 1.381912879967776, "smoothstep": True},
    "hash, 16 levels to 4096, hidden 64": HASH | {"hidden": 64},
    "dense 16 32 64": {"resolutions": [16, 32, 64], "features": 4, "hidden": -1},
}


def measure(settings: dict, compiled: bool, points: torch.Tensor, rounds: int) -> dict[str, float | None]:
    """Median seconds of forward and backward, of the first one, and peak bytes on a GPU."""
    device = points.device
    field = make_field(FieldConfig(**settings, compile=compiled), learned_background=False).to(device)

    def once() -> float:
        start = time.perf_counter()
        density, colour = field.both(points)
        (density.sum() + colour.sum()).backward()
        if device.type == "cuda":
            torch.cuda.synchronize()
        return time.perf_counter() - start

    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats()
    first = once()
    seconds = statistics.median(once() for _ in range(rounds))
    peak = torch.cuda.max_memory_allocated() if device.type == "cuda" else None
    return {"seconds": seconds, "first_seconds": first, "peak_bytes": peak}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--points", type=int, help="2^20 on a GPU, 2^15 elsewhere")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--out", type=Path, help="JSON of all rows")
    arguments = parser.parse_args()
    torch.manual_seed(0)
    count = arguments.points or (2**20 if arguments.device.startswith("cuda") else 2**15)
    points, rows = 2 * torch.rand(count, 3, device=arguments.device) - 1, []
    for name, settings in FIELDS.items():
        for compiled in (False, True):
            row = {"field": name, "compiled": compiled, "points": count}
            rows.append(row | measure(settings, compiled, points, arguments.rounds))
            print(json.dumps(rows[-1]), flush=True)
    if arguments.out:
        write_text(arguments.out, json.dumps(rows) + "\n")


if __name__ == "__main__":
    main()
