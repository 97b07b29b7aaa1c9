"""Figures of every network of a CIFAR-10 session side by side: the same labels, start noise and real pictures for all.

    python scripts/cifar10_figures.py measure --data data/cifar10.npz --out figures.csv \\
        --features runs/cifar-edm/judge MOBILENET.safetensors real=data/cifar10-test.npz \\
        teacher=runs/cifar-edm/teacher gan=runs/cifar-gan/gan/G_ema \\
        student=runs/class_to_image-TIME refined=runs/gan_refine-TIME
    python scripts/cifar10_figures.py best figures.csv        # the row of the least Fréchet distance, by its name
    python scripts/cifar10_figures.py curves runs/class_to_image-TIME … > curves.csv

``measure`` takes pictures (.npz), stored networks (an EDM teacher, a StyleGAN2) and run folders (their newest average)
as NAME=PATH, compares each with all of --data in each feature network, prints and keeps a row of each as soon as it is
known, and goes on where one fails. ``run`` and ``evaluate`` measure one run alone.
"""

import argparse
import csv
import json
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from scorefield.commands.common import open_run, resolve_device
from scorefield.errors import UserError
from scorefield.evaluation.measure import MeasureConfig, Meter, Seen, interval
from scorefield.generators.base import Batch
from scorefield.generators.one_step import OneStepGenerator
from scorefield.generators.stylegan2 import StyleGAN2Generator
from scorefield.images import save_grid, to_float, to_uint8
from scorefield.importer.open import open_network
from scorefield.networks import stylegan2
from scorefield.pretrain import edm, gan, labelled

FIRST_SEED, GRID_SEED, GRID_ROWS = 100, 91, 8
KEPT = ("frechet", "kid", "precision", "recall", "density", "coverage", "inception_score", "label_accuracy")
COLUMNS = ["name", "features", "evaluations", "iteration", "images_seen", "samples", "draws", "reference", "frechet",
           "frechet_low", "frechet_high", *KEPT[1:]]  # fmt: skip
Sample = Callable[[Tensor, int], Tensor]  # labels int64 [B] and a seed to pictures [B, 3, R, R]


class Player:
    """Something that makes pictures, with what is to be said of it."""

    def __init__(self, sample: Sample, evaluations: int | str, iteration: int | str = "", images_seen: int | str = ""):
        self.sample, self.facts = sample, dict(evaluations=evaluations, iteration=iteration, images_seen=images_seen)


def of_pictures(path: Path) -> Player:
    """Real pictures, as many as are asked for, whatever their labels."""
    images = labelled.from_npz(path).images
    return Player(lambda labels, seed: to_float(images[: len(labels)]), "")


def of_network(path: Path, device: str, steps: int, batch: int) -> Player:
    """An EDM teacher by ``steps`` of Heun's method, or a StyleGAN2."""
    network = open_network(path)
    if isinstance(network, stylegan2.Generator):
        return Player(gan.sampler(network.requires_grad_(False), device, batch), 1)
    return Player(edm.sampler(network.requires_grad_(False), device, steps, batch), 2 * steps - 1)


def of_run(path: Path, device: str, batch: int) -> Player:
    """The averaged generator of a run's newest checkpoint."""
    task, weights, newest = open_run(path, device)
    generator = task.restore(weights)
    iteration, training = int(newest.name.removeprefix("iteration-")), task.config.training
    facts = (1, iteration, max(0, iteration - training.online_warmup) * training.batch)
    if isinstance(generator, StyleGAN2Generator):
        return Player(gan.sampler(generator.network, device, batch), *facts)
    if not isinstance(generator, OneStepGenerator):
        raise UserError(f"{path} is a run of {task.name}: only class_to_image and gan_refine are measured here")
    return Player(one_step(generator, batch), *facts)


def one_step(generator: OneStepGenerator, batch: int) -> Sample:
    """Pictures of a student from the start noise that ``edm.sampler`` draws for the same seed."""
    device = next(generator.parameters()).device

    @torch.no_grad()
    def sample(labels: Tensor, seed: int) -> Tensor:
        draw = torch.Generator(device).manual_seed(seed)
        z = torch.randn((len(labels), *generator.shape), generator=draw, device=device)
        told = F.one_hot(labels, generator.denoiser.label_dim).float()
        parts = zip(z.split(batch), told.split(batch), strict=True)
        return torch.cat([generator(Batch({"z": a}, {"label": b}, {"label": b})) for a, b in parts])

    return sample


def open_player(path: Path, device: str, steps: int, batch: int) -> Player:
    """What lies at ``path``; raises UserError where that is nothing of these kinds."""
    if path.suffix == ".npz":
        return of_pictures(path)
    if (path / "config.yaml").is_file() and (path / "checkpoints").is_dir():
        return of_run(path, device, batch)
    return of_network(path, device, steps, batch)


def meters(arguments: argparse.Namespace, device: str, resolution: int) -> list[Meter]:
    """One for each feature network that is there; the others are named and left out."""
    found = []
    for number, name in enumerate(arguments.features):
        settings = MeasureConfig(
            samples=arguments.samples,
            batch=arguments.batch,
            data=str(arguments.data),
            real=arguments.real,
            features=name,
            neighbours=arguments.neighbours,
            save_reference=str(arguments.references / f"{number}.npz") if arguments.references else "",
        )
        try:
            settings.check()
            found.append(Meter(settings, resolution, device, 0))
        except UserError as error:
            print(f"left out: {error}", flush=True)
    if not found:
        raise UserError("there is no feature network to measure with")
    return found


