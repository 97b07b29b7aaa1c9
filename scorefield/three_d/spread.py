"""How different assets of one prompt look: LPIPS between them, seen from the same sides."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import combinations

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


@torch.no_grad()
def mean_distance(seen: Sequence[Tensor], metric: Callable[[Tensor, Tensor], Tensor]) -> float | None:
    """Mean over all pairs and views; None for fewer than two assets.

    Args:
        seen: of each asset the same views, [V, 3, H, W] in [-1, 1]. metric: distances [V] of two such.
    """
    pairs = [metric(one, other).mean() for one, other in combinations(seen, 2)]
    return torch.stack(pairs).mean().item() if pairs else None
