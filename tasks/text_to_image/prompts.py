"""Prompt sources, and the cache of their text embeddings (valid tokens only, made once, kept in the run)."""

import hashlib
import json
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import torch
from torch import Tensor

from scorefield.data import toybox
from scorefield.errors import UserError
from scorefield.files import write_atomically
from scorefield.random import Draws
from scorefield.teachers.base import Teacher

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
        train = read_file(Path(settings.path), settings.field)
        train = train[: settings.count] if settings.count else train
    if config.evaluation.prompts.startswith("toybox:"):
        held_out = fresh(toybox.prompt_stream(toybox_seed(config.evaluation.prompts)), train, wanted)
    elif config.evaluation.prompts:
        held_out = read_file(Path(config.evaluation.prompts), settings.field)
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


def read_file(path: Path, field: str) -> list[str]:
    """Prompts of a .txt, .jsonl or .parquet file; raises UserError when it is missing, empty or broken."""
    if not path.is_file():
        raise UserError(f"prompt file {path} does not exist")
    readers = {".txt": _read_lines, ".jsonl": _read_jsonl, ".parquet": _read_parquet}
    if path.suffix not in readers:
        raise UserError(f"prompt file {path} must end in {', '.join(readers)}")
    texts = [text.strip() for text in readers[path.suffix](path, field) if text.strip()]
    if not texts:
        raise UserError(f"prompt file {path} holds no prompt")
    return texts


def _read_lines(path: Path, field: str) -> list[str]:
    try:
        return path.read_text(encoding="utf-8").splitlines()
    except UnicodeDecodeError as error:
        raise UserError(f"prompt file {path} is not UTF-8 text: {error.reason} at byte {error.start}") from error


def _read_jsonl(path: Path, field: str) -> list[str]:
    texts = []
    for number, line in enumerate(_read_lines(path, field), start=1):
        if not line.strip():
            continue
        try:
            text = json.loads(line)[field]
        except (json.JSONDecodeError, KeyError, TypeError, IndexError) as error:
            raise UserError(f'{path} line {number} is no JSON object with the key "{field}"') from error
        if not isinstance(text, str):
            raise UserError(f'{path} line {number}: "{field}" is {text!r}, not a text')
        texts.append(text)
    return texts


def _read_parquet(path: Path, field: str) -> list[str]:
    try:
        import pyarrow.parquet as parquet
    except ImportError as error:
        raise UserError("reading parquet prompts needs pyarrow: pip install pyarrow") from error
    try:
        table = parquet.read_table(path)
    except Exception as error:
        raise UserError(f"cannot read {path} as parquet: {error}") from error
    if field not in table.column_names:
        raise UserError(f'{path} has no column "{field}": it has {", ".join(table.column_names)}')
    values = [value for value in table.column(field).to_pylist() if value is not None]
    if wrong := [value for value in values if not isinstance(value, str)]:
        raise UserError(f'{path}: column "{field}" holds {wrong[0]!r}, not texts')
    return values


def warn_of_cuts(pipeline: Teacher, prompts: list[str], say=print) -> int:
    """Say which prompts are longer than the token limit and what is cut of the first; returns how many."""
    cuts = [
        (prompt, cut) for prompt in prompts if len(prompt) >= pipeline.max_tokens / 8 and (cut := pipeline.cut(prompt))
    ]
    if cuts:
        prompt, cut = cuts[0]
        say(
            f"{len(cuts)} of {len(prompts)} prompts are longer than {pipeline.max_tokens} tokens and are cut; "
            f'of "{prompt[:40]}…" this is not seen: "{cut}"'
        )
    return len(cuts)


class TextCache:
    """Conditions of many prompts: text states are stored end to end without padding, anything else a row a prompt.

    Args:
        tensors: ``states`` float32 [T, C], all valid tokens, with ``lengths`` int64 [N], where there is text; further
            keys of the condition [N, …] (pooled text, a class).
    """

    def __init__(self, prompts: list[str], tensors: dict[str, Tensor], device: str):
        self.prompts = prompts
        whole = {key: value.to(device) for key, value in tensors.items()}
        self.states, self.lengths = whole.pop("states", None), whole.pop("lengths", None)
        self.whole = whole
        if self.lengths is not None:
            self.starts = self.lengths.cumsum(0) - self.lengths
            # batches are padded to one length, so that no iteration asks the device for its longest prompt
            self.longest = int(self.lengths.max())

    def rows(self, indices: Tensor) -> dict[str, Tensor]:
        """Condition of some prompts: {text [B, L, C], text_mask [B, L], …}, L = the longest of all."""
        condition = {key: value[indices] for key, value in self.whole.items()}
        if self.states is None or self.lengths is None:
            return condition
        place = torch.arange(self.longest, device=self.states.device)
        valid = place[None] < self.lengths[indices, None]
        flat = (self.starts[indices, None] + place[None]).clamp_max(len(self.states) - 1)
        return {"text": self.states[flat] * valid[..., None], "text_mask": valid.long(), **condition}

    def __call__(self, draws: Draws) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        """Conditions of drawn prompts, the same for teacher and online score."""
        condition = self.rows(draws.integers("prompt", len(self.prompts)))
        return condition, condition


def make_cache(pipeline: Teacher, prompts: list[str], file: Path | None, device: str) -> TextCache:
    """Encode ``prompts``, or read them from ``file`` if it was made of the same prompts and text encoder."""
    from safetensors import safe_open
    from safetensors.torch import save_file

    key = hashlib.sha256(json.dumps([*pipeline.text_key(), prompts]).encode()).hexdigest()
    if file is not None and file.exists():
        try:
            with safe_open(file, "pt") as stored:
                if (stored.metadata() or {}).get("key") == key:
                    names = stored.keys()
                    return TextCache(prompts, {name: stored.get_tensor(name) for name in names}, device)
        except Exception:
            file.unlink()  # a damaged cache is only made anew
    parts: dict[str, list[Tensor]] = defaultdict(list)
    for start in range(0, len(prompts), 256):
        encoded = dict(pipeline.encode(prompts[start : start + 256]))
        if "text" in encoded:
            mask = encoded.pop("text_mask").bool()
            encoded |= {"states": encoded.pop("text")[mask], "lengths": mask.sum(1)}
        for name, value in encoded.items():
            parts[name].append(value.cpu())
    tensors = {name: torch.cat(pieces) for name, pieces in parts.items()}
    if file is not None:
        write_atomically(file, lambda part: save_file(tensors, part, {"key": key}))
    return TextCache(prompts, tensors, device)
