"""The online score: a trained copy of the teacher, or LoRA adapters on the teacher's own weights."""

import copy

from scorefield.denoiser import Denoiser
from scorefield.teachers.shared import Adapter, share


def full_copy(teacher: Denoiser) -> Denoiser:
    """An independent trainable copy that starts as the teacher."""
    return copy.deepcopy(teacher).requires_grad_(True)


def with_lora(teacher: Denoiser, rank: int, targets: tuple[str, ...]) -> tuple[Denoiser, Denoiser]:
    """(online, teacher) on one set of base weights, as ``scorefield.teachers.shared`` tells; see ``share``."""
    frozen, views = share(teacher, {"online": Adapter(rank, targets)})
    return views["online"], frozen
