"""Run text_to_image with several settings at once on one GPU and print one line of figures each.

    python scripts/sweep_runs.py SETTINGS.txt --out runs/sweep --jobs 14 [--minutes 8] [common key=value …]

SETTINGS.txt holds one run a line: a name, a colon, then key=value overrides. Each run is a process of its own.
"""

import argparse
import json
import os
import subprocess
import sys
import time
from pathlib import Path


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("settings", type=Path)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--jobs", type=int, default=12)
    parser.add_argument("--minutes", type=float, default=8.0)
    arguments, common = parser.parse_known_args()
    lines = [line for line in arguments.settings.read_text().splitlines() if ":" in line and line[0] != "#"]
    waiting = [(name.strip(), rest.split()) for name, _, rest in (line.partition(":") for line in lines)]
    names, running = [name for name, _ in waiting], {}
    arguments.out.mkdir(parents=True, exist_ok=True)
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    end = time.monotonic() + 60 * arguments.minutes
    while (waiting or running) and time.monotonic() < end:
        while waiting and len(running) < arguments.jobs:
            name, overrides = waiting.pop(0)
            words = [
                sys.executable,
                "-m",
                "scorefield",
                "run",
                "tasks/text_to_image",
                "--out",
                str(arguments.out / name),
            ]
            log = (arguments.out / f"{name}.log").open("w")
            running[name] = subprocess.Popen([*words, *common, *overrides], stdout=log, stderr=log, env=environment)
        for name in [name for name, process in running.items() if process.poll() is not None]:
            del running[name]
            print(line_of(name, arguments.out / name), flush=True)
        time.sleep(0.5)
    for name, process in running.items():
        process.kill()
        print(line_of(name, arguments.out / name), "(cut off)")
    rows = {name: summary_of(arguments.out / name) for name in names}
    (arguments.out / "sweep.json").write_text(json.dumps(rows, indent=1))


def summary_of(folder: Path) -> dict:
    """summary.json of a run, or {}."""
    path = folder / "summary.json"
    return json.loads(path.read_text()) if path.exists() else {}


def line_of(name: str, folder: Path) -> str:
    """One printed line."""
    summary = summary_of(folder)
    if not summary:
        return f"{name:28} no summary"
    cells = []
    for who in ("teacher", "student"):
        row = summary[who]
        cells.append(f"{who} acc {row['prompt_accuracy']:.4f} FD {row['frechet']:.3f} rec {row['recall']:.3f}")
        cells.append(f"div {row['diversity']:.2f}")
    return f"{name:28} {'  '.join(cells)}  {summary['training_seconds']:.0f} s"


if __name__ == "__main__":
    main()
