"""Real pictures with captions, read in any order: a folder, webdataset's tar shards, a Hugging Face dataset, Toybox.

Tar shards are the layout that webdataset writes: members of one sample share the name up to its first dot. Shards are
not compressed, so a sample is read at its place, by number, and what a batch holds depends on its numbers alone.
"""

import io
import json
import re
import tarfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor

from scorefield.errors import UserError
from scorefield.pretrain.sources import IMAGE_SUFFIXES, FolderSource, square_picture

CAPTION_SUFFIXES = (".txt", ".caption")


class Captioned(Protocol):
    """Pictures by number.

    Attributes:
        items: what tells each picture with its caption apart from others, as text; one a picture.
    """

    items: list[str]

    def at(self, rows: Sequence[int]) -> tuple[Tensor, list[str]]:
        """(uint8 [n, 3, R, R], captions) of some pictures."""
        ...

    def captions(self, rows: Sequence[int]) -> list[str]:
        """The captions alone."""
        ...


def open_captioned(data: str, resolution: int, limit: int, image: str = "image", caption: str = "caption") -> Captioned:
    """What ``data`` names, at most ``limit`` pictures of it.

    Args:
        data: "toybox"; a folder as ``train-teacher --data`` takes it; a folder of .tar shards, one shard, or several as
            "shards-{000..012}.tar" or "*.tar"; "hf:NAME-OR-FOLDER" or "hf:NAME@SPLIT".
        resolution: side that pictures are cropped and resized to.
        image, caption: columns of a Hugging Face dataset; ``caption`` is also the key of captions in JSON.

    Raises:
        UserError: nothing there, no captioned picture in it, or a package that is missing.
    """
    if data == "toybox":
        return ToyboxPictures(resolution, limit)
    if data.startswith("hf:"):
        return DatasetPictures(data.removeprefix("hf:"), resolution, limit, image, caption)
    path = Path(data)
    shards = sorted(path.glob("*.tar")) if path.is_dir() else named_shards(data)
    if shards:
        return TarPictures(shards, resolution, limit, caption)
    if not path.is_dir():
        raise UserError(f'{data} is neither a folder, nor .tar shards, nor "toybox", nor "hf:NAME" of a dataset')
    return FolderPictures(data, resolution, limit)


def chosen(count: int, limit: int) -> list[int]:
    """At most ``limit`` of ``count`` places, the same ones every time."""
    if count <= limit:
        return list(range(count))
    return sorted(torch.randperm(count, generator=torch.Generator().manual_seed(0))[:limit].tolist())


class ToyboxPictures:
    """Scenes of Toybox's training seed."""

    def __init__(self, resolution: int, limit: int):
        self.resolution = resolution
        self.items = [f"toybox {number} {resolution}" for number in range(limit)]

    def at(self, rows: Sequence[int]) -> tuple[Tensor, list[str]]:
        from scorefield.data import toybox

        pictures, scenes = toybox.images(rows, toybox.TRAIN_SEED, resolution=self.resolution)
        return pictures, toybox.caption(scenes, rows, toybox.TRAIN_SEED)

    def captions(self, rows: Sequence[int]) -> list[str]:
        from scorefield.data import toybox

        return toybox.caption(toybox.sample_scenes(rows, toybox.TRAIN_SEED), rows, toybox.TRAIN_SEED)


class FolderPictures:
    """name.png beside name.txt, or captions.jsonl."""

    def __init__(self, folder: str, resolution: int, limit: int):
        source = FolderSource(folder, resolution)
        self.resolution = resolution
        self.files = [source.items[place] for place in chosen(source.count, limit)]
        marks = [path.stat() for path, _ in self.files]
        self.items = [
            f"{path.name} {mark.st_size} {mark.st_mtime_ns} {text}"
            for (path, text), mark in zip(self.files, marks, strict=True)
        ]

    def at(self, rows: Sequence[int]) -> tuple[Tensor, list[str]]:
        pictures = [square_picture(self.files[row][0], str(self.files[row][0]), self.resolution) for row in rows]
        return torch.stack(pictures), self.captions(rows)

    def captions(self, rows: Sequence[int]) -> list[str]:
        return [self.files[row][1] for row in rows]


# ---------------------------------------------------------------------- tar shards


@dataclass
class Member:
    """A picture in a shard: where it starts, how long it is, and its caption."""

    shard: Path
    name: str
    start: int
    size: int
    caption: str


def named_shards(data: str) -> list[Path]:
    """The .tar files that a path, a pattern or a {first..last} range means."""
    found = re.fullmatch(r"(.*)\{(\d+)\.\.(\d+)\}(.*)", data)
    if found:
        head, first, last, tail = found.groups()
        paths = [Path(f"{head}{number:0{len(first)}d}{tail}") for number in range(int(first), int(last) + 1)]
        if missing := [path for path in paths if not path.is_file()]:
            raise UserError(f"shard {missing[0]} of {data} does not exist")
        return paths
    path = Path(data)
    if "*" in path.name:
        return sorted(path.parent.glob(path.name))
    return [path] if path.is_file() else []


