"""scorefield: carry the knowledge of a diffusion model into any differentiable picture maker.

>>> import scorefield
>>> generator = scorefield.distill(my_generator, my_denoiser, latents=(64,))  # doctest: +SKIP
"""

import importlib
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

if TYPE_CHECKING:
    from scorefield.denoiser import Denoiser
    from scorefield.generators.base import Batch, Generator
    from scorefield.teachers.analytic import GaussianMixture
    from scorefield.teachers.plain import Preconditioned
    from scorefield.training.distill import distill
    from scorefield.training.settings import PlayerConfig, TrainingConfig
    from scorefield.training.trainer import Trainer

__all__ = [
    "Batch",
    "Denoiser",
    "GaussianMixture",
    "Generator",
    "PlayerConfig",
    "Preconditioned",
    "Trainer",
    "TrainingConfig",
    "distill",
]

# name to the module that defines it: imported when it is first asked for, so that ``import scorefield`` stays light
_HOMES = {
    "Batch": "scorefield.generators.base",
    "Denoiser": "scorefield.denoiser",
    "GaussianMixture": "scorefield.teachers.analytic",
    "Generator": "scorefield.generators.base",
    "PlayerConfig": "scorefield.training.settings",
    "Preconditioned": "scorefield.teachers.plain",
    "Trainer": "scorefield.training.trainer",
    "TrainingConfig": "scorefield.training.settings",
    "distill": "scorefield.training.distill",
}


_MODULES = ("losses", "noise", "noise_laws")  # likewise


def __getattr__(name: str) -> Any:
    if name in _MODULES:
        return importlib.import_module(f"scorefield.{name}")
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *_HOMES, *_MODULES})
