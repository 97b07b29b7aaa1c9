"""Embeddings on disk: shards of some prompts each, valid tokens only, whole or not there, checked when opened.

A shard is ``shard-NNNNN.safetensors`` (``states`` [T, C], its prompts' valid tokens end to end; ``lengths`` int64 [n];
further keys of the condition [n, …]) beside a ``.json`` with its checksum, written last. ``cache.json`` says what all
were made by. Several processes share the work: each makes the shards whose number is its own modulo their count.
"""

import hashlib
import json
import time
from collections import OrderedDict, defaultdict
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from scorefield import processes
from scorefield.denoiser import Condition
from scorefield.errors import UserError
from scorefield.files import read_json, write_atomically, write_json
from scorefield.teachers.base import Teacher
from scorefield.training.checkpoint import checksum

SHARD, ENCODED = 1024, 256  # prompts of a shard, and of one call of the encoder
OPEN_FILES = 64
PATIENCE = 60.0  # seconds that other processes wait for what the first one writes at once

Encode = Callable[[int, int], Condition]


class Shards:
    """What is kept of ``items`` in ``folder``; made by ``prepare``.

    Attributes:
        folder: theirs. items: prompts, or what else tells apart what was encoded. dtype: of text.
    """

    def __init__(self, folder: Path, items: Sequence[str], dtype: torch.dtype):
        self.folder, self.items, self.dtype = Path(folder), items, dtype
        self._open: OrderedDict[int, Any] = OrderedDict()
        self._lengths: Tensor | None = None

    def __len__(self) -> int:
        return -(-len(self.items) // SHARD)

    @property
    def size(self) -> int:
        """Bytes of all shards."""
        return sum(self.file(number).stat().st_size for number in range(len(self)))

    def file(self, number: int) -> Path:
        return self.folder / f"shard-{number:05d}.safetensors"

    def texts(self, number: int) -> Sequence[str]:
        return self.items[number * SHARD : (number + 1) * SHARD]

    def damage(self, number: int) -> str:
        """Why a shard must be made (anew); "" when it is whole and of its items."""
        file = self.file(number)
        if not file.exists() or not file.with_suffix(".json").exists():
            return "missing"
        try:
            record = read_json(file.with_suffix(".json"))
        except UserError as error:
            return str(error)
        if not isinstance(record, dict) or record.get("items") != digest(self.texts(number), self.dtype):
            return "of other items"
        return "" if checksum(file) == record.get("crc32") else "truncated or changed"

    def make(self, number: int, encode: Encode) -> None:
        """Encode and write one shard."""
        from safetensors.torch import save_file

        file, texts = self.file(number), self.texts(number)
        file.with_suffix(".json").unlink(missing_ok=True)
        first = number * SHARD
        tensors = packed(encode, range(first, first + len(texts)), self.dtype)
        write_atomically(file, lambda part: save_file(tensors, part))
        record = {"count": len(texts), "crc32": checksum(file), "items": digest(texts, self.dtype)}
        write_json(file.with_suffix(".json"), record)

    def load(self) -> dict[str, Tensor]:
        """All shards as one, on the host."""
        from safetensors.torch import load_file

        parts = [load_file(self.file(number)) for number in range(len(self))]
        return {name: torch.cat([part[name] for part in parts]) for name in parts[0]}

    # ------------------------------------------------------------------ some rows

    @property
    def lengths(self) -> Tensor | None:
        """int64 [N]: valid tokens of every prompt; None where conditions hold no text."""
        if self._lengths is None and "lengths" in self._opened(0).keys():  # noqa: SIM118 (no mapping)
            parts = [self._opened(number).get_tensor("lengths") for number in range(len(self))]
            self._lengths = torch.cat(parts)
            self._starts = self._lengths.cumsum(0) - self._lengths
        return self._lengths

    def rows(self, places: Sequence[int]) -> dict[str, Tensor]:
        """``states`` and ``lengths`` and further keys of some prompts, packed as in a shard; only they are read."""
        found: dict[str, list[Tensor]] = defaultdict(list)
        for place in places:
            number, row = divmod(place, SHARD)
            shard = self._opened(number)
            for name in shard.keys():  # noqa: SIM118 (no mapping)
                if name != "states":
                    found[name].append(shard.get_slice(name)[row : row + 1])
            if self.lengths is not None:
                start = int(self._starts[place] - self._starts[number * SHARD])
                stop = start + int(self.lengths[place])
                found["states"].append(shard.get_slice("states")[start:stop])
        return {name: torch.cat(parts) for name, parts in found.items()}

    def _opened(self, number: int) -> Any:
        """A mapped shard; the one that was not asked for longest is closed when there are many."""
        from safetensors import safe_open

        if number not in self._open:
            if len(self._open) >= OPEN_FILES:
                self._open.popitem(last=False)
            self._open[number] = safe_open(self.file(number), "pt")
        self._open.move_to_end(number)
        return self._open[number]


def digest(texts: Sequence[str], dtype: torch.dtype) -> str:
    return hashlib.sha256(json.dumps([str(dtype), *texts]).encode()).hexdigest()


def packed(encode: Encode, places: range, dtype: torch.dtype) -> dict[str, Tensor]:
    """What ``encode`` makes of the items at ``places``, as a shard holds it, on the host."""
    parts: dict[str, list[Tensor]] = defaultdict(list)
    for start in places[::ENCODED]:
        for name, value in pack(encode(start, min(start + ENCODED, places.stop)), dtype).items():
            parts[name].append(value.cpu())
    return {name: torch.cat(pieces).contiguous() for name, pieces in parts.items()}


def pack(condition: Condition, dtype: torch.dtype) -> dict[str, Tensor]:
    """{text [n, L, C], text_mask [n, L], …} without padding: {states [T, C], lengths [n], …}."""
    encoded = dict(condition)
    if "text" in encoded:
        mask = encoded.pop("text_mask").bool()
        encoded |= {"states": encoded.pop("text")[mask], "lengths": mask.sum(1)}
    return {name: kept(name, value, dtype) for name, value in encoded.items()}


def kept(name: str, value: Tensor, dtype: torch.dtype) -> Tensor:
    """``value`` as it is kept: text in ``dtype``; latents as they are, since a discriminator could tell a rounding."""
    return value.to(dtype) if value.is_floating_point() and name != "latents" else value


def unpack(packed: Condition, longest: int) -> dict[str, Tensor]:
    """{text [n, longest, C] float32, text_mask int64 [n, longest], …} of what ``pack`` gave."""
    found = {name: value.float() if value.is_floating_point() else value for name, value in packed.items()}
    if "states" not in found:
        return found
    states, lengths = found.pop("states"), found.pop("lengths")
    mask = torch.arange(longest, device=lengths.device)[None] < lengths[:, None]
    text = states.new_zeros(len(lengths), longest, states.shape[1])
    text[mask] = states
    return {"text": text, "text_mask": mask.long(), **found}


# ---------------------------------------------------------------------- making


def prepare(
    folder: Path,
    teacher: Teacher,
    prompts: Sequence[str],
    dtype: torch.dtype,
    *,
    own: bool,
    say: Callable[[str], None] = print,
) -> Shards:
    """Embeddings of ``prompts``: ``open_shards`` with the teacher's text encoder."""

    def encode(start: int, stop: int) -> Condition:
        return teacher.encode(prompts[start:stop])

    return open_shards(folder, prompts, encode, teacher.text_key(), dtype, own=own, say=say)


def open_shards(
    folder: Path,
    items: Sequence[str],
    encode: Encode,
    key: Sequence[Any],
    dtype: torch.dtype,
    *,
    own: bool,
    setting: str = "prompts.cache",
    what: str = "prompts",
    say: Callable[[str], None] = print,
) -> Shards:
    """Open what is kept of ``items`` in ``folder``, making what is missing; a killed process goes on at its shard.

    Args:
        encode: the condition of the items from one place to (not including) another.
        key: what it depends on beside the items, in words.
        own: the folder belongs to one run: what is kept of other items is replaced there, elsewhere refused.
        setting: that names the folder. what: the items are.

    Raises:
        UserError: the folder holds what another encoder made, or (not ``own``) of other items or in another type; it
            cannot be written.
    """
    shards = Shards(folder, items, dtype)
    agree(folder, header_of(key, items, dtype), own, setting, what)
    rank, world = processes.rank(), processes.world()
    mine = range(rank, len(shards), world)
    todo = [number for number in mine if shards.damage(number)]
    for done, number in enumerate(todo):
        if len(todo) > 1 and rank == 0:
            say(f"encoding {len(shards.texts(number))} {what}: shard {done + 1} of {len(todo)}")
        shards.make(number, encode)
    for number in set(range(len(shards))) - set(mine):
        while shards.damage(number):  # another process is at it; should it fail, the launcher ends all
            time.sleep(0.2)
    return shards


def header_of(key: Sequence[Any], items: Sequence[str], dtype: torch.dtype) -> dict[str, Any]:
    """What cache.json says."""
    return {
        "encoder": [str(part) for part in key],
        "dtype": str(dtype).removeprefix("torch."),
        "count": len(items),
        "sha256": digest(items, dtype),
    }


def agree(folder: Path, header: dict[str, Any], own: bool, setting: str, what: str) -> None:
    """See to it that cache.json says ``header``; raises UserError where the folder is somebody else's."""
    file = Path(folder) / "cache.json"
    for found in _attempts(file):
        if found == header:
            return
        if found and found["encoder"] != header["encoder"]:
            raise UserError(
                f"the embeddings in {folder} were made by {', '.join(found['encoder'])}, but this teacher encodes by "
                f"{', '.join(header['encoder'])}: give another folder as {setting}, or delete this one"
            )
        if found and not own:
            theirs, ours = (f"{each['count']} {what} in {each['dtype']}" for each in (found, header))
            theirs = theirs if theirs != ours else f"{theirs}, but other ones"
            raise UserError(
                f"{folder} holds embeddings of {theirs}, and this run has {ours}: give another folder as {setting}"
            )
        if processes.rank() == 0:
            write_json(file, header)
            return
    raise UserError(
        f"process {processes.rank()} does not see {file}, which the first process writes: text embeddings must lie "
        f"on a disk that all machines share ({setting})"
    )


def _attempts(file: Path) -> Iterator[dict[str, Any]]:
    """What cache.json says, {} for nothing or nonsense, again and again for a while."""
    end = time.monotonic() + PATIENCE
    while time.monotonic() < end:
        try:
            found = read_json(file) if file.exists() else {}
        except UserError:
            found = {}
        yield found if isinstance(found, dict) and {"encoder", "dtype", "count"} <= set(found) else {}
        time.sleep(0.2)


def keep_empty_prompt(folder: Path, teacher: Any, dtype: torch.dtype) -> None:
    """The empty (or negative) prompt of a diffusers pipeline, encoded once, goes into every copy of its denoiser.

    It lies in ``folder`` beside the shards, in ``dtype`` as they do, and is made anew when it cannot be read.
    """
    from safetensors import safe_open
    from safetensors.torch import save_file

    file = Path(folder) / "empty.safetensors"
    wanted = json.dumps([*map(str, teacher.text_key()), teacher.negative_prompt, str(dtype)])
    try:
        with safe_open(file, "pt") as stored:
            if (stored.metadata() or {}).get("key") == wanted:
                kept = {name: stored.get_tensor(name) for name in stored.keys()}  # noqa: SIM118 (no mapping)
                teacher.keep_null({name: value.to(teacher.device) for name, value in kept.items()})
                return
    except Exception:
        pass  # not there, or damaged: made anew
    found = {name: value.cpu().contiguous() for name, value in teacher.null().items()}
    found = {name: value.to(dtype).float() if value.is_floating_point() else value for name, value in found.items()}
    teacher.keep_null({name: value.to(teacher.device) for name, value in found.items()})
    if processes.rank() == 0:
        write_atomically(file, lambda part: save_file(found, part, {"key": wanted}))
