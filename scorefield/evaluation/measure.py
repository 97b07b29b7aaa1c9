"""Measure a source of pictures: features of per-sample draws, and figures against real pictures or their statistics.

Picture n depends on the seed and n alone, so neither the batch size nor the number of processes changes a figure.
"""

import math
import statistics as plain
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from scorefield.errors import UserError
from scorefield.evaluation import metrics
from scorefield.evaluation.features import FeatureNetwork, check, open_features
from scorefield.evaluation.metrics import FeatureStatistics
from scorefield.images import to_uint8
from scorefield.pretrain import labelled
from scorefield.pretrain.labelled import LabelledImages

# Student's t for 95 % two-sided, by degrees of freedom from 1
T_VALUES = (12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262, 2.228)


@dataclass
class MeasureConfig:
    """How pictures are measured; part of a task's ``evaluation`` section."""

    samples: int = 2000  # pictures drawn
    batch: int = 256  # at a time; changes no figure
    data: str = "none"  # real pictures: "toybox", an .npz, a folder with a sub-folder a class, or "none"
    label: str = "object"  # Toybox's class
    real: int = 5000  # pictures of the reference
    judge: str = "none"  # asset or folder with a judge, or "none"
    features: str = "judge"  # "judge", or the feature network: Inception weights, MobileNetV2, "hub:inception"
    reference: str = ""  # an .npz of feature statistics (mu, sigma) in place of those of the real pictures
    save_reference: str = ""  # where to write the statistics of the real pictures
    neighbours: int = 5000  # pictures behind precision, recall, density and coverage, at most
    nearest: int = 0  # generated pictures that are shown beside the nearest real ones
    per_class: int = 16  # pictures of each class behind the diversity

    def __post_init__(self) -> None:
        self.check_samples()
        if self.per_class < 2 or self.real < 5 or self.batch < 1 or self.neighbours < 5 or self.nearest < 0:
            raise UserError(
                "evaluation.per_class must be at least 2, real and neighbours at least 5, batch at least 1 and nearest "
                "at least 0"
            )

    def check_samples(self) -> None:
        """Raise UserError for fewer samples than the figures are defined for."""
        if self.samples < 5:
            raise UserError(f"evaluation.samples must be at least 5 for a Fréchet distance, not {self.samples}")

    @property
    def network(self) -> str:
        """What ``open_features`` is asked for; "" where nothing is measured."""
        name = self.judge if self.features == "judge" else self.features
        return "" if name == "none" else name

    @property
    def notice(self) -> str | None:
        """What is to be said before a run that nothing will measure."""
        if self.network:
            return None
        return (
            "nothing will be measured: give evaluation.features=WEIGHTS (Inception's, for FID) with "
            "evaluation.reference=FILE.npz or evaluation.data=PICTURES, now or to scorefield evaluate"
        )

    def check(self) -> None:
        """Raise UserError for a feature network or a file that is not there, before anything heavy starts."""
        self.check_samples()
        if self.network:
            check(self.network)
            if self.data == "none" and not self.reference:
                raise UserError(
                    "evaluation.data=none leaves nothing to compare with: give evaluation.reference=FILE.npz"
                )
        elif self.reference or self.data not in ("none", "toybox"):
            what = "reference" if self.reference else "data"
            raise UserError(
                f"evaluation.{what} is given, but no network that reads features off pictures: give "
                "evaluation.features=WEIGHTS, or a judge with evaluation.judge=FOLDER"
            )
        if self.reference and not Path(self.reference).is_file():
            raise UserError(f'evaluation.reference "{self.reference}" does not exist')
        if self.save_reference and self.data == "none":
            raise UserError("evaluation.save_reference needs real pictures: evaluation.data is none")
        if self.nearest and self.data == "none":
            raise UserError("evaluation.nearest needs real pictures: evaluation.data is none")


@dataclass
class Seen:
    """Features [N, D] and class scores [N, K] of N pictures, in order."""

    features: Tensor
    scores: Tensor


@dataclass
class Reference:
    """What generated pictures are compared with; ``features`` only where real pictures are at hand."""

    statistics: FeatureStatistics
    features: Tensor | None
    name: str


