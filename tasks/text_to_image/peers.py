"""Measure a peer's pictures of a run's own held-out prompts, with the figures that the run's players have."""

import importlib
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch.nn.functional as F
from torch import Tensor

from scorefield.data import toybox as world
from scorefield.evaluation import toybox
from scorefield.evaluation.metrics import diversity
from scorefield.evaluation.peers import Peer, PeerConfig
from scorefield.files import write_json
from scorefield.images import load_image, save_image

from . import evaluate

if TYPE_CHECKING:
    from .task import TextToImage

TIMED = 16


def measure(task: "TextToImage", settings: PeerConfig, samples: int) -> dict[str, Any]:
    """The row of a peer, on the first ``samples`` held-out prompts; writes evaluation/peers/NAME."""
    peer = Peer(settings, task.device)
    prompts = evaluate.repeated(task.prompts.held_out, samples)
    images = as_the_run(task, peer.draw(prompts, evaluate.EVALUATION_SEED))
    row: dict[str, Any] = {"steps": peer.steps, "guidance": peer.guidance}
    row["seconds_per_image"] = peer.seconds(evaluate.repeated(prompts, TIMED), evaluate.EVALUATION_SEED)
    row |= judged(task, peer, images, prompts) | scored(task, images, prompts)
    save(task, settings, prompts, images)
    return row | {"told": {"prompts": samples, **peer.facts(), "settings": asdict(settings)}}


def as_the_run(task: "TextToImage", images: Tensor) -> Tensor:
    """Pictures at the size of the run's own, where a judge of one size is to read them."""
    shown = task.folder.evaluation / "pairs" / "0000-student.png"
    if task.config.evaluation.judge == "none" or not shown.exists():
        return images
    size = load_image(shown).shape[-2:]
    if images.shape[-2:] == size:
        return images
    return F.interpolate(images, size=size, mode="bilinear", antialias=True).clamp(-1, 1)


def judged(task: "TextToImage", peer: Peer, images: Tensor, prompts: list[str]) -> dict[str, float]:
    """What the judge reads, against the same real pictures as teacher and student."""
    if task.config.evaluation.judge == "none":
        return {}
    judge, images = evaluate.load_judge(task.config, task.device), images.to(task.device)
    side, start = images.shape[-1], evaluate.REFERENCE_START
    reference = toybox.real_pictures(prompts, world.TEST_SEED, start, task.device, side)
    found = toybox.figures(toybox.judge_pictures(judge, images, prompts), judge.read(reference).features)
    asked = evaluate.repeated(task.prompts.held_out, evaluate.DIVERSITY_PROMPTS)
    asked = [prompt for prompt in asked for _ in range(evaluate.DIVERSITY_SAMPLES)]
    several = as_the_run(task, peer.draw(asked, evaluate.EVALUATION_SEED + 1)).to(task.device)
    return found | {"diversity": diversity(judge.read(several).features, asked)}


def scored(task: "TextToImage", images: Tensor, prompts: list[str]) -> dict[str, Any]:
    """Figures of ``evaluation.scores``, where this version has them."""
    if not getattr(task.config.evaluation, "scores", None):
        return {}
    scores = importlib.import_module("scorefield.evaluation.scores")
    opened = scores.open_scores(task.config.evaluation, task.device)
    return scores.measure(opened, {"peer": images.to(task.device)}, prompts)["peer"] | {"scores": scores.facts(opened)}


def save(task: "TextToImage", settings: PeerConfig, prompts: list[str], images: Tensor) -> None:
    """The pictures of the first prompts, those that the run shows, for the preference page and for looking."""
    name = settings.name
    folder = task.folder.evaluation / "peers" / name
    records = []
    for row in range(min(settings.keep, len(prompts))):
        save_image(images[row], folder / f"{row:04d}.png")
        records.append({"prompt": prompts[row], "picture": str(Path("evaluation/peers", name, f"{row:04d}.png"))})
    write_json(folder / "pictures.json", records)
