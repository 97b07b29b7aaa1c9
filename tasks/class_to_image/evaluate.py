"""Measure and show: real pictures, the many-step teacher and the one-step student."""

import time
from functools import partial
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from scorefield.data import toybox
from scorefield.evaluation.features import JudgeFeatures
from scorefield.evaluation.measure import Meter, Running, Seen, diversity_by_class
from scorefield.files import write_json
from scorefield.generators.base import Generator
from scorefield.generators.terms import plain
from scorefield.images import save_grid, save_image
from scorefield.report import fragments
from scorefield.teachers.sampling import heun

if TYPE_CHECKING:
    from .task import ClassToImage

DRAW_SEED, DIVERSITY_SEED, SHOWN_SEED, RUNNING_SEED = 100, 90, 91, 92
SHOWN = 32


class Pictures:
    """Pictures of teacher and student; picture n of a seed depends on n alone, start noise and label are equal."""

    def __init__(self, task: "ClassToImage", generator: Generator):
        self.task, self.generator, self.steps = task, generator, task.config.evaluation.teacher_steps

    @torch.no_grad()
    def student(self, places: Tensor, seed: int, labels: Tensor | None = None) -> Tensor:
        return self.generator(self.task.batch(self.generator, places, seed, labels)).clamp(-1, 1)

    @torch.no_grad()
    def teacher(self, places: Tensor, seed: int, labels: Tensor | None = None) -> Tensor:
        batch = self.task.batch(self.generator, places, seed, labels)
        z = batch.latents["z"]
        return heun(self.task.teacher, batch.teacher_condition, z, steps=self.steps, batch=len(z)).clamp(-1, 1)

    def told(self, who: str, seed: int, labels: Tensor, places: Tensor) -> Tensor:
        """Pictures of one player whose class is the place's in ``labels``."""
        return getattr(self, who)(places, seed, labels[places])

    def labels(self, places: Tensor, seed: int) -> Tensor | None:
        """Classes int64 [B] of drawn pictures; None where there are none."""
        told = self.task.batch(self.generator, places, seed).teacher_condition
        return told["label"].argmax(1) if "label" in told else None

    def seconds(self, who: str, count: int = 16) -> float:
        """Seconds per picture of a batch of ``count``; the second of two runs."""
        places, spent = torch.arange(count, device=self.task.device), 0.0
        for _ in range(2):
            start = time.perf_counter()
            getattr(self, who)(places, SHOWN_SEED)
            if self.task.device.startswith("cuda"):
                torch.cuda.synchronize()
            spent = time.perf_counter() - start
        return spent / count


def make_meter(task: "ClassToImage") -> Meter:
    """What the configuration measures with."""
    return Meter(task.config.evaluation, task.teacher.shape[-1], task.device, toybox.TEST_SEED)


def running_figures(task: "ClassToImage", running: Running, generator: Generator) -> dict[str, float]:
    """Those of the student so far."""
    return running.figures(partial(Pictures(task, plain(generator)).student, seed=RUNNING_SEED))


def full(task: "ClassToImage", generator: Generator, samples: int) -> dict[str, Any]:
    """All figures and pictures at the end of a run; writes evaluation/ and returns what joins summary.json."""
    settings = task.config.evaluation
    pictures = Pictures(task, generator)
    result: dict[str, Any] = {
        "teacher": {"steps": 2 * settings.teacher_steps - 1},
        "student": {"steps": 1},
    }
    meter = task.running.meter if task.running is not None else None
    if meter is None and settings.network:
        meter = make_meter(task)
    if meter is not None:
        task.name_classes(meter)
    show(task, pictures)
    for who in ("teacher", "student"):
        result[who]["seconds_per_image"] = pictures.seconds(who)
    if meter is None:
        empty = dict.fromkeys(("frechet", "precision", "recall", "diversity"))
        return {"real": dict(empty)} | {who: row | empty for who, row in result.items()} | {"feature_network": None}
    counts = {"teacher": settings.teacher_samples or samples, "student": samples}
    seen = {}
    for who, count in counts.items():
        seen[who] = meter.of_source(partial(getattr(pictures, who), seed=DRAW_SEED), count)
        result[who] |= meter.figures(seen[who]) | classes_read(task, meter, pictures, seen[who])
        result[who]["samples"] = count
    if meter.ceiling is not None:
        others = meter.of_pictures(meter.ceiling.images[:samples])
        result = {"real": meter.figures(others) | {"samples": len(others.features)}} | result
    varied = diversity(task, meter, pictures)
    for who, by_class in varied.items():
        result[who]["diversity"] = sum(by_class.values()) / len(by_class)
    write_json(task.folder.evaluation / "diversity.json", varied)
    fragments.write(task.folder, "diversity", fragments.diversity_table(varied))
    if settings.nearest:
        fragments.nearest_pictures(task.folder, meter, lambda n: pictures.student(n, DRAW_SEED), settings.nearest)
    return result | meter.facts()


def classes_read(task: "ClassToImage", meter: Meter, pictures: Pictures, seen: Seen) -> dict[str, float]:
    """Share of pictures whose class the judge reads as told, where the judge's first head has the teacher's classes."""
    if not isinstance(meter.network, JudgeFeatures) or seen.scores.shape[1] != task.teacher.label_dim:
        return {}
    told = pictures.labels(torch.arange(len(seen.scores), device=task.device), DRAW_SEED)
    return {"label_accuracy": float((seen.scores.argmax(1) == told).float().mean())}


def diversity(task: "ClassToImage", meter: Meter, pictures: Pictures) -> dict[str, dict[str, float]]:
    """Mean pairwise feature distance within each class, of teacher and student, from equal start noise."""
    settings = task.config.evaluation
    classes = max(1, task.teacher.label_dim)
    labels = torch.arange(classes, device=task.device).repeat_interleave(settings.per_class)
    names = [task.word(number) for number in range(classes)]
    found = {}
    for who in ("teacher", "student"):
        seen = meter.of_source(partial(pictures.told, who, DIVERSITY_SEED, labels), len(labels))
        found[who] = diversity_by_class(seen.features, labels, names)
    return found


def show(task: "ClassToImage", pictures: Pictures) -> None:
    """evaluation/pairs.json: teacher and student from the same start noise and label, and the teacher's grid."""
    labels, places = task.classes(SHOWN), torch.arange(SHOWN, device=task.device)
    made = {who: getattr(pictures, who)(places, SHOWN_SEED, labels) for who in ("teacher", "student")}
    records = []
    for row in range(SHOWN):
        entry: dict[str, Any] = {"prompt": task.word(int(labels[row]))}
        for who, images in made.items():
            place = f"evaluation/pairs/{row:04d}-{who}.png"
            save_image(images[row], task.folder.path / place)
            entry[who] = place
        records.append(entry)
    write_json(task.folder.evaluation / "pairs.json", records)
    count = task.config.evaluation.preview
    grid = pictures.teacher(torch.arange(count, device=task.device), 20, task.classes(count))
    save_grid(grid, task.folder.samples / "teacher.png", min(8, count))