class Meter:
    """A feature network and what pictures are compared with in it.

    Args:
        settings: checked. resolution: of the pictures. device: where the network runs.
        seed: of Toybox's pictures or of the choice among others.

    Attributes:
        real, ceiling: see ``real_pictures``. reference: what samples are compared with.
    """

    def __init__(self, settings: MeasureConfig, resolution: int, device: str, seed: int):
        self.settings, self.device, self.resolution = settings, device, resolution
        self.network: FeatureNetwork = open_features(settings.network, device)
        self.real, self.ceiling = real_pictures(settings, resolution, device, seed)
        self.reference = self._reference()

    def _reference(self) -> Reference:
        settings, network = self.settings, self.network
        features = None if self.real is None else self.of_pictures(self.real.images).features
        if features is not None and settings.save_reference and ranks()[0] == 0:
            FeatureStatistics(network.identity).update(features).save(Path(settings.save_reference))
        if settings.reference:
            found = read_statistics(Path(settings.reference), network)
            return Reference(found, features, f"{settings.reference}")
        if features is None or self.real is None:
            raise UserError("there are neither real pictures nor evaluation.reference to compare with")
        found = FeatureStatistics(network.identity).update(features)
        return Reference(found, features, f"{len(self.real)} pictures of {settings.data}")

    def of_pictures(self, images: Tensor) -> Seen:
        """What the network sees in uint8 pictures [N, 3, H, W]."""
        parts = [self.network.read(part.to(self.device)) for part in images.split(self.settings.batch)]
        return Seen(*(torch.cat(rows) for rows in zip(*parts, strict=True)))

    def of_source(self, make: Callable[[Tensor], Tensor], count: int, alone: bool = False) -> Seen:
        """What the network sees in pictures 0 … ``count`` of ``make``, shared among the processes.

        Args:
            make: from places int64 [B] to pictures [B, 3, H, W] in [-1, 1], each a function of its place alone.
            alone: only this process is here; nothing is shared.
        """
        rank, world = (0, 1) if alone else ranks()
        starts = range(0, count, self.settings.batch)
        mine = []
        for turn in range(0, len(starts), world):
            # who has none left repeats the last: a sharded network's passes take all processes
            start = starts[min(turn + rank, len(starts) - 1)]
            places = torch.arange(start, min(start + self.settings.batch, count), device=self.device)
            seen = self.network.read(to_uint8(make(places)))
            if turn + rank < len(starts):
                mine.append((start, *seen))
        parts = gathered(mine, world)
        return Seen(*(torch.cat([part[k].to(self.device) for part in parts]) for k in (1, 2)))

    def figures(self, seen: Seen) -> dict[str, float]:
        """Fréchet distance and Inception score; beside real pictures KID, precision, recall, density and coverage."""
        found = {"frechet": metrics.frechet_distance(self.reference.statistics, seen.features)}
        found["inception_score"] = metrics.inception_score(seen.scores, min(10, len(seen.scores)))[0]
        real = self.reference.features
        if real is not None:
            found["kid"] = metrics.kid(real, seen.features)[0]
            most = min(len(real), len(seen.features), self.settings.neighbours)
            found |= metrics.precision_recall(real[:most], seen.features[:most])
        return found

    def facts(self) -> dict[str, Any]:
        """What must stand beside every figure, for the summary."""
        return {
            "feature_network": self.network.name,
            "frechet_name": self.network.distance,
            "reference": self.reference.name,
            "conventions": {
                "covariance": "denominator N - 1",
                "resize": self.network.resize,
                "pictures": f"{self.resolution} px, rounded to uint8 before they are read",
            },
        }


class Running:
    """Fréchet distance over time, on few pictures of one seed: it is biased upwards, and never chooses anything."""

    def __init__(self, meter: Meter, count: int):
        self.meter, self.count = meter, count

    def figures(self, make: Callable[[Tensor], Tensor]) -> dict[str, float]:
        """Of pictures 0 … ``count`` of ``make``, as ``Meter.of_source`` takes it."""
        seen = self.meter.of_source(make, self.count, alone=True)
        return {"eval/frechet": metrics.frechet_distance(self.meter.reference.statistics, seen.features)}


AVERAGED = ("frechet", "inception_score", "kid", "precision", "recall", "density", "coverage")


