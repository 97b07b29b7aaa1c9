"""The objects of Toybox: y up, front toward +z. ``main`` and ``deep`` take the colour of the caption."""

from dataclasses import dataclass
from functools import cache

import torch

from scorefield.data.toybox.shapes import Part

PAINTS: dict[str, tuple[float, float, float]] = {
    "dark": (0.10, 0.10, 0.12),
    "white": (0.96, 0.96, 0.95),
    "cream": (0.93, 0.86, 0.72),
    "glass": (0.62, 0.82, 0.92),
    "wood": (0.48, 0.31, 0.17),
    "steel": (0.62, 0.64, 0.67),
    "light": (1.00, 0.95, 0.62),
    "carrot": (0.98, 0.50, 0.08),
    "brake": (0.75, 0.05, 0.05),
}
# shares of the caption's colour: "main" as it is, "deep" darker, for a roof that must not hide the colour
SHADES: dict[str, float] = {"main": 1.0, "deep": 0.62}

COLORS: dict[str, tuple[float, float, float]] = {
    "red": (0.86, 0.10, 0.10),
    "orange": (0.98, 0.50, 0.04),
    "yellow": (0.98, 0.86, 0.08),
    "green": (0.12, 0.62, 0.18),
    "blue": (0.10, 0.28, 0.88),
    "purple": (0.47, 0.14, 0.68),
    "pink": (0.98, 0.48, 0.72),
    "cyan": (0.10, 0.78, 0.82),
}

BACKGROUNDS: dict[str, tuple[float, float, float]] = {
    "grey": (0.52, 0.52, 0.53),
    "white": (0.95, 0.95, 0.95),
    "beige": (0.86, 0.78, 0.64),
    "navy": (0.10, 0.12, 0.27),
}


def _mirror(part: Part) -> list[Part]:
    """The part and its mirror image in x."""
    x, y, z = part.at
    a, b, c = part.turn
    return [part, Part(part.kind, part.size, (-x, y, z), part.paint, (a, -b, -c))]


def _four(kind: str, size: tuple, x: float, y: float, z: float, paint: str = "main", turn=(0.0, 0.0, 0.0)):
    return [Part(kind, size, (i * x, y, k * z), paint, turn) for i in (-1, 1) for k in (-1, 1)]


def _mug() -> list[Part]:
    return [
        Part("frustum", (0.52, 0.58, 0.62), (0, 0.62, 0)),
        Part("frustum", (0.49, 0.50, 0.02), (0, 1.235, 0), "dark"),
        Part("box", (0.20, 0.07, 0.09), (0.72, 1.0, 0)),
        Part("box", (0.20, 0.07, 0.09), (0.70, 0.34, 0)),
        Part("box", (0.07, 0.38, 0.09), (0.90, 0.67, 0)),
        Part("ellipsoid", (0.27, 0.27, 0.07), (0, 0.66, 0.53), "white"),
    ]


def _chair() -> list[Part]:
    return [
        Part("box", (0.52, 0.08, 0.50), (0, 0.75, 0)),
        *_four("box", (0.07, 0.36, 0.07), 0.43, 0.36, 0.41, "wood"),
        Part("box", (0.52, 0.58, 0.07), (0, 1.36, -0.44)),
    ]


def _table() -> list[Part]:
    return [
        Part("box", (0.95, 0.09, 0.62), (0, 0.86, 0)),
        Part("box", (0.80, 0.10, 0.48), (0, 0.70, 0)),
        *_four("box", (0.08, 0.40, 0.08), 0.78, 0.40, 0.46),
    ]


