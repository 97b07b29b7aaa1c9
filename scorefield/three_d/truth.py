"""How good an asset of a Toybox prompt is, with the truth known: what the judge reads all round, and the true shape.

Nothing in here is ever seen by an optimisation.
"""

import math
from typing import Any

import numpy as np
import torch
from torch import Tensor

from scorefield.data import toybox
from scorefield.data.toybox.models import BACKGROUNDS, FRONTLESS
from scorefield.errors import UserError
from scorefield.evaluation.judge import Judge
from scorefield.evaluation.metrics import diversity
from scorefield.three_d.cameras import Cameras, to_y_up
from scorefield.three_d.extra import need
from scorefield.three_d.mesh import Mesh, march
from scorefield.three_d.view import over, render_mesh
from scorefield.three_d.voxels import inside

FRONT_ARC = 60.0  # degrees either side of the front within which the judge may call a view the front
GREY = BACKGROUNDS["grey"]
SURFACE_POINTS, TRUE_GRID, IOU_GRID = 3000, 96, 72
YAWS, REFINED, ROUNDS = 24, 3, 12
CANDIDATES, NOVEL_VIEWS = 16, 8


def azimuths(cameras: Cameras) -> Tensor:
    """float32 [B] in degrees, -180 to 180: 0 sees the front, 90 the +x side."""
    place = cameras.c2w[:, :3, 3].cpu()
    return torch.atan2(place[:, 0], -place[:, 1]).rad2deg()


def read_views(judge: Judge, images: Tensor, prompt: str, degrees: Tensor) -> dict[str, float | None]:
    """What the judge reads off views of one object.

    Args:
        images: [N, 3, H, W] in [0, 1]. degrees: azimuths [N], 0 sees the front.

    Returns:
        "judge_accuracy": share of views whose object and colour are read as the prompt says. "view_accuracy": share
        of the views within 22 degrees of front, side and back whose view word is right. "janus_rate": share of the
        views more than 60 degrees from the front that are called front. The last two are None for objects without a
        front, and where no view qualifies.

    Raises UserError for a prompt that names no Toybox object and colour.
    """
    told = _told(prompt)
    reading = judge.read(images * 2 - 1)
    right = (reading.labels["object"] == told.object) & (reading.labels["color"] == told.color)
    result: dict[str, float | None] = {"judge_accuracy": right.float().mean().item()}
    result |= {"object_accuracy": (reading.labels["object"] == told.object).float().mean().item()}
    result |= {"view_accuracy": None, "janus_rate": None}
    if toybox.OBJECTS[told.object] in FRONTLESS:
        return result
    view, turn = reading.labels["view"].cpu(), (degrees.cpu() + 180) % 360 - 180
    due = torch.full_like(view, -1)
    half = 22.0 + 1e-3
    for word, off in (("front", turn.abs()), ("side", (turn.abs() - 90).abs()), ("back", 180 - turn.abs())):
        due = torch.where(off <= half, toybox.VIEWS.index(word), due)
    if (due >= 0).any():
        result["view_accuracy"] = (view == due)[due >= 0].float().mean().item()
    beyond = turn.abs() > FRONT_ARC
    if beyond.any():
        result["janus_rate"] = (view[beyond] == toybox.VIEWS.index("front")).float().mean().item()
    return result


def _told(prompt: str) -> toybox.Attributes:
    told = toybox.parse(prompt)
    if told is None:
        raise UserError(f'the judge cannot read "{prompt}": it names no Toybox object and colour')
    return told


# ---------------------------------------------------------------------- shape


def true_mesh(name: str) -> Mesh:
    """The true surface of an object in its own frame (y up, unit bounding sphere), from its signed distance."""
    line = torch.linspace(-1.05, 1.05, TRUE_GRID)
    grid = torch.stack(torch.meshgrid(line, line, line, indexing="ij"), -1).view(-1, 3)
    inside = torch.sigmoid(-toybox.sdf(name, grid) * 40).view((TRUE_GRID,) * 3).numpy()
    return march(inside, 1.05, 0.5)


