"""Pairs of start noise and what a teacher's deterministic sampler makes of it, drawn once and kept with a checksum."""

import hashlib
import json
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from scorefield.config import differences
from scorefield.denoiser import Condition, Denoiser
from scorefield.errors import UserError
from scorefield.evaluation.sweep import pipeline_digest
from scorefield.files import digest, read_json, write_atomically, write_json
from scorefield.processes import is_main
from scorefield.random import Draws
from scorefield.teachers.base import Teacher
from scorefield.teachers.pipeline import STOCHASTIC, PipelineTeacher

FILE, RECORD = "pairs.safetensors", "pairs.json"


def say_on_stderr(text: str) -> None:
    """Where a run's status goes; one of several processes speaks."""
    if is_main():
        print(text, file=sys.stderr, flush=True)


@dataclass(frozen=True)
class Pairs:
    """``z`` [N, …] and ``x0`` [N, …] in the teacher's space, float32; ``rows`` int64 [N]: the prompt of each."""

    z: Tensor
    x0: Tensor
    rows: Tensor


def describe(
    teacher: Teacher, prompts: list[str], *, count: int, steps: int, guidance_scale: float, seed: int
) -> dict[str, Any]:
    """All that the pairs depend on; pairs on disk are used only where it agrees."""
    local = Path(teacher.path).is_dir()
    text = hashlib.sha256(json.dumps([teacher.max_tokens, prompts]).encode()).hexdigest()
    return {
        "teacher": pipeline_digest(Path(teacher.path)) if local else str(teacher.path),
        "prompts": text,
        "sampler": getattr(teacher, "scheduler", "") or "own",
        "shape": list(teacher.latent_shape),
        "count": count,
        "steps": steps,
        "guidance_scale": guidance_scale,
        "seed": seed,
    }


def refuse_stochastic(teacher: Teacher) -> None:
    """Raise UserError for a sampler whose result is no function of the start noise."""
    if not isinstance(teacher, PipelineTeacher):
        return
    scheduler = teacher.make_scheduler()
    name, kind = type(scheduler).__name__, str(scheduler.config.get("algorithm_type", ""))
    if name in STOCHASTIC or kind.startswith("sde") or "SDE" in name:
        raise UserError(
            f"pairs need a sampler that adds no noise, which {name} {kind} is not: set teacher.options.scheduler, for "
            "example to EulerDiscreteScheduler"
        )


def stored(folder: Path, wanted: dict[str, Any], device: str) -> Pairs | None:
    """The pairs of a folder, None where there are none.

    Raises UserError for pairs that were drawn otherwise, with what differs, and for a file that is not as written.
    """
    from safetensors.torch import load_file

    if not (folder / RECORD).is_file():
        return None
    record = read_json(folder / RECORD)
    if changed := differences(record.get("settings", {}), wanted):
        raise UserError(f"the pairs in {folder} were drawn otherwise: {'; '.join(changed)}; name another folder")
    if not (folder / FILE).is_file() or digest(folder / FILE) != record.get("sha256"):
        raise UserError(f"{folder / FILE} is missing or not what was written; remove {folder / RECORD} to draw it anew")
    return Pairs(**{name: value.to(device) for name, value in load_file(folder / FILE).items()})


def draw(
    teacher: Teacher,
    denoiser: Denoiser,
    conditions: Callable[[Tensor], Condition],
    prompts: int,
    wanted: dict[str, Any],
    device: str,
    batch: int = 128,
    say: Callable[[str], None] = say_on_stderr,
) -> Pairs:
    """Fresh pairs as ``wanted`` (from ``describe``) says, prompts in turn; ``say`` hears how far it is."""
    places = torch.arange(wanted["count"], device=device)
    z = Draws(wanted["seed"], -4, places).normal("pair-z", *teacher.latent_shape)
    rows, parts, told_at = places % prompts, [], time.monotonic()
    for piece in places.split(batch):
        if time.monotonic() - told_at > 30:
            told_at = time.monotonic()
            say(f"{int(piece[0])} of {wanted['count']} pairs")
        told = conditions(rows[piece])
        options = {"steps": wanted["steps"], "guidance_scale": wanted["guidance_scale"], "batch": batch}
        parts.append(teacher.sample(denoiser, told, z[piece], **options).float())
    return Pairs(z, torch.cat(parts), rows)


def keep(pairs: Pairs, folder: Path, wanted: dict[str, Any], seconds: float) -> None:
    """Write pairs and their record, the record last."""
    from safetensors.torch import save_file

    tensors = {name: value.cpu().contiguous() for name, value in vars(pairs).items()}
    (folder / RECORD).unlink(missing_ok=True)
    write_atomically(folder / FILE, lambda part: save_file(tensors, part))
    write_json(folder / RECORD, {"settings": wanted, "seconds": round(seconds, 1), "sha256": digest(folder / FILE)})


def make_pairs(
    teacher: Teacher,
    denoiser: Denoiser,
    conditions: Callable[[Tensor], Condition],
    prompts: list[str],
    folder: Path,
    *,
    write: bool,
    device: str,
    say: Callable[[str], None] = say_on_stderr,
    **settings: Any,
) -> Pairs:
    """The pairs of ``folder``, or fresh ones, kept there if ``write``.

    Args:
        denoiser: the teacher's. conditions: from numbers of prompts int64 [B] to what the teacher is told.
        settings: count, steps, guidance_scale and seed.

    Raises:
        UserError: pairs in the folder that were drawn otherwise or are damaged, or a stochastic sampler.
    """
    wanted = describe(teacher, prompts, **settings)
    if (found := stored(folder, wanted, device)) is not None:
        return found
    refuse_stochastic(teacher)
    say(f"drawing {wanted['count']} pairs of the teacher in {wanted['steps']} steps")
    start = time.monotonic()
    pairs = draw(teacher, denoiser, conditions, len(prompts), wanted, device, say=say)
    if write:
        keep(pairs, folder, wanted, time.monotonic() - start)
    return pairs