def _house() -> list[Part]:
    roof = Part("box", (0.58, 0.05, 0.78), (0.42, 1.34, 0), "deep", (0, 0, -42))
    window = Part("box", (0.16, 0.17, 0.03), (0.42, 0.62, 0.70), "glass")
    return [
        Part("box", (0.78, 0.60, 0.70), (0, 0.60, 0)),
        Part("box", (0.50, 0.50, 0.69), (0, 1.08, 0), "main", (0, 0, 45)),
        *_mirror(roof),
        Part("box", (0.19, 0.36, 0.03), (0, 0.36, 0.71), "dark"),
        Part("ellipsoid", (0.045, 0.045, 0.045), (0.10, 0.36, 0.75), "light"),
        *_mirror(window),
        *[Part("box", (0.03, 0.17, 0.17), (i * 0.78, 0.66, z), "glass") for i in (-1, 1) for z in (-0.34, 0.34)],
        Part("box", (0.11, 0.28, 0.11), (0.45, 1.68, -0.30), "steel"),
    ]


def _tree() -> list[Part]:
    return [
        Part("frustum", (0.17, 0.12, 0.40), (0, 0.40, 0), "wood"),
        Part("frustum", (0.78, 0.30, 0.32), (0, 0.98, 0)),
        Part("frustum", (0.62, 0.20, 0.30), (0, 1.40, 0)),
        Part("frustum", (0.46, 0.0, 0.36), (0, 1.86, 0)),
    ]


def _car() -> list[Part]:
    wheel = Part("frustum", (0.24, 0.24, 0.09), (0.46, 0.24, 0.55), "dark", (0, 0, 90))
    lamp = Part("ellipsoid", (0.11, 0.09, 0.05), (0.30, 0.50, 0.98), "light")
    brake = Part("box", (0.12, 0.06, 0.03), (0.32, 0.55, -0.98), "brake")
    return [
        Part("box", (0.50, 0.24, 0.98), (0, 0.46, 0)),
        Part("box", (0.42, 0.24, 0.50), (0, 0.90, -0.14)),
        Part("box", (0.37, 0.16, 0.04), (0, 0.90, 0.35), "glass"),
        Part("box", (0.44, 0.14, 0.40), (0, 0.91, -0.14), "glass"),
        Part("box", (0.30, 0.12, 0.03), (0, 0.92, -0.64), "dark"),
        Part("box", (0.26, 0.05, 0.03), (0, 0.34, 0.98), "dark"),
        *_mirror(wheel),
        *[Part(p.kind, p.size, (p.at[0], p.at[1], -0.58), p.paint, p.turn) for p in _mirror(wheel)],
        *_mirror(lamp),
        *_mirror(brake),
    ]


def _snowman() -> list[Part]:
    eye = Part("ellipsoid", (0.10, 0.10, 0.06), (0.14, 1.90, 0.28), "white")
    pupil = Part("ellipsoid", (0.05, 0.05, 0.04), (0.14, 1.89, 0.33), "dark")
    arm = Part("frustum", (0.05, 0.03, 0.32), (0.68, 1.38, 0), "wood", (0, 0, -62))
    return [
        Part("ellipsoid", (0.60, 0.55, 0.60), (0, 0.52, 0)),
        Part("ellipsoid", (0.46, 0.42, 0.46), (0, 1.16, 0)),
        Part("ellipsoid", (0.36, 0.35, 0.36), (0, 1.78, 0)),
        Part("frustum", (0.37, 0.34, 0.08), (0, 1.50, 0), "cream"),
        Part("box", (0.09, 0.24, 0.04), (0.16, 1.26, 0.42), "cream", (-8, 0, -6)),
        Part("frustum", (0.40, 0.40, 0.03), (0, 2.05, 0), "dark"),
        Part("frustum", (0.26, 0.24, 0.17), (0, 2.24, 0), "dark"),
        *_mirror(eye),
        *_mirror(pupil),
        Part("frustum", (0.10, 0.0, 0.24), (0, 1.76, 0.54), "carrot", (90, 0, 0)),
        Part("ellipsoid", (0.08, 0.08, 0.06), (-0.06, 1.20, 0.45), "dark"),
        Part("ellipsoid", (0.09, 0.09, 0.06), (0, 0.74, 0.57), "dark"),
        Part("ellipsoid", (0.09, 0.09, 0.06), (0, 0.46, 0.60), "dark"),
        *_mirror(arm),
    ]


