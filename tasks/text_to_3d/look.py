"""Look at a field: colour, normals and depth of some views, and what the judge reads off them."""

from dataclasses import dataclass
from functools import cache
from typing import Any

import torch
from torch import Tensor

from scorefield import resources
from scorefield.data import toybox
from scorefield.errors import UserError
from scorefield.evaluation.judge import Judge
from scorefield.generators.nerf import NerfGenerator
from scorefield.three_d.camera_law import eight_views, names
from scorefield.three_d.cameras import Cameras, orbit
from scorefield.three_d.settings import BackgroundConfig

from .settings import TextTo3DConfig

ANGLES = {"front": 0.0, "side": 90.0, "right": 90.0, "back": 180.0, "left": 270.0}


@dataclass
class Seen:
    """Pictures [N, 3, H, W] in [-1, 1] of some views."""

    colour: Tensor
    normal: Tensor
    depth: Tensor


@torch.no_grad()
def views(generator: NerfGenerator, cameras: Cameras, particle: int, background: BackgroundConfig) -> Seen:
    """Colour on the first named background (else on grey), normals as (n + 1) / 2, depth near white and far black."""
    ground = next(iter(background.named.values()), [0.5, 0.5, 0.5])
    parts = []
    for row in range(len(cameras)):
        one = cameras[row : row + 1]
        flat = torch.tensor([ground], device=one.c2w.device)
        behind = generator.backdrop(particle, one, flat, torch.zeros(1, dtype=torch.bool, device=one.c2w.device))
        seen = generator.look(one, particle, background=behind, normals=True)
        bound = generator.settings.field.bound
        middle = one.c2w[:, :3, 3].norm(dim=-1)
        near = ((middle + bound - seen.depth) / (2 * bound)).clamp(0, 1) * seen.opacity
        assert seen.normal is not None
        bumps = seen.normal + 1 - seen.opacity  # white where nothing is
        parts.append((seen.image * 2 - 1, bumps, near.expand_as(seen.image) * 2 - 1))
    colour, normal, depth = (torch.cat(values) for values in zip(*parts, strict=True))
    return Seen(colour, normal, depth)


def asked(config: TextTo3DConfig, words: list[str]) -> Cameras:
    """Cameras at azimuths that are named or given in degrees; raises UserError for another word."""
    angles = []
    for word in words:
        try:
            angles.append(ANGLES[word] if word in ANGLES else float(word))
        except ValueError as error:
            raise UserError(f'"{word}" is no view: give degrees, or {", ".join(ANGLES)}') from error
    middle = [sum(ends) / 2 for ends in (config.cameras.elevation, config.cameras.distance, config.cameras.fovy)]
    elevation, fovy = (torch.tensor(value).deg2rad() for value in (middle[0], middle[2]))
    return orbit(elevation, torch.tensor(angles).deg2rad(), middle[1], fovy, (config.evaluation.size,) * 2)


@cache
def judge_of(name: str, device: str) -> Judge:
    """The judge of an asset."""
    return Judge.load(resources.asset(name) / "judge", device)


def judged(config: TextTo3DConfig, images: Tensor, prompt: str, words: list[str]) -> dict[str, float]:
    """Shares of pictures whose object and colour, and whose view, the judge reads as asked; {} for other prompts."""
    told = toybox.parse(prompt)
    if told is None:
        return {}
    reading = judge_of(config.evaluation.judge, str(images.device)).read(images)
    right = (reading.labels["object"] == told.object) & (reading.labels["color"] == told.color)
    result = {
        "eval/object": (reading.labels["object"] == told.object).float().mean().item(),
        "eval/object_and_colour": right.float().mean().item(),
    }
    wanted = torch.tensor([toybox.VIEWS.index(word) if word in toybox.VIEWS else -1 for word in words])
    view = reading.labels["view"].cpu() == wanted
    return result | {"eval/view": view.float().mean().item()}


def measure(config: TextTo3DConfig, prompt: str, generator: NerfGenerator, count: int) -> list[dict[str, Any]]:
    """The summary's record of each particle."""
    records = []
    for particle in range(config.particles):
        record: dict[str, Any] = {"prompt": prompt, "particle": particle}
        if config.evaluation.judge != "none":
            cameras, words = eight_views(config.cameras, (config.evaluation.size,) * 2, count)
            device = next(generator.parameters()).device
            seen = views(generator, cameras.to(device), particle, config.background)
            shares = judged(config, seen.colour, prompt, names(words))
            record["judge_accuracy"] = shares.get("eval/object_and_colour")
        records.append(record)
    return records
