"""The third stage: another run's exported assets are painted anew, their shape stays."""

import shutil
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from scorefield.errors import UserError
from scorefield.files import write_atomically
from scorefield.three_d.export import read_glb
from scorefield.three_d.mesh import Mesh

if TYPE_CHECKING:
    from .task import TextTo3D


def sources(task: "TextTo3D") -> list[Path]:
    """The GLB of each particle: the copy that this run keeps, else the export of ``texture_of``.

    Raises UserError when the other run has no export, or of fewer particles.
    """
    kept = [task.folder.path / "start" / f"particle-{k}.glb" for k in range(task.config.particles)]
    if all(path.is_file() for path in kept):
        return kept
    other = Path(task.config.texture_of)
    given = [other / "export" / path.name for path in kept]
    for path in given:
        if not path.is_file():
            there = len(list((other / "export").glob("particle-*.glb")))
            raise UserError(
                f"texture_of={other}: there is no {path}; the run has {there} exported assets for particles="
                f"{len(kept)} (scorefield export {other} writes them)"
            )
    return given


def meshes(task: "TextTo3D") -> list[Mesh]:
    """What is painted on; copied into RUN/start, so that the run stands on its own."""
    found = []
    for path in sources(task):
        own = task.folder.path / "start" / path.name
        if path != own:
            write_atomically(own, partial(shutil.copyfile, path))
        found.append(read_glb(own))
    return found
