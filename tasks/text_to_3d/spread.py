"""The figure of how different a run's particles look to a network that nobody trained for the prompt."""

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from torch import Tensor

from scorefield.errors import UserError
from scorefield.generators.terms.anchor import need_lpips, perceptual
from scorefield.processes import announce
from scorefield.three_d.asset import GREY
from scorefield.three_d.cameras import Cameras
from scorefield.three_d.export import read_glb
from scorefield.three_d.spread import OFF, LpipsConfig, mean_distance
from scorefield.three_d.view import over, render_mesh

if TYPE_CHECKING:
    from .task import TextTo3D


def check(settings: LpipsConfig) -> None:
    """Raise UserError, before a run begins, where the package or the file is not there."""
    if not settings.trunk:
        return
    need_lpips()
    if settings.trunk != "random" and not Path(settings.trunk).is_file():
        raise UserError(f'evaluation.lpips.trunk "{settings.trunk}" is no file; {OFF.partition(": ")[2]}')


def metric(settings: LpipsConfig, device: str) -> Callable[[Tensor, Tensor], Tensor]:
    """LPIPS [B] of pictures [B, 3, H, W] in [-1, 1] on ``device``."""
    return perceptual(settings.trunk, settings.net, device)


def add(
    task: "TextTo3D", records: list[dict[str, Any]], cameras: Cameras, splats: Callable[[int, Cameras], Tensor]
) -> None:
    """Put "lpips_diversity" into the records: the same figure into each, None where there are no two assets.

    Args:
        cameras: round the asset. splats: pictures [V, 3, H, W] in [0, 1] of a particle that has no mesh.
    """
    settings, spread = task.config.evaluation.lpips, None
    made = [record for record in records if record.get("glb") or record.get("ply")]
    if len(made) > 1 and not settings.trunk:
        announce(OFF)
    elif len(made) > 1:
        seen = []
        for record in made:
            if record.get("glb"):
                pictures = over(*render_mesh(read_glb(Path(record["glb"])), cameras), GREY)
            else:
                pictures = splats(int(record["particle"]), cameras)
            seen.append((pictures * 2 - 1).float().to(task.device))
        spread = mean_distance(seen, metric(settings, task.device))
    for record in records:
        record["lpips_diversity"] = spread