def _lamp() -> list[Part]:
    return [
        Part("frustum", (0.42, 0.36, 0.06), (0, 0.06, 0), "dark"),
        Part("frustum", (0.05, 0.05, 0.55), (0, 0.66, 0), "steel"),
        Part("frustum", (0.70, 0.38, 0.40), (0, 1.50, 0)),
        Part("frustum", (0.60, 0.58, 0.02), (0, 1.10, 0), "light"),
    ]


def _aeroplane() -> list[Part]:
    return [
        Part("ellipsoid", (0.25, 0.26, 1.05), (0, 0.50, 0)),
        Part("box", (1.08, 0.05, 0.24), (0, 0.46, 0.12)),
        Part("box", (0.46, 0.04, 0.14), (0, 0.56, -0.86)),
        Part("box", (0.05, 0.28, 0.16), (0, 0.84, -0.86)),
        Part("ellipsoid", (0.16, 0.17, 0.26), (0, 0.68, 0.42), "glass"),
        Part("ellipsoid", (0.11, 0.11, 0.12), (0, 0.50, 1.02), "dark"),
        Part("box", (0.40, 0.05, 0.02), (0, 0.50, 1.08), "white", (0, 0, 35)),
        *_mirror(Part("frustum", (0.13, 0.13, 0.22), (0.55, 0.32, 0.18), "steel", (90, 0, 0))),
    ]


def _boat() -> list[Part]:
    return [
        Part("ellipsoid", (0.50, 0.46, 1.05), (0, 0.44, 0)),
        Part("box", (0.52, 0.10, 0.66), (0, 0.62, -0.20)),
        Part("box", (0.36, 0.04, 0.62), (0, 0.90, -0.04), "wood"),
        Part("box", (0.32, 0.26, 0.28), (0, 1.14, -0.30), "white"),
        Part("box", (0.24, 0.11, 0.03), (0, 1.20, -0.01), "glass"),
        Part("box", (0.33, 0.09, 0.12), (0, 1.20, -0.26), "dark"),
        Part("frustum", (0.13, 0.13, 0.26), (0, 1.58, -0.32)),
        Part("box", (0.14, 0.16, 0.02), (0, 0.60, -0.97), "dark"),
        Part("frustum", (0.03, 0.03, 0.30), (0, 1.02, 0.62), "white"),
    ]


def _mushroom() -> list[Part]:
    dots = [
        (0.0, 1.50, 0.0),
        (0.45, 1.30, 0.30),
        (-0.45, 1.30, 0.30),
        (0.30, 1.30, -0.45),
        (-0.40, 1.30, -0.36),
    ]
    low = [(0.0, 1.12, 0.72), (0.73, 1.10, -0.05), (-0.73, 1.10, 0.02), (0.0, 1.12, -0.72)]
    return [
        Part("frustum", (0.34, 0.25, 0.45), (0, 0.45, 0), "cream"),
        Part("ellipsoid", (0.85, 0.56, 0.85), (0, 0.98, 0)),
        Part("frustum", (0.70, 0.86, 0.06), (0, 0.86, 0), "cream"),
        *[Part("ellipsoid", (0.13, 0.09, 0.13), at, "white") for at in dots],
        *[Part("ellipsoid", (0.11, 0.11, 0.11), at, "white") for at in low],
    ]


def _robot() -> list[Part]:
    return [
        Part("box", (0.46, 0.44, 0.30), (0, 0.86, 0)),
        Part("box", (0.34, 0.28, 0.28), (0, 1.66, 0)),
        Part("frustum", (0.12, 0.12, 0.08), (0, 1.34, 0), "steel"),
        *_mirror(Part("ellipsoid", (0.10, 0.10, 0.05), (0.15, 1.74, 0.28), "light")),
        Part("box", (0.20, 0.045, 0.03), (0, 1.52, 0.28), "dark"),
        Part("box", (0.24, 0.20, 0.03), (0, 0.92, 0.30), "white"),
        Part("box", (0.28, 0.32, 0.09), (0, 0.90, -0.38), "dark"),
        *_mirror(Part("box", (0.09, 0.36, 0.11), (0.60, 0.88, 0))),
        *_mirror(Part("box", (0.13, 0.22, 0.16), (0.22, 0.22, 0), "steel")),
        Part("frustum", (0.03, 0.03, 0.12), (0, 2.05, 0), "steel"),
        Part("ellipsoid", (0.08, 0.08, 0.08), (0, 2.20, 0), "light"),
    ]


