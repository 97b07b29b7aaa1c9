"""Where the pictures and captions of a new teacher come from: the procedural Toybox or a folder."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from scorefield.errors import UserError

IMAGE_SUFFIXES = {".png", ".jpg", ".jpeg", ".webp", ".bmp"}


class ToyboxSource:
    """``count`` rendered scenes of one seed; ``wordings`` captions a scene, so that phrasing varies."""

    def __init__(self, count: int, seed: int, resolution: int = 64, wordings: int = 4, device: str = "cpu"):
        self.count, self.seed, self.resolution, self.wordings, self.device = (
            count,
            seed,
            resolution,
            wordings,
            device,
        )

    def images(self, start: int, stop: int) -> Tensor:
        """uint8 [stop - start, 3, resolution, resolution]."""
        from scorefield.data import toybox

        return toybox.images(range(start, stop), self.seed, resolution=self.resolution, device=self.device)[0]

    def captions(self, start: int, stop: int) -> list[list[str]]:
        """For each scene a list of ``wordings`` captions that say the same in other words."""
        from scorefield.data import toybox

        indices = range(start, stop)
        scenes = toybox.sample_scenes(indices, self.seed)
        columns = [toybox.caption(scenes, indices, self.seed + 1000 * k) for k in range(self.wordings)]
        return [list(row) for row in zip(*columns, strict=True)]

    def attributes(self, start: int, stop: int) -> dict[str, Tensor]:
        """int64 [stop - start] for object, color and view (view is -1 where an object has no front)."""
        from scorefield.data import toybox

        scenes = toybox.sample_scenes(range(start, stop), self.seed)
        return {"object": scenes.object, "color": scenes.color, "view": scenes.view}


class FolderSource:
    """A folder of pictures with captions: ``name.png`` beside ``name.txt``, or one ``captions.jsonl``
    whose lines hold {"file": ..., "caption": ...}. Pictures are cropped to a square and resized.

    Raises UserError when the folder is missing, holds no captioned picture, or a caption file is broken.
    """

    def __init__(self, folder: str, resolution: int = 64):
        self.folder, self.resolution = Path(folder), resolution
        if not self.folder.is_dir():
            raise UserError(f"data folder {folder} does not exist")
        self.items = self._read_listing() if (self.folder / "captions.jsonl").exists() else self._read_pairs()
        if not self.items:
            raise UserError(f"{folder} holds no captioned picture: put name.txt beside name.png, or a captions.jsonl")
        self.count = len(self.items)

    def _read_listing(self) -> list[tuple[Path, str]]:
        listing, items = self.folder / "captions.jsonl", []
        for number, line in enumerate(_caption(listing).splitlines(), start=1):
            if not line.strip():
                continue
            try:
                record = json.loads(line)
                path, text = self.folder / record["file"], str(record["caption"])
            except (json.JSONDecodeError, KeyError, TypeError) as error:
                raise UserError(f'{listing} line {number} is not {{"file": …, "caption": …}}: {error}') from error
            if not path.exists():
                raise UserError(f"{listing} line {number} names {path.name}, which is not there")
            items.append((path, text))
        return items

    def _read_pairs(self) -> list[tuple[Path, str]]:
        pictures = sorted(p for p in self.folder.rglob("*") if p.suffix.lower() in IMAGE_SUFFIXES)
        return [(p, _caption(p.with_suffix(".txt"))) for p in pictures if p.with_suffix(".txt").exists()]

    def images(self, start: int, stop: int) -> Tensor:
        """uint8 [stop - start, 3, resolution, resolution]."""
        return torch.stack([square_picture(path, str(path), self.resolution) for path, _ in self.items[start:stop]])

    def captions(self, start: int, stop: int) -> list[list[str]]:
        """One caption a picture, as a list of one."""
        return [[text] for _, text in self.items[start:stop]]


def square_picture(file: Any, where: str, resolution: int) -> Tensor:
    """uint8 [3, R, R] of a picture (a path, an open file or Pillow's own), cropped to its middle square and resized.

    Raises UserError, naming ``where`` it lies, when it cannot be read.
    """
    import numpy as np
    from PIL import Image, ImageOps

    try:
        if isinstance(file, Image.Image):
            picture = file.convert("RGB")
        else:
            with Image.open(file) as opened:
                picture = opened.convert("RGB")
    except (OSError, ValueError, SyntaxError, AttributeError, Image.DecompressionBombError) as error:
        raise UserError(f"cannot read the picture {where}: {error}") from error
    square = ImageOps.fit(picture, (resolution, resolution), Image.Resampling.LANCZOS)
    return torch.from_numpy(np.asarray(square).copy()).permute(2, 0, 1)


def _caption(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8").strip()
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"cannot read the captions in {path}: {error}") from error


Source = ToyboxSource | FolderSource


def load_images(source: Source, count: int, device: str, chunk: int = 4096) -> Tensor:
    """All pictures of ``source`` up to ``count`` as one uint8 tensor [N, 3, H, W] on ``device``."""
    count = min(count, source.count)
    parts = [source.images(k, min(k + chunk, count)).to(device) for k in range(0, count, chunk)]
    return torch.cat(parts)


class TokenTable:
    """Captions tokenised once each: unique texts, and which of them belong to which picture.

    ``ids`` int64 [U, L] and ``mask`` int64 [U, L] of the unique texts; ``rows`` int64 [N, W] gives the
    W wordings of picture n. Row 0 of the unique texts is the empty prompt.
    """

    def __init__(self, tokenizer, captions: Sequence[Sequence[str]], max_tokens: int, device: str):
        unique: dict[str, int] = {"": 0}
        rows = [[unique.setdefault(text, len(unique)) for text in texts] for texts in captions]
        batch = tokenizer(
            list(unique), padding="max_length", max_length=max_tokens, truncation=True, return_tensors="pt"
        )
        self.ids, self.mask = batch.input_ids.to(device), batch.attention_mask.to(device)
        self.rows = torch.tensor(rows, device=device)

    def draw(self, pictures: Tensor, generator: torch.Generator, dropout: float) -> tuple[Tensor, Tensor]:
        """Token ids and mask [B, L] of one wording a picture; a share ``dropout`` gets the empty prompt."""
        shape, device = (len(pictures),), pictures.device
        wording = torch.randint(self.rows.shape[1], shape, generator=generator, device=device)
        keep = torch.rand(shape, generator=generator, device=device) >= dropout
        chosen = self.rows[pictures, wording] * keep
        return self.ids[chosen], self.mask[chosen]
