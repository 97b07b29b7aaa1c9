"""Figures on Toybox: prompt accuracy by the judge, and feature distances against real pictures."""

from dataclasses import dataclass

import torch
from torch import Tensor

from scorefield.data import toybox
from scorefield.errors import UserError
from scorefield.evaluation.judge import Judge, Reading
from scorefield.evaluation.metrics import diversity, frechet_distance, precision_recall

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


def real_pictures(prompts: list[str], seed: int, start: int, device: str, resolution: int = 64) -> Tensor:
    """Pictures [N, 3, R, R] in [-1, 1] of what ``prompts`` say; all else is drawn from (seed, start + n).

    Raises UserError for a prompt that does not name an object and a colour of Toybox.
    """
    found = [toybox.parse(prompt) for prompt in prompts]
    for prompt, attributes in zip(prompts, found, strict=True):
        if attributes is None:
            raise UserError(f'the judge cannot read "{prompt}": it names no Toybox object and colour')
    keys = ("object", "color", "view", "background")
    fixed = {key: torch.tensor([getattr(a, key) for a in found]) for key in keys}
    scenes = toybox.sample_scenes(range(start, start + len(prompts)), seed, **fixed)
    return toybox.render(scenes, resolution, device=device).image


def figures(verdict: Verdict, reference: Tensor) -> dict[str, float]:
    """Prompt accuracy, and Fréchet distance, precision and recall against ``reference`` features [M, D]."""
    features = verdict.reading.features
    spread = precision_recall(reference, features)
    return {
        "prompt_accuracy": verdict.all_right.float().mean().item(),
        "frechet": frechet_distance(reference, features),
        "precision": spread["precision"],
        "recall": spread["recall"],
    }


def diversity_of(judge: Judge, images: Tensor, prompts: list[str]) -> float:
    """Mean feature distance among pictures of one prompt; ``prompts`` names each picture's."""
    return diversity(judge.read(images).features, prompts)


def attribute_shares(verdicts: dict[str, Verdict]) -> dict[str, dict[str, dict[str, float]]]:
    """Per attribute value the share that each of ``verdicts`` (real, teacher, student) got right, and its count."""
    names = {"object": toybox.OBJECTS, "color": toybox.COLORS, "view": toybox.VIEWS}
    table: dict[str, dict[str, dict[str, float]]] = {}
    first = next(iter(verdicts.values()))
    for head, values in names.items():
        table[head] = {}
        for number, value in enumerate(values):
            rows = first.told[head] == number
            if rows.any():
                shares = {who: v.right[head][rows].float().mean().item() for who, v in verdicts.items()}
                table[head][value] = shares | {"count": int(rows.sum())}
    everything = {who: v.all_right.float().mean().item() for who, v in verdicts.items()}
    table["all"] = {"all three": everything | {"count": len(first.all_right)}}
    return table


def described(verdict: Verdict, row: int) -> tuple[dict[str, str], dict[str, str]]:
    """(what the prompt said, what the judge read) of one picture, in words."""
    names = {"object": toybox.OBJECTS, "color": toybox.COLORS, "view": toybox.VIEWS}
    said = {key: names[key][int(verdict.told[key][row])] for key in HEADS if int(verdict.told[key][row]) >= 0}
    read = {key: names[key][int(verdict.reading.labels[key][row])] for key in said}
    return said, read
