"""Networks of published checkpoints in plain PyTorch: StyleGAN2, EDM's U-Nets and preconditioners, EDM2.

``build`` makes one from the class name and keyword arguments that its checkpoint records; ``load_state`` fills it
strictly; ``save`` and ``load`` keep it as safetensors and JSON.
"""

from scorefield.networks.official import OFFICIAL, official
from scorefield.networks.registry import ADA, DIALECTS, NETWORKS, STYLEGAN3, build, dialect_of
from scorefield.networks.store import apply_recorded, load, load_state, save, state_of

__all__ = [
    "ADA",
    "DIALECTS",
    "NETWORKS",
    "OFFICIAL",
    "STYLEGAN3",
    "apply_recorded",
    "build",
    "dialect_of",
    "load",
    "load_state",
    "official",
    "save",
    "state_of",
]