def surface_points(mesh: Mesh, count: int = SURFACE_POINTS, seed: int = 0) -> np.ndarray:
    """float64 [count, 3], uniform over the area."""
    draw = np.random.default_rng(seed)
    a, b, c = (mesh.vertices[mesh.faces[:, k]].astype(np.float64) for k in range(3))
    area = np.linalg.norm(np.cross(b - a, c - a), axis=1)
    face = draw.choice(len(area), count, p=area / area.sum())
    u, v = draw.random((2, count, 1))
    u, v = np.where(u + v > 1, 1 - u, u), np.where(u + v > 1, 1 - v, v)
    return a[face] + u * (b[face] - a[face]) + v * (c[face] - a[face])


def turned(points: np.ndarray, yaw: float) -> np.ndarray:
    """Points [N, 3] of a y-up frame, turned about y by ``yaw`` radians."""
    c, s = math.cos(yaw), math.sin(yaw)
    return points @ np.array([[c, 0.0, -s], [0.0, 1.0, 0.0], [s, 0.0, c]])


def chamfer(a: np.ndarray, b: np.ndarray) -> float:
    """Mean distance to the nearest point of the other set, averaged over the two directions."""
    tree = need("scipy.spatial").cKDTree
    return float((tree(a).query(b)[0].mean() + tree(b).query(a)[0].mean()) / 2)


