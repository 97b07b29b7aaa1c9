"""Figures on Toybox: prompt accuracy by the judge, and feature distances against real pictures."""

from dataclasses import dataclass

import torch
from torch import Tensor

from scorefield.data import toybox
from scorefield.evaluation.judge import Judge, Reading

HEADS = ("object", "color", "view")


@dataclass
class Verdict:
    """What the judge found for N pictures: features [N, D], per head right or not [N], all together [N]."""

    reading: Reading
    right: dict[str, Tensor]
    told: dict[str, Tensor]

    @property
    def all_right(self) -> Tensor:
        return torch.stack(list(self.right.values())).all(0)

    @property
    def confidence(self) -> Tensor:
        """Probability [N] of the least certain head that the prompt speaks of."""
        spoken = [torch.where(self.told[key] < 0, 1.0, self.reading.probability[key]) for key in HEADS]
        return torch.stack(spoken).amin(0)


def told_by(prompts: list[str]) -> dict[str, Tensor]:
    """int64 [N] per head: the class that the prompt names, -1 where it names none."""
    found = [toybox.parse(prompt) for prompt in prompts]
    return {key: torch.tensor([getattr(a, key) if a else -1 for a in found]) for key in HEADS}


def judge_pictures(judge: Judge, images: Tensor, prompts: list[str]) -> Verdict:
    """Read images [N, 3, H, W] in [-1, 1] and hold them against their prompts."""
    reading, told = judge.read(images), told_by(prompts)
    told = {key: value.to(images.device) for key, value in told.items()}
    right = {key: (told[key] < 0) | (reading.labels[key] == told[key]) for key in HEADS}
    return Verdict(reading, right, told)


def figures(verdict: Verdict, reference: Tensor, groups: Tensor | None = None) -> dict[str, float | None]:
    """Prompt accuracy, Fréchet distance, precision, recall against ``reference`` features, diversity in groups."""
    from scorefield.evaluation.metrics import diversity, frechet_distance, precision_recall

    features = verdict.reading.features
    precision, recall = precision_recall(reference, features)
    return {
        "prompt_accuracy": verdict.all_right.float().mean().item(),
        "frechet": frechet_distance(reference, features),
        "precision": precision,
        "recall": recall,
        "diversity": None if groups is None else diversity(features, groups),
    }
