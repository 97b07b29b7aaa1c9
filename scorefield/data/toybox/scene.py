"""Scenes of Toybox: attributes, camera and light of scene k depend on (seed, k) alone."""

from collections.abc import Sequence
from dataclasses import dataclass, fields

import torch
from torch import Tensor

from scorefield.data.toybox.models import BACKGROUNDS, COLORS, FRONTLESS, MODELS
from scorefield.errors import UserError, suggest
from scorefield.random import Draws

OBJECT_NAMES = tuple(MODELS)
COLOR_NAMES = tuple(COLORS)
VIEW_NAMES = ("front", "side", "back")
BACKGROUND_NAMES = tuple(BACKGROUNDS)
TRAIN_SEED, TEST_SEED = 0, 1  # pictures and prompts that are measured on never come from the training seed
VIEW_HALF_WIDTH = 22.0  # degrees of azimuth either side of front, side and back; between them lie gaps of 46
_STREAM = -7  # the "iteration" of the keyed draws, apart from those that a trainer uses


@dataclass
class Scenes:
    """A batch of scenes, one tensor [B] or [B, n] per property.

    ``view`` is -1 for an object without a front. Angles in degrees; azimuth 0 looks at the front, 90 at the
    object's right (+x) side. Lengths are in units of the object's bounding radius at size 1.
    """

    object: Tensor
    color: Tensor
    view: Tensor
    background: Tensor
    azimuth_deg: Tensor
    elevation_deg: Tensor
    distance: Tensor
    fov_deg: Tensor
    size: Tensor
    look_at: Tensor
    light: Tensor
    light_strength: Tensor
    tint: Tensor

    def __len__(self) -> int:
        return len(self.object)

    def __getitem__(self, rows) -> "Scenes":
        return Scenes(**{f.name: getattr(self, f.name)[rows] for f in fields(self)})

    def to(self, device) -> "Scenes":
        """The same scenes on another device."""
        return Scenes(**{f.name: getattr(self, f.name).to(device) for f in fields(self)})


def as_indices(indices: Tensor | range | Sequence[int]) -> Tensor:
    """int64 [B] of scene numbers."""
    if isinstance(indices, range):
        return torch.arange(indices.start, indices.stop, indices.step)
    return torch.as_tensor(indices, dtype=torch.int64).reshape(-1)


def _fixed(value: str | int | Tensor | None, names: Sequence[str], kind: str, drawn: Tensor) -> Tensor:
    if value is None:
        return drawn
    if isinstance(value, Tensor):
        if (wrong := value[(value < -1) | (value >= len(names))]).numel():
            raise UserError(f"toybox has {len(names)} values of {kind}, 0 to {len(names) - 1}, not {int(wrong[0])}")
        return torch.where(torch.ge(value, 0), value, drawn)
    if isinstance(value, str):
        if value not in names:
            raise UserError(f'toybox has no {kind} "{value}": {suggest(value, names)}')
        value = list(names).index(value)
    if not 0 <= value < len(names):
        raise UserError(f"toybox has {len(names)} values of {kind}, 0 to {len(names) - 1}, not {value}")
    return torch.full_like(drawn, value)


def sample_scenes(
    indices: Tensor | range | Sequence[int],
    seed: int,
    *,
    object: str | int | Tensor | None = None,
    color: str | int | Tensor | None = None,
    view: str | int | Tensor | None = None,
    background: str | int | Tensor | None = None,
) -> Scenes:
    """Scenes by number; a given attribute (name or position) is the same in all of them.

    A tensor int64 [B] fixes an attribute scene by scene, -1 leaves it to chance.

    Raises UserError for an unknown name or position.
    """
    draws = Draws(seed, _STREAM, as_indices(indices))
    what = _fixed(object, OBJECT_NAMES, "object", draws.integers("object", len(OBJECT_NAMES)))
    fronts = torch.tensor([name not in FRONTLESS for name in OBJECT_NAMES])
    seen = _fixed(view, VIEW_NAMES, "view", draws.integers("view", len(VIEW_NAMES)))

    def between(name: str, low: float, high: float, *shape: int) -> Tensor:
        return low + (high - low) * draws.uniform(name, *shape)

    side = 180.0 * draws.integers("left-or-right", 2).float() - 90
    centre = torch.where(seen == 0, 0.0, torch.where(seen == 2, 180.0, side))
    azimuth = centre + between("azimuth", -VIEW_HALF_WIDTH, VIEW_HALF_WIDTH)
    azimuth = torch.where(fronts[what], azimuth, between("any-azimuth", -180, 180))

    turn = (azimuth + between("light-azimuth", -60, 60)).deg2rad()
    rise = between("light-elevation", 30, 65).deg2rad()
    light = torch.stack([turn.sin() * rise.cos(), rise.sin(), turn.cos() * rise.cos()], -1)
    return Scenes(
        object=what,
        color=_fixed(color, COLOR_NAMES, "color", draws.integers("color", len(COLOR_NAMES))),
        view=torch.where(fronts[what], seen, -1),
        background=_fixed(background, BACKGROUND_NAMES, "background", draws.integers("ground", len(BACKGROUND_NAMES))),
        azimuth_deg=azimuth,
        elevation_deg=between("elevation", 8, 30),
        distance=between("distance", 3.50, 3.86),
        fov_deg=torch.full_like(azimuth, 33.5),
        size=between("size", 0.84, 0.98),
        look_at=between("look-at", -0.07, 0.07, 3),
        light=light,
        light_strength=between("strength", 0.75, 1.05),
        tint=between("tint", -0.03, 0.03, 3),
    )


def camera_to_world(scenes: Scenes) -> Tensor:
    """float32 [B, 4, 4] in the OpenGL convention: x right, y up, the camera looks along -z."""
    azimuth, elevation = scenes.azimuth_deg.deg2rad(), scenes.elevation_deg.deg2rad()
    back = torch.stack([azimuth.sin() * elevation.cos(), elevation.sin(), azimuth.cos() * elevation.cos()], -1)
    right = torch.stack([azimuth.cos(), torch.zeros_like(azimuth), -azimuth.sin()], -1)
    up = torch.linalg.cross(back, right)
    place = scenes.look_at + scenes.distance[:, None] * back
    top = torch.stack([right, up, back, place], -1)
    last = torch.tensor([0.0, 0.0, 0.0, 1.0], device=top.device).expand(len(top), 1, 4)
    return torch.cat([top, last], 1)