def row_of(meter: Meter, seen: list[Seen], labels: Tensor | None) -> dict[str, Any]:
    """Means over the draws, and the 95 % interval of the Fréchet distance where there are several.

    ``labels``: the classes int64 [N] that were asked for; None for real pictures.
    """
    rows = []
    for each in seen:
        found: dict[str, float] = meter.figures(each)
        if labels is not None and meter.network.distance == "FD-judge":  # its scores are of the pictures' own classes
            found["label_accuracy"] = float((each.scores.argmax(1) == labels).float().mean())
        rows.append(found)
    row: dict[str, Any] = {key: statistics.mean(each[key] for each in rows) for key in KEPT if key in rows[0]}
    if len(rows) > 1:
        row["frechet_low"], row["frechet_high"] = interval([each["frechet"] for each in rows])
    return row | {"features": meter.network.distance, "reference": meter.reference.name}


def measure(arguments: argparse.Namespace) -> int:
    """Rows of all players, written as they come; 1 where one failed."""
    device = resolve_device(arguments.device)
    if device.startswith("cuda"):
        torch.backends.cudnn.benchmark = True
        torch.backends.cuda.matmul.allow_tf32 = True
    data = labelled.from_npz(arguments.data)
    measured, failed = meters(arguments, device, data.resolution), 0
    labels = torch.arange(arguments.samples, device=device) % data.classes
    shown = torch.arange(data.classes, device=device).repeat(GRID_ROWS)
    arguments.out.parent.mkdir(parents=True, exist_ok=True)
    with arguments.out.open("w", newline="") as file:
        table = csv.DictWriter(file, COLUMNS)
        table.writeheader()
        for word in arguments.players:
            name, _, path = word.partition("=")
            start = time.monotonic()
            try:
                player = open_player(Path(path), device, arguments.steps, arguments.batch)
                grid = player.sample(shown, GRID_SEED).clamp(-1, 1)
                save_grid(grid.cpu(), arguments.out.parent / f"{arguments.out.stem}-{name}.png", data.classes)
                real = path.endswith(".npz")
                draws = 1 if real else arguments.draws
                drawn = [to_uint8(player.sample(labels, FIRST_SEED + draw)) for draw in range(draws)]
                for meter in measured:
                    seen = [meter.of_pictures(pictures) for pictures in drawn]
                    row = row_of(meter, seen, None if real else labels)
                    row |= {"name": name, "samples": len(drawn[0]), "draws": draws} | player.facts
                    table.writerow({key: round(v, 5) if isinstance(v, float) else v for key, v in row.items()})
                    file.flush()
                    told = [f"{key} {row[key]:.4g}" for key in ("frechet", *KEPT[1:]) if key in row]
                    print(f"{name}: {row['features']} on {row['samples']} pictures: {', '.join(told)}", flush=True)
                print(f"{name}: {time.monotonic() - start:.1f} s", flush=True)
            except (UserError, RuntimeError, OSError, KeyError) as error:  # the others are to be measured all the same
                failed = 1
                print(f"FAILED {name}: {str(error).splitlines()[0]}", flush=True)
    return failed


def best(arguments: argparse.Namespace) -> int:
    """The name with the least Fréchet distance in the last feature network of the table."""
    with arguments.table.open(newline="") as file:
        rows = [row for row in csv.DictReader(file) if row["frechet"] and row["evaluations"]]
    if not rows:
        raise UserError(f"{arguments.table} holds no measured generator")
    same = [row for row in rows if row["features"] == rows[-1]["features"]]
    print(min(same, key=lambda row: float(row["frechet"]))["name"])
    return 0


def curves(arguments: argparse.Namespace) -> int:
    """CSV on standard output: Fréchet distance over time, a row a look."""
    table = csv.writer(sys.stdout)
    table.writerow(["run", "iteration", "images", "seconds", "frechet"])
    for run in arguments.runs:
        path = run / "metrics.jsonl"
        for line in path.read_text().splitlines() if path.exists() else []:
            record = json.loads(line)
            if "eval/frechet" in record:
                told = [record[key] for key in ("iteration", "images", "seconds")]
                table.writerow([run.name, *told, round(record["eval/frechet"], 4)])
    return 0


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    verbs = parser.add_subparsers(required=True)
    one = verbs.add_parser("measure")
    one.add_argument("players", nargs="+", metavar="NAME=PATH")
    one.add_argument("--data", type=Path, required=True, help="real pictures of the reference, an .npz")
    one.add_argument("--features", nargs="+", required=True, help="a judge's folder, MobileNetV2, Inception weights")
    one.add_argument("--out", type=Path, required=True, help="CSV; a grid of each player lies beside it")
    one.add_argument("--samples", type=int, default=10000)
    one.add_argument("--draws", type=int, default=1, help="independent draws behind each figure and interval")
    one.add_argument("--real", type=int, default=50000, help="pictures of the reference")
    one.add_argument("--neighbours", type=int, default=5000, help="pictures behind precision and recall, at most")
    one.add_argument("--steps", type=int, default=18, help="of Heun's method: 2 steps - 1 evaluations")
    one.add_argument("--batch", type=int, default=1000)
    one.add_argument("--references", type=Path, help="folder that receives the reference's statistics, 0.npz, 1.npz …")
    one.add_argument("--device", default="auto")
    one.set_defaults(act=measure)
    two = verbs.add_parser("best")
    two.add_argument("table", type=Path)
    two.set_defaults(act=best)
    three = verbs.add_parser("curves")
    three.add_argument("runs", type=Path, nargs="+")
    three.set_defaults(act=curves)
    arguments = parser.parse_args()
    try:
        return arguments.act(arguments)
    except UserError as error:
        print(f"cifar10_figures: {error}", file=sys.stderr)
        return 2


if __name__ == "__main__":
    sys.exit(main())
