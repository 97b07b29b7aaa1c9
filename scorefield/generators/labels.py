"""Class labels for generators and teachers, drawn from a law of class frequencies."""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from scorefield.denoiser import Condition
from scorefield.errors import UserError
from scorefield.random import Draws


class LabelLaw:
    """Draws one-hot labels; as a condition source it tells teacher and online score the same.

    Args:
        classes: how many. weights: relative frequencies, equal by default.

    Raises:
        UserError: no class, or weights that are no frequencies of that many classes.
    """

    def __init__(self, classes: int, weights: Sequence[float] | None = None):
        if classes < 1:
            raise UserError(f"a label law needs at least one class, not {classes}")
        table = torch.ones(classes, dtype=torch.float64, device="cpu")
        if weights is not None:
            table = torch.as_tensor(weights, dtype=torch.float64, device="cpu")
        if table.shape != (classes,) or not bool((table >= 0).all()) or not 0 < float(table.sum()) < float("inf"):
            raise UserError(f"label weights must be {classes} numbers from 0 on that are not all 0")
        self.classes = classes
        self._inner = (table.cumsum(0) / table.sum())[:-1].float()  # boundaries between classes

    def draw(self, draws: Draws) -> Tensor:
        """float32 [B, classes], one-hot, on the device of ``draws``."""
        self._inner = self._inner.to(draws.device)
        places = torch.bucketize(draws.uniform("label"), self._inner, right=True)
        return F.one_hot(places, self.classes).float()

    def __call__(self, draws: Draws) -> tuple[Condition, Condition]:
        labels = {"label": self.draw(draws)}
        return labels, labels
