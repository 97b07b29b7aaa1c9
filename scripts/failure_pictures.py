"""Plant failures in short Toybox runs, and keep what they look like and what the monitors said.

    python scripts/failure_pictures.py --out docs/pictures --work runs/failures [noise collapse …]

Each failure is the preset from_teacher with one or two settings that break it, 40 or 60 iterations of 16 pictures, half
a minute of a CPU. Writes OUT/failure-NAME.png (above: the start, below: the end; same prompts, same noise) and
OUT/failures.csv with the monitors' last figures and the names of those that crossed their lines. Runs that are there
already are not made again.
"""

import argparse
import csv
import io
import json
from pathlib import Path

from PIL import Image

from scorefield.cli import main as scorefield
from scorefield.files import write_atomically, write_text

ONE = "a chair"  # collapse shows in pictures of one prompt
COMMON = [
    "training.device=cpu",
    "training.iterations=40",
    "training.batch=16",
    "training.generator.decay=none",
    "training.online.decay=none",
    "training.ema_half_life_images=100",
    "checkpoints.every=20",
    "evaluation.judge=none",
    "evaluation.samples=2",
    "evaluation.teacher_steps=4",
    "evaluation.preview=8",
    "evaluation.running=0",
]
PLANTED = {
    "healthy": [],
    "noise": ["loss.name=sid", "loss.alpha=4", "training.generator.learning_rate=2e-3"],
    "collapse": ["loss.name=sds", "training.guidance_scale=4", "training.generator.learning_rate=3e-3"],
    "saturation": ["training.guidance_scale=15", "training.generator.learning_rate=1e-3", "training.iterations=60"],
    "frozen": ["training.online.learning_rate=1e-9", "training.generator.learning_rate=6e-4"],
}


def pictures(run: Path) -> Image.Image:
    """The grids of the first and the last look, one above the other."""
    grids = [Image.open(path) for path in sorted((run / "samples").glob("iteration-*.png"))]
    first, last = grids[0], grids[-1]
    both = Image.new("RGB", (first.width, first.height + last.height + 4), "white")
    both.paste(first, (0, 0))
    both.paste(last, (0, first.height + 4))
    return both


def said(run: Path) -> dict[str, str]:
    """The monitors' figures at the last look, and who warned at any."""
    looks = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    figures = [look for look in looks if any(key.startswith("monitor/") for key in look)][-1]
    file = run / "warnings.json"
    warned = [record["monitor"] for record in json.loads(file.read_text())] if file.exists() else []
    shown = {key.removeprefix("monitor/"): f"{v:.3g}" for key, v in figures.items() if key.startswith("monitor/")}
    return shown | {"warned": " ".join(dict.fromkeys(warned))}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", help=f"of {', '.join(PLANTED)}; all if none is given")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--work", type=Path, required=True, help="folder of the runs")
    arguments = parser.parse_args()
    for name in arguments.names or PLANTED:
        run = arguments.work / name
        if not (run / "summary.json").exists():
            resume = ["--resume"] if run.exists() else []
            words = COMMON + PLANTED[name]
            if name == "collapse":
                prompts = arguments.work / "one.txt"
                write_text(prompts, f"{ONE}\n")
                words.append(f"evaluation.prompts={prompts}")
            if status := scorefield(
                ["run", "text_to_image", "--config", "from_teacher", "--out", str(run), *resume, *words]
            ):
                raise SystemExit(status)
        arguments.out.mkdir(parents=True, exist_ok=True)
        small = pictures(run).quantize(128, method=Image.Quantize.MEDIANCUT)
        write_atomically(arguments.out / f"failure-{name}.png", lambda part: small.save(part, "PNG", optimize=True))  # noqa: B023
    done = [name for name in PLANTED if (arguments.work / name / "summary.json").exists()]
    rows = [{"failure": name} | said(arguments.work / name) for name in done]
    keys = list(dict.fromkeys(key for row in rows for key in row))
    text = io.StringIO()
    writer = csv.DictWriter(text, [k for k in keys if k != "warned"] + ["warned"], lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    write_text(arguments.out / "failures.csv", text.getvalue())
    print(text.getvalue())


if __name__ == "__main__":
    main()
