"""One field becomes one asset: mesh, texture, files and turntable."""

import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

from torch import Tensor

from scorefield.errors import UserError
from scorefield.three_d import bake, export, mesh, three_js, turntable, unwrap, view
from scorefield.three_d.cameras import Cameras
from scorefield.three_d.decimation import closed, decimate
from scorefield.three_d.extra import need
from scorefield.three_d.field import Field

GREY = (0.52, 0.52, 0.53)


@runtime_checkable
class HoldsMesh(Protocol):
    """Something that has its mesh at hand."""

    def mesh(self) -> mesh.Mesh: ...


@runtime_checkable
class HoldsDistance(Protocol):
    """A field that knows its signed distance [N], negative inside."""

    def distance(self, points: Tensor) -> Tensor: ...


@dataclass
class AssetConfig:
    """How a density field is turned into a textured mesh."""

    resolution: int = 96  # points a side of the grid that marching cubes sees
    threshold: float = 0.0  # density at the surface; 0 chooses the one with the field's own silhouettes
    faces: int = 8000  # triangles after decimation, before unwrapping
    texture: int = 512  # texels a side
    frames: int = 36  # of the turntable
    side: int = 256  # pixels of the turntable, made a multiple of 16

    def __post_init__(self) -> None:
        if not 8 <= self.resolution <= 1024:
            raise UserError(f"assets.resolution must lie between 8 and 1024, not {self.resolution}")
        if not 100 <= self.faces <= unwrap.LIMIT:
            raise UserError(f"assets.faces must lie between 100 and {unwrap.LIMIT}, not {self.faces}")
        if not 32 <= self.texture <= 8192:
            raise UserError(f"assets.texture must lie between 32 and 8192 texels, not {self.texture}")
        if self.frames < 2 or self.side < 16:
            raise UserError("assets.frames must be 2 at least and assets.side 16 at least")
        if self.threshold < 0:
            raise UserError(f"assets.threshold must be 0 (chosen) or a density, not {self.threshold}")


MODULES = ("skimage.measure", "scipy.ndimage", "fast_simplification", "xatlas", "trimesh", "imageio_ffmpeg")


def check_libraries() -> None:
    """Raise UserError now, before any training, if something that the export needs is not installed."""
    for module in MODULES:
        need(module)
    three_js.library()


def extract(
    field: Field, resolution: int = 96, threshold: float | None = None, faces: int = 8000
) -> tuple[mesh.Mesh, dict[str, Any]]:
    """Mesh of a field, reduced to ``faces``, and its facts with the threshold that was used.

    Args:
        resolution: lattice points a side, 8 or more. threshold: a density; None chooses it.

    Raises:
        UserError: an empty or non-finite field, a threshold that nothing crosses, an absurd resolution.
    """
    if not 8 <= resolution <= 1024:
        raise UserError(f"the mesh resolution must lie between 8 and 1024, not {resolution}")
    if faces < 100:
        raise UserError(f"a mesh needs 100 faces at least, not {faces}")
    fine, level = surface(field, resolution, threshold)
    made = decimate(fine, faces)
    return made, mesh.facts(made) | {"threshold": level}


def surface(field: Field, resolution: int, threshold: float | None = None) -> tuple[mesh.Mesh, float]:
    """(surface of a field as it comes from marching cubes, closed and without crumbs, the threshold in use).

    A field with a signed distance has its surface where that is 0. Raises as ``extract``.
    """
    density = mesh.density_grid(field, resolution)
    level = mesh.choose_threshold(density, field.bound)  # says so when the field is empty, whatever the threshold is
    if isinstance(field, HoldsDistance):
        points = mesh.grid_points(field.bound, resolution).reshape(-1, 3)
        depth = -mesh.ask(field.distance, points, mesh.device_of(field)).reshape(density.shape)
        level, found = 0.0, mesh.level_set(depth, field.bound, 0.0, outside=-field.bound)
    else:
        level = level if threshold is None else threshold
        found = mesh.march(density, field.bound, level)
    return mesh.keep_large(closed(found)), level


def textured(field: Field | HoldsMesh, config: AssetConfig) -> tuple[mesh.Mesh, dict[str, Any]]:
    """A textured mesh of ``field`` and its facts (watertight, components, faces, vertices, threshold).

    A field that holds a mesh already (``mesh()``, with its texture) gives that one, as it is.

    Raises UserError when the field is empty or not finite.
    """
    if isinstance(field, HoldsMesh):
        own = field.mesh()
        return own, mesh.facts(mesh.welded(own))
    made, facts = extract(field, config.resolution, config.threshold or None, config.faces)
    # decimation adds some faces to those asked for: the most that may be asked for must not fail here
    made = unwrap.unwrap(made, config.texture, limit=unwrap.LIMIT * 11 // 10)
    return bake.bake(made, field, config.texture, reach=2 * field.bound / config.resolution), facts


def make(field: Field | HoldsMesh, folder: Path, stem: str, config: AssetConfig, cameras: Cameras) -> dict[str, Any]:
    """Write STEM.glb, .obj (with .mtl and .png), .ply, .mp4 and .gif into ``folder``.

    Args:
        cameras: of the turntable, in order.

    Returns:
        The facts of the mesh, "files" {kind: path} and "seconds".

    Raises:
        UserError: the field is empty or not finite; then nothing is written.
    """
    started = time.perf_counter()
    made, facts = textured(field, config)
    side = turntable.fitting(config.side)
    frames = view.over(*view.render_mesh(made, cameras.sized(side, side).to("cpu")), GREY)
    files = export.write_all(made, folder, stem) | turntable.write_turntable(frames, folder, stem)
    return facts | {"files": files, "seconds": round(time.perf_counter() - started, 2)}
