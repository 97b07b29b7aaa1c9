"""Toybox: a procedural world of shaded little objects whose truth is known.

A picture shows one object in one colour from one view on one background; attributes, camera, depth, mask and
signed distance are all at hand. Scene k of a seed is the same on every machine and in every batch.
"""

from scorefield.data.toybox.render import Rendering, render, sdf
from scorefield.data.toybox.scene import (
    BACKGROUND_NAMES as BACKGROUNDS,
)
from scorefield.data.toybox.scene import (
    COLOR_NAMES as COLORS,
)
from scorefield.data.toybox.scene import (
    OBJECT_NAMES as OBJECTS,
)
from scorefield.data.toybox.scene import (
    TEST_SEED,
    TRAIN_SEED,
    Scenes,
    camera_to_world,
    sample_scenes,
)
from scorefield.data.toybox.scene import (
    VIEW_NAMES as VIEWS,
)
from scorefield.data.toybox.wording import Attributes, caption, parse, prompt_stream, prompts


def images(indices, seed: int, resolution: int = 64, device="cpu", **fixed):
    """(uint8 [B, 3, R, R], Scenes) of scenes by number; ``fixed`` as in ``sample_scenes``."""
    scenes = sample_scenes(indices, seed, **fixed)
    pictures = render(scenes, resolution, device=device).image
    return ((pictures + 1) * 127.5).round().clamp(0, 255).byte(), scenes


__all__ = [
    "BACKGROUNDS",
    "COLORS",
    "OBJECTS",
    "TEST_SEED",
    "TRAIN_SEED",
    "VIEWS",
    "Attributes",
    "Rendering",
    "Scenes",
    "camera_to_world",
    "caption",
    "images",
    "parse",
    "prompt_stream",
    "prompts",
    "render",
    "sample_scenes",
    "sdf",
]