def _clock() -> list[Part]:
    return [
        Part("frustum", (0.86, 0.86, 0.22), (0, 1.02, 0), "main", (90, 0, 0)),
        Part("frustum", (0.56, 0.56, 0.03), (0, 1.02, 0.23), "white", (90, 0, 0)),
        Part("box", (0.05, 0.22, 0.02), (0, 1.21, 0.27), "dark"),
        Part("box", (0.18, 0.05, 0.02), (0.15, 1.02, 0.27), "dark"),
        Part("box", (0.30, 0.20, 0.03), (0, 1.02, -0.23), "dark"),
        *_mirror(Part("ellipsoid", (0.20, 0.20, 0.20), (0.50, 1.86, 0))),
        *_mirror(Part("box", (0.09, 0.18, 0.12), (0.48, 0.18, 0))),
    ]


def _bear() -> list[Part]:
    return [
        Part("ellipsoid", (0.52, 0.56, 0.46), (0, 0.62, 0)),
        Part("ellipsoid", (0.46, 0.42, 0.42), (0, 1.42, 0)),
        *_mirror(Part("ellipsoid", (0.17, 0.17, 0.10), (0.36, 1.78, 0))),
        Part("ellipsoid", (0.20, 0.16, 0.16), (0, 1.32, 0.36), "cream"),
        Part("ellipsoid", (0.075, 0.055, 0.05), (0, 1.38, 0.51), "dark"),
        *_mirror(Part("ellipsoid", (0.06, 0.06, 0.04), (0.17, 1.52, 0.38), "dark")),
        Part("ellipsoid", (0.32, 0.36, 0.10), (0, 0.62, 0.40), "cream"),
        *_mirror(Part("ellipsoid", (0.16, 0.32, 0.18), (0.56, 0.86, 0.06), "main", (0, 0, 25))),
        *_mirror(Part("ellipsoid", (0.20, 0.20, 0.28), (0.34, 0.20, 0.20))),
        Part("ellipsoid", (0.14, 0.14, 0.12), (0, 0.40, -0.48), "cream"),
    ]


MODELS = {
    "mug": _mug,
    "chair": _chair,
    "table": _table,
    "house": _house,
    "tree": _tree,
    "car": _car,
    "snowman": _snowman,
    "lamp": _lamp,
    "aeroplane": _aeroplane,
    "boat": _boat,
    "mushroom": _mushroom,
    "robot": _robot,
    "clock": _clock,
    "bear": _bear,
}
FRONTLESS = frozenset({"table", "tree", "lamp", "mushroom"})


@dataclass(frozen=True)
class Model:
    """Parts of an object, moved and scaled so that it fits the unit sphere round the origin.

    ``floor`` is the height of the ground below it; ``reach`` the ground radius of its shadow.
    """

    parts: tuple[Part, ...]
    scale: float
    centre: tuple[float, float, float]
    floor: float
    reach: tuple[float, float]


@cache
def model(name: str) -> Model:
    """The normalised model of an object."""
    parts = tuple(MODELS[name]())
    corners = torch.cat([part.corners() for part in parts])
    low, high = corners.amin(0), corners.amax(0)
    centre = (low + high) / 2
    scale = 1 / (corners - centre).norm(dim=1).max()
    reach = ((high - low) / 2 * scale)[[0, 2]]
    floor = (low[1] - centre[1]) * scale
    return Model(parts, scale.item(), tuple(centre.tolist()), floor.item(), tuple(reach.tolist()))
