"""Turntables: an asset seen all round, as MP4 and GIF."""

import math
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from scorefield.errors import UserError
from scorefield.files import write_atomically
from scorefield.images import to_uint8
from scorefield.three_d.cameras import Cameras, orbit
from scorefield.three_d.extra import need

BLOCK = 16  # pixels: H.264 wants sides that are a multiple of it


def cameras_round(count: int, elevation: float, distance: float, fovy: float, side: int) -> Cameras:
    """``count`` cameras at equal steps of azimuth from the front; elevation and fovy in degrees."""
    if count < 1:
        raise UserError(f"a turntable needs 1 view at least, not {count}")
    azimuth = torch.arange(count) * (2 * math.pi / count)
    return orbit(math.radians(elevation), azimuth, distance, math.radians(fovy), (side, side))


def fitting(size: int) -> int:
    """The multiple of 16 that is nearest to ``size`` from above."""
    return -(-size // BLOCK) * BLOCK


def padded(frames: Tensor) -> np.ndarray:
    """uint8 [N, H, W, 3] with sides that are multiples of 16; the border repeats the outermost pixels."""
    height, width = frames.shape[-2:]
    bytes_ = to_uint8(frames * 2 - 1).permute(0, 2, 3, 1).cpu().numpy()
    down, right = fitting(height) - height, fitting(width) - width
    return np.pad(bytes_, ((0, 0), (down // 2, down - down // 2), (right // 2, right - right // 2), (0, 0)), "edge")


def write_turntable(frames: Tensor, folder: Path, stem: str, seconds: float = 4.0) -> dict[str, Path]:
    """Write STEM.mp4 and STEM.gif, whole or not at all.

    Args:
        frames: [N, 3, H, W] in [0, 1], N >= 2. seconds: length of one turn.

    Raises:
        UserError: too few frames, or imageio with ffmpeg is not installed.
    """
    if frames.ndim != 4 or len(frames) < 2 or frames.shape[1] != 3:
        raise UserError(f"a turntable is made of pictures [N, 3, H, W], N >= 2, not {list(frames.shape)}")
    need("imageio_ffmpeg")
    imageio = need("imageio.v2")
    pictures, rate = padded(frames), len(frames) / seconds
    paths = {kind: folder / f"{stem}.{kind}" for kind in ("mp4", "gif")}

    def video(part: Path) -> None:
        with imageio.get_writer(
            part, format="FFMPEG", fps=rate, codec="libx264", quality=8, macro_block_size=BLOCK, pixelformat="yuv420p"
        ) as writer:
            for picture in pictures:
                writer.append_data(picture)

    def moving(part: Path) -> None:
        imageio.mimwrite(part, list(pictures), format="GIF", duration=1000 / rate, loop=0)

    write_named(paths["mp4"], video)
    write_named(paths["gif"], moving)
    return paths


def write_named(path: Path, write) -> None:
    """``write_atomically`` for writers that read the format off the file's ending."""

    def write_and_move(part: Path) -> None:
        own = part.with_name(part.name + path.suffix)
        try:
            write(own)
            own.replace(part)
        finally:
            own.unlink(missing_ok=True)

    write_atomically(path, write_and_move)