def averaged_figures(meter: Meter, sources: Sequence[Callable[[Tensor], Tensor]], samples: int) -> dict[str, Any]:
    """Means over independent draws, with intervals of the Fréchet distance and KID.

    ``sources`` are the draws, each from places int64 [B] to pictures in [-1, 1]; one alone gives no interval.
    """
    seen = [meter.figures(meter.of_source(make, samples)) for make in sources]
    found: dict[str, Any] = {
        key: plain.mean(row[key] for row in seen) for key in AVERAGED if all(key in row for row in seen)
    }
    if len(seen) > 1:
        told = [key for key in ("frechet", "kid") if key in found]
        found |= {f"{key}_interval": interval([row[key] for row in seen]) for key in told}
    return found | {"samples": samples, "draws": len(seen)}


def real_pictures(
    settings: MeasureConfig, resolution: int, device: str, seed: int
) -> tuple[LabelledImages | None, LabelledImages | None]:
    """(reference, others): real pictures to compare with, and as many others as samples where there are that many.

    The others are measured like samples, which tells what a perfect generator would reach. None where there are none.
    """
    if settings.data == "none":
        return None, None
    asked: dict[str, Any] = {"resolution": resolution, "label": settings.label, "device": device}
    found = labelled.read(settings.data, count=settings.real + settings.samples, seed=seed, **asked)
    if len(found) < settings.real + settings.samples:
        return found[: settings.real], None
    return found[: settings.real], found[settings.real :]


def read_statistics(path: Path, network: FeatureNetwork) -> FeatureStatistics:
    """Statistics in ``path``, refused (UserError) where they are those of another feature network.

    EDM's files name no network: they are taken for Inception-v3 of 2015-12-05, which they are published for.
    """
    found = FeatureStatistics.load(path)
    dimensions = 0 if found.mean is None else len(found.mean)
    ours = network.identity
    if found.network and found.network != ours:
        raise UserError(f"{path} holds statistics of {found.network}, and pictures are measured with {ours}")
    if not found.network and network.distance != "FID":
        raise UserError(
            f"{path} does not say which network its features are of, as EDM's files of Inception-v3; pictures are "
            f"measured with {ours}: make its own with --save-reference"
        )
    if dimensions != network.dimensions:
        raise UserError(f"{path} is of {dimensions} features, and {ours} gives {network.dimensions}")
    return found


def ranks() -> tuple[int, int]:
    """(number of this process, how many there are)."""
    if torch.distributed.is_available() and torch.distributed.is_initialized():
        return torch.distributed.get_rank(), torch.distributed.get_world_size()
    return 0, 1


def gathered(mine: list[tuple[int, Tensor, Tensor]], world: int) -> list[tuple[int, Tensor, Tensor]]:
    """The parts of all processes in order of their start."""
    if world > 1:
        everyone: list[Any] = [None] * world
        torch.distributed.all_gather_object(everyone, [(start, a.cpu(), b.cpu()) for start, a, b in mine])
        mine = [part for parts in everyone for part in parts]
    return sorted(mine, key=lambda part: part[0])


def interval(values: list[float]) -> list[float]:
    """[low, high]: 95 % interval of the mean of independent draws, by Student's t."""
    t = T_VALUES[min(len(values) - 1, len(T_VALUES)) - 1]
    half = t * plain.stdev(values) / math.sqrt(len(values))
    return [plain.mean(values) - half, plain.mean(values) + half]


def diversity_by_class(features: Tensor, labels: Tensor, names: list[str]) -> dict[str, float]:
    """Mean pairwise feature distance within each class that has two pictures; labels int64 [N] of ``names``."""
    found = {}
    for number, name in enumerate(names):
        rows = features[labels == number]
        if len(rows) > 1:
            found[name] = metrics.pairwise_diversity(rows)
    return found


def nearest(made: Tensor, real: Tensor, chunk: int = 1024) -> tuple[Tensor, Tensor]:
    """(place int64 [N], distance float64 [N]) of the row of ``real`` [M, D] nearest to each of ``made`` [N, D]."""
    best = torch.full((len(made),), math.inf, dtype=torch.float64, device=made.device)
    place = torch.zeros(len(made), dtype=torch.int64, device=made.device)
    for start in range(0, len(real), chunk):
        found = torch.cdist(made.double(), real[start : start + chunk].double()).min(1)
        closer = found.values < best
        best = torch.where(closer, found.values, best)
        place = torch.where(closer, found.indices + start, place)
    return place, best
