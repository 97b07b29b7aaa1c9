"""Gaussian splats as a file: the PLY layout of 3D Gaussian Splatting, which viewers and gsplat read.

Binary little endian, one vertex a Gaussian: x y z, nx ny nz (0), f_dc_0..2 ((colour - 1/2) / C0, the constant
spherical harmonic), opacity (logit), scale_0..2 (logarithms), rot_0..3 (w x y z). y up, the front along +z, as in the
other files.
"""

import re
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from scorefield.errors import UserError
from scorefield.files import write_atomically
from scorefield.three_d import turntable
from scorefield.three_d.asset import GREY, AssetConfig
from scorefield.three_d.cameras import Cameras, from_y_up, to_y_up
from scorefield.three_d.splatting import Gaussians, splat

C0 = 0.28209479177387814  # 1 / (2 sqrt(pi))
COLUMNS = [*"xyz", "nx", "ny", "nz", *(f"f_dc_{k}" for k in range(3)), "opacity"]
COLUMNS += [*(f"scale_{k}" for k in range(3)), *(f"rot_{k}" for k in range(4))]
QUARTER = (0.5**0.5, -(0.5**0.5), 0.0, 0.0)  # the turn about x that takes z up to y up


def multiplied(a: Tensor, b: Tensor) -> Tensor:
    """Product of quaternions [..., 4] (w, x, y, z): the turn ``b``, then ``a``."""
    aw, ax, ay, az = a.unbind(-1)
    bw, bx, by, bz = b.unbind(-1)
    parts = [
        aw * bw - ax * bx - ay * by - az * bz,
        aw * bx + ax * bw + ay * bz - az * by,
        aw * by - ax * bz + ay * bw + az * bx,
        aw * bz + ax * by - ay * bx + az * bw,
    ]
    return torch.stack(parts, -1)


@torch.no_grad()
def write_splats(gaussians: Gaussians, path: Path) -> Path:
    """Write Gaussians of the world (z up), whole or not at all. Raises UserError for values that are not finite."""
    g = Gaussians(*(getattr(gaussians, name).detach().float().cpu() for name in vars(gaussians)))
    turned = multiplied(torch.tensor(QUARTER), F.normalize(g.quaternions, dim=-1))
    parts = [
        to_y_up(g.means),
        torch.zeros_like(g.means),
        (g.colours - 0.5) / C0,
        torch.logit(g.opacities, eps=1e-6)[:, None],
        g.scales.log(),
        turned,
    ]
    rows = torch.cat(parts, 1).numpy().astype("<f4")
    if not np.isfinite(rows).all():
        raise UserError(f"{int((~np.isfinite(rows)).any(1).sum())} of {len(rows)} Gaussians are NaN or infinite")
    head = ["ply", "format binary_little_endian 1.0", f"element vertex {len(rows)}"]
    head += [f"property float {name}" for name in COLUMNS] + ["end_header", ""]
    data = "\n".join(head).encode("ascii") + rows.tobytes()
    write_atomically(path, lambda part: part.write_bytes(data))
    return path


def read_splats(path: Path) -> Gaussians:
    """Gaussians of a file in that layout, back in the world with z up; higher harmonics are left out.

    Raises UserError when the file is missing, cut off, or of another layout.
    """
    try:
        data = path.read_bytes()
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror}") from error
    head, mark, body = data.partition(b"end_header\n")
    names = re.findall(rb"property float (\w+)", head)
    count = re.search(rb"element vertex (\d+)", head)
    columns = [name.decode() for name in names]
    if not mark or count is None or b"binary_little_endian" not in head or not set(COLUMNS) <= set(columns):
        raise UserError(f"{path} is no binary PLY of Gaussian splats")
    if len(body) != 4 * int(count[1]) * len(columns):
        raise UserError(
            f"{path} is cut off: {count[1].decode()} Gaussians take {4 * int(count[1]) * len(columns)} bytes"
        )
    table = torch.from_numpy(np.frombuffer(body, "<f4").reshape(-1, len(columns)).astype(np.float32))
    take = lambda *wanted: table[:, [columns.index(name) for name in wanted]]  # noqa: E731
    back = torch.tensor(QUARTER) * torch.tensor([1.0, -1.0, -1.0, -1.0])
    return Gaussians(
        from_y_up(take(*"xyz")),
        take("scale_0", "scale_1", "scale_2").exp(),
        multiplied(back, take("rot_0", "rot_1", "rot_2", "rot_3")),
        take("opacity")[:, 0].sigmoid(),
        take("f_dc_0", "f_dc_1", "f_dc_2") * C0 + 0.5,
    )


@torch.no_grad()
def make(gaussians: Gaussians, folder: Path, stem: str, config: AssetConfig, cameras: Cameras) -> dict[str, Any]:
    """Write STEM.ply, .mp4 and .gif into ``folder``; the record of ``asset.make`` without the facts of a mesh."""
    started = time.perf_counter()
    ply = write_splats(gaussians, folder / f"{stem}.ply")
    side = turntable.fitting(config.side)
    around = cameras.sized(side, side).to(gaussians.means.device)
    ground = torch.tensor([GREY], device=gaussians.means.device)
    frames = [splat(gaussians, around[k : k + 1], ground).image.clamp(0, 1).cpu() for k in range(len(around))]
    films = turntable.write_turntable(torch.cat(frames), folder, stem)
    facts = {"gaussians": len(gaussians.means), "watertight": None, "components": None}
    return facts | {"files": {"ply": ply} | films, "seconds": round(time.perf_counter() - started, 2)}