def align(points: np.ndarray, truth: np.ndarray) -> dict[str, Any]:
    """The turn about the vertical, scale and shift that bring ``points`` nearest to ``truth``, both [N, 3], y up.

    Starts from equal centres and spreads at every 15 degrees; the best three are refined by iterated closest points
    (both directions, restricted to that family).

    Returns {"yaw": radians, "scale": float, "shift": [3], "chamfer": float} with truth ≈ scale turned(points) + shift.
    """
    few, some = points[:: max(1, len(points) // 600)], truth[:: max(1, len(truth) // 600)]
    tries = []
    for k in range(YAWS):
        yaw = 2 * math.pi * k / YAWS
        own = turned(few, yaw)
        scale = math.sqrt(some.var(0).sum() / max(own.var(0).sum(), 1e-12))
        shift = some.mean(0) - scale * own.mean(0)
        tries.append((chamfer(scale * own + shift, some), yaw, scale, shift))
    tries.sort(key=lambda item: item[0])
    found = [_refined(few, some, *start[1:]) for start in tries[:REFINED]] + [t[1:] for t in tries[:1]]
    scored = [(chamfer(s * turned(points, y) + d, truth), y, s, d) for y, s, d in found]
    best = min(scored, key=lambda item: item[0])
    return {
        "chamfer": best[0],
        "yaw": (best[1] + math.pi) % (2 * math.pi) - math.pi,
        "scale": best[2],
        "shift": best[3],
    }


def _refined(points: np.ndarray, truth: np.ndarray, yaw: float, scale: float, shift: np.ndarray):
    tree = need("scipy.spatial").cKDTree
    goal = tree(truth)
    for _ in range(ROUNDS):
        now = scale * turned(points, yaw) + shift
        p = np.concatenate([points, points[tree(now).query(truth)[1]]])
        q = np.concatenate([truth[goal.query(now)[1]], truth])
        centre_p, centre_q = p.mean(0), q.mean(0)
        dp, dq = p - centre_p, q - centre_q
        # turned(p) = (c x + s z, y, c z - s x): the best turn maximises c (x x' + z z') + s (z x' - x z')
        yaw = math.atan2((dp[:, 2] * dq[:, 0] - dp[:, 0] * dq[:, 2]).sum(), (dp[:, [0, 2]] * dq[:, [0, 2]]).sum())
        scale = float((turned(dp, yaw) * dq).sum() / (dp**2).sum())
        shift = centre_q - scale * turned(centre_p[None], yaw)[0]
    return yaw, scale, shift


def shape_figures(mesh: Mesh, name: str) -> dict[str, float]:
    """Chamfer distance and intersection over union of a mesh (world, z up) with the true shape, after ``align``.

    Lengths are in units of the true object's bounding radius; "yaw_deg" tells how far it had to be turned. Which way
    the asset faces is not judged here, but by its views.
    """
    truth = true_mesh(name)
    upright = Mesh(to_y_up(torch.from_numpy(mesh.vertices)).numpy(), mesh.faces)
    found = align(surface_points(upright), surface_points(truth, seed=1))
    vertices = found["scale"] * turned(upright.vertices.astype(np.float64), found["yaw"]) + found["shift"]
    reach = max(1.05, float(np.abs(vertices).max()) * 1.01)
    own, true = (inside(m, reach, IOU_GRID) for m in (Mesh(vertices, mesh.faces), truth))
    return {
        "chamfer": found["chamfer"],
        "iou": float((own & true).sum() / max((own | true).sum(), 1)),
        "yaw_deg": math.degrees(found["yaw"]),
        "scale": float(found["scale"]),
    }


# ---------------------------------------------------------------------- pictures


def true_scenes(prompt: str, cameras: Cameras, candidates: int, seed: int) -> toybox.Scenes:
    """``candidates`` scenes for each camera, one camera after the other: the prompt's object and colour on plain grey,
    seen from there; size, light and the point looked at are drawn."""
    told = _told(prompt)
    scenes = toybox.sample_scenes(
        range(candidates), seed, object=told.object, color=told.color, background="grey", view="front"
    )
    scenes = scenes[torch.arange(candidates).repeat(len(cameras))]
    place = to_y_up(cameras.c2w[:, :3, 3].cpu()).repeat_interleave(candidates, 0)
    distance = place.norm(dim=-1)
    turn = torch.atan2(place[:, 0], place[:, 2])
    by = turn - scenes.azimuth_deg.deg2rad()  # the lamp keeps its place relative to the camera
    x, y, z = scenes.light.unbind(-1)
    scenes.light = torch.stack([by.cos() * x + by.sin() * z, y, by.cos() * z - by.sin() * x], -1)
    scenes.azimuth_deg, scenes.elevation_deg = turn.rad2deg(), (place[:, 1] / distance).asin().rad2deg()
    scenes.distance, scenes.tint = distance, torch.zeros_like(scenes.tint)
    scenes.fov_deg = cameras.fovy.cpu().repeat_interleave(candidates).rad2deg()
    return scenes


def true_pictures(prompt: str, cameras: Cameras, candidates: int = 1, seed: int = toybox.TEST_SEED) -> Tensor:
    """[cameras, candidates, 3, H, W] in [0, 1]: the true object on plain grey, without its shadow on the ground."""
    if cameras.size[0] != cameras.size[1]:
        raise UserError(f"true pictures are square, not {cameras.size}")
    seen = toybox.render(true_scenes(prompt, cameras, candidates, seed), cameras.size[0])
    cover, ground = seen.mask[:, None], torch.tensor(GREY).view(1, 3, 1, 1)
    return ((seen.image + 1) / 2 * cover + ground * (1 - cover)).unflatten(0, (len(cameras), candidates))


def novel_psnr(images: Tensor, prompt: str, cameras: Cameras) -> float:
    """Mean over views of the best PSNR in dB to true pictures from the same camera; images [B, 3, H, W] in [0, 1] on
    plain grey. The best is taken over 16 draws of size, light and offset, which no prompt tells."""
    truth = true_pictures(prompt, cameras, CANDIDATES)
    error = (truth - images[:, None].cpu()).square().mean((2, 3, 4)).clamp_min(1e-10)
    return float((-10 * error.amin(1).log10()).mean())


def evaluate_mesh(mesh: Mesh, prompt: str, judge: Judge, cameras: Cameras) -> tuple[dict[str, Any], Tensor]:
    """(all figures of one textured mesh, the judge's features [B, D] of its views) from ``cameras`` round it.

    "true_judge_accuracy" is what the true object reaches from the same cameras: the ceiling.
    """
    images = over(*render_mesh(mesh, cameras), GREY)
    degrees = azimuths(cameras)
    some = torch.arange(0, len(cameras), max(1, len(cameras) // NOVEL_VIEWS))
    figures: dict[str, Any] = dict(read_views(judge, images, prompt, degrees))
    figures |= shape_figures(mesh, toybox.OBJECTS[_told(prompt).object])
    figures["psnr"] = novel_psnr(images[some], prompt, cameras[some])
    ceiling = read_views(judge, true_pictures(prompt, cameras)[:, 0], prompt, degrees)
    figures |= {f"true_{key}": ceiling[key] for key in ("judge_accuracy", "janus_rate")}
    return figures, judge.read(images * 2 - 1).features


def particle_diversity(features: list[Tensor]) -> float | None:
    """Mean feature distance between particles seen from the same camera; None for one particle. Each is [B, D]."""
    if len(features) < 2:
        return None
    views = len(features[0])
    return diversity(torch.cat(features), list(range(views)) * len(features))
