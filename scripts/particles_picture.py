"""Draw docs' picture of particles: one row a loss, the teacher's own samples below.

    python scripts/particles_picture.py --out docs/particles.png [--runs FOLDER] [key=value ...]

Runs the task particles once a loss (one to two minutes each on two CPU cores; a finished run in FOLDER is taken as it
is) and prints the figures that docs/particles.md quotes.
"""

import argparse
from pathlib import Path

import torch

from scorefield.cli import main
from scorefield.files import read_json
from scorefield.images import cut_grid, save_grid

LOSSES = {
    "SDS": ["loss.name=sds"],
    "VSD": ["loss.name=vsd"],
    "SIM": ["loss.name=sim", "loss.weighting=sid"],
    "SiD": ["loss.name=sid"],
}
SHOWN, TILE = 8, 64


def run(folder: Path, words: list[str]) -> dict:
    """The summary of a run, made if it is not there."""
    if not (folder / "summary.json").exists() and main(["run", "particles", "--out", str(folder), *words]):
        raise SystemExit(f"the run in {folder} failed")
    return read_json(folder / "summary.json")


def draw() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("docs/particles.png"))
    parser.add_argument("--runs", type=Path, default=Path("runs/particles-picture"))
    parser.add_argument("overrides", nargs="*")
    given = parser.parse_args()
    rows, labels = [], []
    for name, words in LOSSES.items():
        folder = given.runs / name.lower()
        summary = run(folder, [*words, *given.overrides])
        rows.append(cut_grid(folder / "evaluation" / "student.png", TILE, SHOWN, SHOWN))
        found, teacher = summary["student"], summary["teacher"]
        labels += [name] + [""] * (SHOWN - 1)
        figures = f"{found['prompt_accuracy']:.2f} | {found['diversity']:.2f} | {summary['training_seconds']:.0f}"
        print(f"| {name} | {figures} |")
    rows.append(cut_grid(folder / "evaluation" / "teacher.png", TILE, SHOWN, SHOWN))
    labels += ["teacher"] + [""] * (SHOWN - 1)
    print(f"| teacher | {teacher['prompt_accuracy']:.2f} | {teacher['diversity']:.2f} | |")
    save_grid(torch.cat(rows), given.out, SHOWN, labels)


if __name__ == "__main__":
    draw()
