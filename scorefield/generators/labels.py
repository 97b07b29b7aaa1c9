"""Class labels for generators and teachers, drawn from a law of class frequencies."""

from collections.abc import Sequence
from typing import Any

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
            try:
                table = torch.as_tensor(weights, dtype=torch.float64, device="cpu")
            except (TypeError, ValueError, RuntimeError) as error:
                raise UserError(f"label weights must be {classes} numbers, not {weights}") from error
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


def label_law(classes: int, given: Any = None) -> LabelLaw | None:
    """The law of a network with so many classes; None without classes.

    Args:
        given: relative frequencies; or an .npz, a folder with a sub-folder a class or "toybox", whose pictures are
            counted; None or an empty list for equal ones.

    Raises:
        UserError: frequencies of an unconditional network, or of another number of classes.
    """
    told = given is not None and given != []
    if not classes:
        if told:
            raise UserError("labels are of a network with classes, and this one is unconditional")
        return None
    if isinstance(given, str):
        from scorefield.pretrain.labelled import frequencies

        counts = frequencies(given)
        if len(counts) != classes:
            raise UserError(f'the pictures of labels="{given}" have {len(counts)} classes, the network {classes}')
        return LabelLaw(classes, counts)
    if told and not isinstance(given, (list, tuple)):
        raise UserError(f"labels must be a list of frequencies or the path of labelled pictures, not {given!r}")
    return LabelLaw(classes, given if told else None)
