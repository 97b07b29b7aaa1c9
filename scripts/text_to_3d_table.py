"""Losses side by side on text to 3D: runs every prompt under every loss and writes their assets' figures.

    python scripts/text_to_3d_table.py --out runs/text-to-3d

A run that already has its summary is not repeated, so a stopped table goes on. Writes table.csv and table.md into
--out; further words are overrides of every run.
"""

import argparse
import csv
import io
from pathlib import Path

from scorefield.cli import main as scorefield
from scorefield.files import read_json, write_text

PROMPTS = ["a red chair", "a blue car", "a yellow house", "a green mug"]
# the preset's weights are SIM's; the other losses have larger gradients, under which they would hardly count
LARGER = ["regularizers.roundtrip={0: 1.0}", "regularizers.sparsity={0: 20.0}"]
LOSSES: dict[str, list[str]] = {"vsd": LARGER, "sds": LARGER, "sid": LARGER, "sim": []}
FIGURES = ["judge_accuracy", "view_accuracy", "janus_rate", "true_janus_rate", "chamfer", "iou", "psnr", "watertight"]
SHARES = {"judge_accuracy", "view_accuracy", "janus_rate", "true_janus_rate"}


def shown(name: str, value) -> str:
    """A figure as the table shows it."""
    if value is None or isinstance(value, bool):
        return {None: "", True: "yes", False: "no"}[value]
    return f"{100 * value:.0f} %" if name in SHARES else f"{value:.1f}" if name == "psnr" else f"{value:.3f}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--prompts", nargs="+", default=PROMPTS)
    parser.add_argument("--losses", nargs="+", choices=LOSSES, default=list(LOSSES))
    parser.add_argument("--seeds", nargs="+", type=int, default=[0])
    arguments, overrides = parser.parse_known_args()
    rows = []
    for prompt in arguments.prompts:
        for loss in arguments.losses:
            for seed in arguments.seeds:
                folder = arguments.out / f"{prompt.replace(' ', '-')}-{loss}-seed{seed}"
                if not (folder / "summary.json").exists():
                    words = [f"prompt={prompt}", f"loss.name={loss}", f"training.seed={seed}", *LOSSES[loss]]
                    scorefield(["run", "text_to_3d", "--out", str(folder), "--resume", *words, *overrides])
                summary = read_json(folder / "summary.json")
                asset = (summary.get("assets") or [{}])[0]
                rows.append([prompt, loss, seed, *(asset.get(name) for name in FIGURES), summary["wall_seconds"]])
    head = ["prompt", "loss", "seed", *FIGURES, "seconds"]
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows([head, *rows])
    write_text(arguments.out / "table.csv", text.getvalue())
    lines = ["| " + " | ".join(name.replace("_", " ") for name in head) + " |", "|---" * len(head) + "|"]
    for row in rows:
        figures = [shown(name, value) for name, value in zip(FIGURES, row[3:-1], strict=True)]
        lines.append("| " + " | ".join([row[0], row[1], str(row[2]), *figures, f"{row[-1]:.0f}"]) + " |")
    write_text(arguments.out / "table.md", "\n".join(lines) + "\n")
    print("\n".join(lines))


if __name__ == "__main__":
    main()