class TarPictures:
    """The first pictures of webdataset's shards; captions from .txt, .caption or a .json with ``key``."""

    def __init__(self, shards: Sequence[Path], resolution: int, limit: int, key: str):
        self.resolution = resolution
        self.members: list[Member] = []
        for shard in shards:
            self.members += members_of(shard, key, limit - len(self.members))
            if len(self.members) >= limit:
                break
        if not self.members:
            raise UserError(
                f"{shards[0]} holds no captioned picture: a sample is name.jpg beside name.txt, or name.json with "
                f'"{key}" in it'
            )
        self.items = [f"{each.shard.name} {each.start} {each.size} {each.caption}" for each in self.members]

    def at(self, rows: Sequence[int]) -> tuple[Tensor, list[str]]:
        pictures = []
        for row in rows:
            member = self.members[row]
            with open(member.shard, "rb") as file:
                file.seek(member.start)
                content = io.BytesIO(file.read(member.size))
            pictures.append(square_picture(content, f"{member.name} in {member.shard}", self.resolution))
        return torch.stack(pictures), self.captions(rows)

    def captions(self, rows: Sequence[int]) -> list[str]:
        return [self.members[row].caption for row in rows]


def members_of(shard: Path, key: str, limit: int) -> list[Member]:
    """At most ``limit`` captioned pictures of one shard, in its order; members of a sample lie side by side."""
    found: list[Member] = []
    sample, picture, caption = "", None, None
    try:
        with tarfile.open(shard, "r:") as tar:
            for entry in tar:
                if not entry.isfile():
                    continue
                folder, _, name = entry.name.rpartition("/")
                stem, _, suffix = name.partition(".")
                if (whole := f"{folder}/{stem}") != sample:
                    sample, picture, caption = whole, None, None
                suffix = f".{suffix.lower()}"
                if suffix in IMAGE_SUFFIXES:
                    picture = entry
                elif suffix in CAPTION_SUFFIXES or suffix == ".json":
                    content = tar.extractfile(entry)
                    caption = (
                        said(content.read() if content else b"", suffix, key, f"{entry.name} in {shard}") or caption
                    )
                if picture is not None and caption is not None:
                    found.append(Member(shard, picture.name, picture.offset_data, picture.size, caption))
                    picture = caption = None
                    if len(found) >= limit:
                        break
    except (OSError, tarfile.TarError, EOFError) as error:
        raise UserError(f"cannot read {shard} as an uncompressed tar shard: {error}") from error
    return found


def said(content: bytes, suffix: str, key: str, where: str) -> str | None:
    """The caption in a text or JSON member; None for JSON without one."""
    try:
        if suffix != ".json":
            return content.decode("utf-8").strip()
        value = json.loads(content)
    except (UnicodeDecodeError, json.JSONDecodeError) as error:
        raise UserError(f"cannot read the caption {where}: {error}") from error
    text = value.get(key) if isinstance(value, dict) else None
    return text.strip() if isinstance(text, str) else None


# ---------------------------------------------------------------------- Hugging Face datasets


class DatasetPictures:
    """A dataset of the ``datasets`` package: saved in a folder, a folder in its own layout, or on the hub."""

    def __init__(self, name: str, resolution: int, limit: int, image: str, caption: str):
        self.name, self.resolution, self.image, self.caption = name, resolution, image, caption
        self.data = load_dataset(*name.rpartition("@")[::2]) if "@" in name else load_dataset(name, "train")
        columns = self.data.column_names
        for key, column in (("image", image), ("caption", caption)):
            if column not in columns:
                raise UserError(
                    f'dataset {name} has no column "{column}" (terms.adversarial.{key}): it has {", ".join(columns)}'
                )
        self.rows = chosen(len(self.data), limit)
        if not self.rows:
            raise UserError(f"dataset {name} is empty")
        mark = getattr(self.data, "_fingerprint", "")
        self.items = [f"hf {mark} {row} {image} {caption}" for row in self.rows]

    def at(self, rows: Sequence[int]) -> tuple[Tensor, list[str]]:
        pictures, captions = [], []
        for row in rows:
            record = self.data[self.rows[row]]
            where = f"row {self.rows[row]} of dataset {self.name}"
            pictures.append(square_picture(record[self.image], where, self.resolution))
            captions.append(self._text(record[self.caption], where))
        return torch.stack(pictures), captions

    def captions(self, rows: Sequence[int]) -> list[str]:
        texts = self.data.select_columns([self.caption])[[self.rows[row] for row in rows]][self.caption]
        return [self._text(text, f"a row of dataset {self.name}") for text in texts]

    def _text(self, value: Any, where: str) -> str:
        """The caption, or the first of several."""
        value = value[0] if isinstance(value, list) and value else value
        if not isinstance(value, str):
            raise UserError(f'{where}: column "{self.caption}" holds {value!r}, not a text')
        return value.strip()


def load_dataset(name: str, split: str) -> Any:
    """A map-style dataset; raises UserError where the package or the dataset is missing."""
    try:
        import datasets
    except ImportError as error:
        raise UserError('hf:… needs the package datasets: pip install "scorefield[datasets]"') from error
    try:
        if (Path(name) / "state.json").exists():
            return datasets.load_from_disk(name)
        if (Path(name) / "dataset_dict.json").exists():
            return datasets.load_from_disk(name)[split]
        return datasets.load_dataset(name, split=split)
    except Exception as error:
        first = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise UserError(f'cannot load the dataset "{name}", split {split}: {first}') from error
