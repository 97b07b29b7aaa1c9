"""Measure a generator before and after its refinement with the same latents, and say whether the gain is real."""

import math
import statistics
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from scorefield import resources
from scorefield.errors import UserError
from scorefield.evaluation import metrics
from scorefield.evaluation.judge import Judge
from scorefield.files import write_json
from scorefield.generators.base import Generator
from scorefield.images import save_grid, save_image, to_float
from scorefield.pretrain import labelled

from .settings import GANRefineConfig

if TYPE_CHECKING:
    from .task import GANRefine

FIRST_DRAW, DIVERSITY_SEED, SHOWN_SEED = 100, 90, 91
SHOWN = 32
# Student's t for 95 % two-sided, by degrees of freedom from 1
T_VALUES = (12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262, 2.228)


def judge_folder(config: GANRefineConfig) -> Path:
    """Where the judge lies: a folder, an asset, or "judge" inside either."""
    name = config.evaluation.judge
    for place in (Path(name), resources.root() / "assets" / name):
        for folder in (place, place / "judge"):
            if (folder / "judge.json").is_file():
                return folder
    raise UserError(f'evaluation.judge "{name}" is neither a folder nor an asset with a judge: or say none')


def interval(values: list[float]) -> list[float]:
    """[low, high]: 95 % interval of the mean of independent draws, by Student's t."""
    t = T_VALUES[min(len(values) - 1, len(T_VALUES)) - 1]
    half = t * statistics.stdev(values) / math.sqrt(len(values))
    return [statistics.mean(values) - half, statistics.mean(values) + half]


@torch.no_grad()
def draw(task: "GANRefine", generator: Generator, count: int, seed: int, labels: Tensor | None = None) -> Tensor:
    """Pictures [count, C, H, W], clamped to [-1, 1]; each depends on seed and place alone."""
    parts = []
    whole = task.batch(generator, count, seed, labels)
    for start in range(0, count, 256):
        rows = slice(start, start + 256)
        batch = type(whole)(
            {key: value[rows] for key, value in whole.latents.items()},
            {key: value[rows] for key, value in whole.teacher_condition.items()},
            {key: value[rows] for key, value in whole.online_condition.items()},
        )
        parts.append(generator(batch).clamp(-1, 1))
    return torch.cat(parts)


def features_of(judge: Judge, pictures: Tensor) -> Tensor:
    """Features of pictures as they would be after a uint8 file."""
    stored = ((pictures + 1) * 127.5).round().clamp(0, 255) / 127.5 - 1
    return torch.cat([judge.read(part).features for part in stored.split(1024)])


def before_and_after(task: "GANRefine", generator: Generator, samples: int) -> dict[str, Any]:
    """Figures of the generator as it was and as it is, on equal latents; writes the pictures of the page."""
    config, settings = task.config, task.config.evaluation
    old = task.open_generator().to(task.device).eval().requires_grad_(False)
    show(task, old, generator)
    if settings.judge == "none":
        empty = dict.fromkeys(("frechet", "frechet_interval", "precision", "recall", "kid", "diversity"))
        return {"before": dict(empty), "after": dict(empty), "feature_network": None}
    judge = Judge.load(judge_folder(config), task.device)
    real = real_features(task, judge)
    result: dict[str, Any] = {
        "before": figures(task, judge, old, real, samples),
        "after": figures(task, judge, generator, real, samples),
    }
    low, high = result["before"]["frechet_interval"][0], result["after"]["frechet_interval"][1]
    result["gain"] = {
        "frechet_ratio": result["after"]["frechet"] / result["before"]["frechet"],
        "beyond_the_spread": bool(high < low),
    }
    result["feature_network"] = f"scorefield judge ({settings.judge}), {real.shape[1]} features"
    result["reference"] = f"{len(real)} pictures of {settings.data}"
    return result


def real_features(task: "GANRefine", judge: Judge) -> Tensor:
    """Features of real pictures that no training has seen, where the data is Toybox."""
    from scorefield.data import toybox

    settings = task.config.evaluation
    data = labelled.read(
        settings.data,
        count=settings.real,
        seed=toybox.TEST_SEED,
        resolution=task.teacher.shape[-1],
        label=settings.label,
        device=task.device,
    )
    return torch.cat([judge.read(to_float(part)).features for part in data.images.split(1024)])


def figures(task: "GANRefine", judge: Judge, generator: Generator, real: Tensor, samples: int) -> dict[str, Any]:
    """Fréchet distance with its interval, KID, precision, recall and diversity within classes."""
    settings = task.config.evaluation
    distances, kernels, sharp, wide = [], [], [], []
    reference = metrics.FeatureStatistics().update(real)
    for number in range(settings.draws):
        features = features_of(judge, draw(task, generator, samples, FIRST_DRAW + number))
        distances.append(metrics.frechet_distance(reference, features))
        kernels.append(metrics.kid(real, features)[0])
        spread = metrics.precision_recall(real[:samples], features)
        sharp.append(spread["precision"])
        wide.append(spread["recall"])
    classes = max(1, task.open_generator_shape().c_dim)
    labels = torch.arange(classes, device=task.device).repeat_interleave(settings.per_class)
    varied = features_of(judge, draw(task, generator, len(labels), DIVERSITY_SEED, labels))
    return {
        "frechet": statistics.mean(distances),
        "frechet_interval": interval(distances),
        "kid": statistics.mean(kernels),
        "precision": statistics.mean(sharp),
        "recall": statistics.mean(wide),
        "diversity": metrics.diversity(varied, labels),
        "samples": samples,
        "draws": settings.draws,
    }


def show(task: "GANRefine", old: Generator, new: Generator) -> None:
    """evaluation/pairs.json with the same latents before and after, and two grids."""
    labels = task.classes(SHOWN)
    pictures = {
        name: draw(task, player, SHOWN, SHOWN_SEED, labels) for name, player in (("before", old), ("after", new))
    }
    records = []
    for name, made in pictures.items():
        save_grid(made, task.folder.samples / f"{name}.png", 8)
    for row in range(SHOWN):
        entry: dict[str, Any] = {"prompt": f"class {int(labels[row])}"}
        for name, made in pictures.items():
            place = f"evaluation/pairs/{row:04d}-{name}.png"
            save_image(made[row], task.folder.path / place)
            entry[name] = place
        records.append(entry)
    write_json(task.folder.evaluation / "pairs.json", records)
