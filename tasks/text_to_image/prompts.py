"""What a run learns on and is measured on, and how its batches are told of it."""

import hashlib
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import torch

from scorefield.data import toybox
from scorefield.errors import UserError
from scorefield.prompts import shards, sources
from scorefield.prompts.files import read_prompts_file
from scorefield.teachers.base import Teacher
from scorefield.teachers.pipeline import PipelineTeacher

from .settings import TextToImageConfig


@dataclass
class Prompts:
    """What a run learns on and what it is measured on.

    ``held_out`` is in the order in which it is used; ``shared`` says that it had to be taken from ``train``.
    """

    train: list[str]
    held_out: list[str]
    shared: bool = False


def read_prompts(config: TextToImageConfig, samples: int = 0) -> Prompts:
    """Training and (at least ``samples``) held-out prompts; no text is in both unless there are too few.

    Held out are: ``evaluation.prompts`` (a file, or "toybox:SEED"); else, with Toybox's judge, captions of its
    test seed; else one in ten of the training file, chosen by a hash of the text so that the choice outlives a
    reordered file.
    Raises UserError for a missing, empty or broken file.
    """
    settings, wanted = config.prompts, max(config.evaluation.samples, config.evaluation.preview, samples)
    if settings.path == "toybox":
        train = list(dict.fromkeys(toybox.prompts(settings.count, toybox.TRAIN_SEED)))
    else:
        train = read_prompts_file(Path(settings.path), settings.field)
        train = train[: settings.count] if settings.count else train
    if config.evaluation.prompts.startswith("toybox:"):
        held_out = fresh(toybox.prompt_stream(toybox_seed(config.evaluation.prompts)), train, wanted)
    elif config.evaluation.prompts:
        held_out = read_prompts_file(Path(config.evaluation.prompts), settings.field)
    elif config.evaluation.judge != "none":
        held_out = fresh(toybox.prompt_stream(toybox.TEST_SEED), train, wanted)
    else:
        held_out = [text for text in train if hashlib.sha256(text.encode()).digest()[0] < 26]
        if not held_out or len(held_out) == len(train):
            return Prompts(train, train, shared=True)
    known = set(held_out)
    kept = [text for text in train if text not in known]
    return Prompts(kept, held_out) if kept else Prompts(train, held_out, shared=True)


def fresh(stream: Iterator[str], train: list[str], count: int) -> list[str]:
    """The first ``count`` texts of ``stream`` that training does not use."""
    known = set(train)
    return list(islice((text for text in stream if text not in known), count))


def toybox_seed(text: str) -> int:
    """SEED of "toybox:SEED"; raises UserError when it is no number, or the seed that training prompts come from."""
    seed = text.removeprefix("toybox:")
    if not seed.isdecimal() or int(seed) == toybox.TRAIN_SEED:
        raise UserError(f'evaluation.prompts "{text}" must be a file or toybox:SEED with a seed of 1 or more')
    return int(seed)


def warn_of_cuts(pipeline: Teacher, prompts: list[str], kind: str = "prompts", say=print) -> int:
    """Say which prompts are longer than the teacher reads and what is cut of the first; returns how many."""
    cuts = [
        (prompt, cut) for prompt in prompts if len(prompt) >= pipeline.max_tokens / 8 and (cut := pipeline.cut(prompt))
    ]
    if cuts:
        prompt, cut = cuts[0]
        say(
            f"{len(cuts)} of {len(prompts)} {kind} are longer than the teacher reads and are cut; "
            f'of "{prompt[:40]}…" this is not seen: "{cut}"'
        )
    return len(cuts)


def open_conditions(
    config: TextToImageConfig,
    pipeline: Teacher,
    prompts: list[str],
    cache: Path,
    device: str,
    thread: ThreadPoolExecutor | None = None,
) -> sources.Conditions:
    """What batches are told, as ``config.prompts`` says: embeddings kept in shards, or made as they are needed.

    Raises UserError for embeddings on disk that are of another text encoder or, in a folder that runs share, of other
    prompts.
    """
    settings, iterations = config.prompts, config.training.iterations
    dtype = getattr(torch, config.stored)
    if settings.embeddings == "streamed":
        return sources.streamed(pipeline, prompts, dtype, device, iterations, thread)
    folder = Path(settings.cache) if settings.cache else cache / "text"
    kept = shards.prepare(folder, pipeline, prompts, dtype, own=not settings.cache)
    if isinstance(pipeline, PipelineTeacher):
        shards.keep_empty_prompt(folder, pipeline, dtype)
    return sources.from_shards(kept, device, iterations, settings.resident_gb * 1e9)
