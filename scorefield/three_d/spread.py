"""How different assets of one prompt look: LPIPS between them, seen from the same sides."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path

import torch
from torch import Tensor

from scorefield.errors import UserError, suggest

NETS = ("alex", "vgg", "squeeze")
OFF = (
    "LPIPS between the assets is not measured: give evaluation.lpips.trunk, a file with torchvision's weights of "
    "evaluation.lpips.net"
)


@dataclass
class LpipsConfig:
    """LPIPS (Zhang et al. 2018) between the particles' assets."""

    trunk: str = ""  # torchvision's weights of ``net``, a local file; "random" for tests; "": not measured
    net: str = "alex"  # or vgg, squeeze
    views: int = 8  # round the circle
    size: int = 128  # pixels a side

    def __post_init__(self) -> None:
        if self.net not in NETS:
            raise UserError(f'evaluation.lpips.net "{self.net}" is unknown: {suggest(self.net, NETS)}')
        if self.views < 1 or self.size < 32:
            raise UserError("evaluation.lpips.views must be at least 1, and its size at least 32 for these networks")

    def check(self) -> None:
        """Raise UserError, before a run begins, where the package or the file is not there."""
        from scorefield.generators.terms.anchor import need_lpips

        if not self.trunk:
            return
        need_lpips()
        if self.trunk != "random" and not Path(self.trunk).is_file():
            raise UserError(f'evaluation.lpips.trunk "{self.trunk}" is no file; {OFF.partition(": ")[2]}')

    def metric(self, device: str) -> Callable[[Tensor, Tensor], Tensor]:
        """Distances [B] of pictures [B, 3, H, W] in [-1, 1] on ``device``."""
        from scorefield.generators.terms.anchor import perceptual

        return perceptual(self.trunk, self.net, device)


@torch.no_grad()
def mean_distance(seen: Sequence[Tensor], metric: Callable[[Tensor, Tensor], Tensor]) -> float | None:
    """Mean over all pairs and views; None for fewer than two assets.

    Args:
        seen: of each asset the same views, [V, 3, H, W] in [-1, 1]. metric: distances [V] of two such.
    """
    pairs = [metric(one, other).mean() for one, other in combinations(seen, 2)]
    return torch.stack(pairs).mean().item() if pairs else None
