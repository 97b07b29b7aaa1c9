"""Pictures on disk: tensors in [-1, 1] to PNG and back, and grids of tiles, plain or labelled.

A plain grid has no margin, so that ``cut_grid`` returns its tiles bit for bit.
"""

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from scorefield.errors import UserError
from scorefield.files import write_atomically

if TYPE_CHECKING:
    from PIL import Image

LABEL_SIZE, LABEL_GAP = 11, 4  # pixels: height of the letters, room around each line


def to_uint8(images: Tensor) -> Tensor:
    """Pictures in [-1, 1] to uint8, round((x + 1) * 127.5) with halves to even, clamped to 0 ... 255.

    The inverse of ``to_float`` for every one of the 256 values. Many public repositories truncate
    x * 127.5 + 128 instead, which gives the same value for these 256 and differs by at most 1 in between.

    Args:
        images: floating point, any shape; NaN becomes 0 (black).
    """
    if not images.is_floating_point():
        raise UserError(f"pictures must be floating point in [-1, 1], got {images.dtype}")
    return ((images.detach().float() + 1) * 127.5).nan_to_num(0.0).round().clamp(0, 255).to(torch.uint8)


def to_float(images: Tensor) -> Tensor:
    """uint8 pictures to float32 in [-1, 1], x / 127.5 - 1."""
    if images.dtype != torch.uint8:
        raise UserError(f"pictures must be uint8, got {images.dtype}")
    return images.float() / 127.5 - 1


def _to_pil(image: Tensor) -> "Image.Image":
    from PIL import Image

    return Image.fromarray(to_uint8(image).permute(1, 2, 0).contiguous().cpu().numpy())


def _check(images: Tensor, rank: int) -> None:
    if images.ndim != rank or images.shape[-3] != 3 or 0 in images.shape:
        form = "[N, 3, height, width] with N >= 1" if rank == 4 else "[3, height, width]"
        raise UserError(f"pictures must be {form}, got {list(images.shape)}")


def save_image(image: Tensor, path: Path) -> None:
    """Write one picture [3, H, W] in [-1, 1] as PNG, whole or not at all."""
    _check(image, 3)
    picture = _to_pil(image)
    write_atomically(Path(path), lambda part: picture.save(part, format="PNG"))


def load_image(path: Path) -> Tensor:
    """Read a picture as float32 [3, H, W] in [-1, 1]; transparency falls on white.

    Raises:
        UserError: the file is missing, cut off, or not a picture.
    """
    import numpy as np
    from PIL import Image

    try:
        with Image.open(path) as file:
            picture = file.convert("RGBA")
        white = Image.new("RGBA", picture.size, "white")
        pixels = np.array(Image.alpha_composite(white, picture).convert("RGB"))
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        raise UserError(f"cannot read the picture {path}: {error}") from error
    return to_float(torch.from_numpy(pixels).permute(2, 0, 1).contiguous())


def save_grid(images: Tensor, path: Path, columns: int, labels: list[str] | None = None) -> None:
    """Write pictures [N, 3, H, W] in [-1, 1] row by row as one PNG, whole or not at all.

    Args:
        images: one tile each. columns: tiles per row; a last row that is not full is filled with white.
        labels: N texts drawn under the tiles, wrapped to the tile's width and cut after three lines;
            without them the tiles touch, which ``cut_grid`` relies on.
    """
    from PIL import Image

    _check(images, 4)
    if columns < 1:
        raise UserError(f"a grid needs at least 1 column, got {columns}")
    if labels is not None and len(labels) != len(images):
        raise UserError(f"{len(images)} tiles need as many labels, got {len(labels)}")
    height, width = images.shape[-2:]
    wrapped = [_wrap(text, width) for text in labels] if labels is not None else []
    lines = max((len(text) for text in wrapped), default=0)
    cell = height + (lines * (LABEL_SIZE + LABEL_GAP) + LABEL_GAP if lines else 0)
    rows = -(-len(images) // columns)
    sheet = Image.new("RGB", (columns * width, rows * cell), "white")
    for index, image in enumerate(images):
        left, top = index % columns * width, index // columns * cell
        sheet.paste(_to_pil(image), (left, top))
        if lines:
            _write_label(sheet, wrapped[index], left, top + height, width)
    write_atomically(Path(path), lambda part: sheet.save(part, format="PNG"))


def _wrap(text: str, width: int) -> list[str]:
    """``text`` in at most three lines that fit ``width`` pixels; what does not fit ends in three dots."""
    from PIL import ImageFont

    font = ImageFont.load_default(LABEL_SIZE)
    fits = lambda line: font.getlength(line) <= width - 2  # noqa: E731
    lines, current = [], ""
    for word in text.split():
        candidate = f"{current} {word}".strip()
        if fits(candidate) or not current:
            current = candidate
        else:
            lines.append(current)
            current = word
    lines.append(current)
    if len(lines) > 3:
        lines = [*lines[:2], lines[2] + "..."]
    return [line if fits(line) else _cut(line, fits) for line in lines]


def _cut(line: str, fits: Callable[[str], bool]) -> str:
    line = line.removesuffix("...")
    while line and not fits(line + "..."):
        line = line[:-1]
    return line + "..."


def _write_label(sheet: "Image.Image", lines: list[str], left: int, top: int, width: int) -> None:
    from PIL import ImageDraw, ImageFont

    draw, font = ImageDraw.Draw(sheet), ImageFont.load_default(LABEL_SIZE)
    for number, line in enumerate(lines):
        y = top + LABEL_GAP // 2 + number * (LABEL_SIZE + LABEL_GAP)
        draw.text((left + (width - font.getlength(line)) / 2, y), line, fill=(40, 40, 40), font=font)


def cut_grid(path: Path, tile: int | tuple[int, int], columns: int, count: int) -> Tensor:
    """The first ``count`` tiles of an unlabelled grid, float32 [count, 3, H, W] in [-1, 1].

    Args:
        tile: side in pixels, or (height, width). columns: tiles per row, as given to ``save_grid``.

    Raises:
        UserError: the picture cannot be read or is not made of that many tiles.
    """
    height, width = (tile, tile) if isinstance(tile, int) else tile
    if min(height, width, columns, count) < 1:
        raise UserError(f"tile {tile}, columns {columns} and count {count} must all be at least 1")
    sheet = load_image(path)
    rows = sheet.shape[1] // height
    if sheet.shape[2] != columns * width or sheet.shape[1] % height or rows * columns < count:
        raise UserError(
            f"{path} is {sheet.shape[2]}×{sheet.shape[1]} pixels; {columns} columns of {width}×{height} "
            f"with {count} tiles were expected"
        )
    tiles = sheet.unfold(1, height, height).unfold(2, width, width)  # [3, rows, columns, H, W]
    return tiles.permute(1, 2, 0, 3, 4).reshape(-1, 3, height, width)[:count].contiguous()
