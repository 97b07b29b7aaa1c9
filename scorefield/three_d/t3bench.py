"""T3Bench's quality of an asset (He et al. 2023, arXiv:2310.02977): the best region of an icosphere of views.

The mesh is put into the cube [-1, 1]^3 and seen from every vertex of an icosphere of radius 2.2, unlit on black, with
five fields of view. A view's score is that of its best field of view; three times each view takes the mean of itself
and its neighbours, so that one lucky view among bad ones counts little; the best that is left is the asset's. With
ImageReward it is stated as 20 r + 50.
"""

from dataclasses import dataclass, replace

import numpy as np
import torch

from scorefield.errors import UserError
from scorefield.evaluation.scores import PictureScore
from scorefield.images import to_uint8
from scorefield.three_d.cameras import Cameras
from scorefield.three_d.extra import need
from scorefield.three_d.mesh import Mesh
from scorefield.three_d.view import render_mesh

RADIUS, ROUNDS = 2.2, 3
FIELDS_OF_VIEW = (60.0, 45.0, 36.0, 30.0, 24.0)  # degrees
PUBLISHED = "imagereward"  # the score that T3Bench's tables are made with


@dataclass
class T3BenchConfig:
    """T3Bench's quality; off while ``score`` is empty. Options of the score are those of ``score_options``."""

    score: str = ""  # one of single pictures: "imagereward" as published, or another
    subdivisions: int = 2  # of the icosphere: 162 views as published; 1: 42, 0: 12
    size: int = 512  # pixels a side

    def __post_init__(self) -> None:
        if not 0 <= self.subdivisions <= 4 or self.size < 8:
            raise UserError("evaluation.t3bench.subdivisions must lie between 0 and 4, and size be 8 at least")


def icosphere(subdivisions: int) -> tuple[np.ndarray, list[list[int]]]:
    """(unit directions float64 [V, 3], for each the places of its neighbours)."""
    sphere = need("trimesh.creation").icosphere(subdivisions=subdivisions, radius=1.0)
    return np.array(sphere.vertices, dtype=np.float64), [list(map(int, row)) for row in sphere.vertex_neighbors]


def cameras_from(direction: np.ndarray, size: int) -> Cameras:
    """One camera for each field of view, all at ``RADIUS`` along a unit direction, upright where there is an up."""
    up = np.array([0.0, 0.0, 1.0]) if abs(direction[2]) < 0.99 else np.array([0.0, 1.0, 0.0])
    right = np.cross(up, direction)
    right /= np.linalg.norm(right)
    pose = np.eye(4)
    pose[:3] = np.stack([right, np.cross(direction, right), direction, RADIUS * direction], -1)
    count = len(FIELDS_OF_VIEW)
    c2w = torch.from_numpy(pose).float().expand(count, 4, 4)
    return Cameras(c2w, torch.tensor(FIELDS_OF_VIEW).deg2rad(), (size, size))


def normalised(mesh: Mesh) -> Mesh:
    """The mesh about the mean of its vertices, scaled so that the farthest coordinate is 1."""
    vertices = mesh.vertices - mesh.vertices.mean(0)
    return replace(mesh, vertices=vertices / np.abs(vertices).max())


def best_region(scores: np.ndarray, neighbours: list[list[int]], rounds: int = ROUNDS) -> float:
    """The highest of scores [V] after ``rounds`` of averaging each with its neighbours."""
    now = np.asarray(scores, dtype=np.float64)
    for _ in range(rounds):
        now = np.array([(now[k] + now[near].sum()) / (1 + len(near)) for k, near in enumerate(neighbours)])
    return float(now.max())


def view_scores(mesh: Mesh, prompt: str, score: PictureScore, directions: np.ndarray, size: int) -> np.ndarray:
    """float64 [V]: the best score over the fields of view, from each direction [V, 3]."""
    placed, found = normalised(mesh), []
    for direction in directions:
        colour, _ = render_mesh(placed, cameras_from(direction, size))  # premultiplied: on black
        found.append(score.read(to_uint8(colour * 2 - 1), [prompt] * len(colour)).max().item())
    return np.array(found)


def quality(mesh: Mesh, prompt: str, score: PictureScore, config: T3BenchConfig) -> dict[str, float]:
    """{key: figure}: "t3bench_quality" as T3Bench states it, or "t3bench_KEY", the bare region's score by another.

    Raises UserError for a mesh without texture.
    """
    directions, neighbours = icosphere(config.subdivisions)
    best = best_region(view_scores(mesh, prompt, score, directions, config.size), neighbours)
    return {figure_key(score, config): 20 * best + 50 if config.score == PUBLISHED else best}


def figure_key(score: PictureScore, config: T3BenchConfig) -> str:
    """What the figure is called in the summary."""
    return "t3bench_quality" if config.score == PUBLISHED else f"t3bench_{score.key}"


def facts(score: PictureScore, config: T3BenchConfig) -> dict[str, dict[str, str]]:
    """What must stand beside the figure, as ``scorefield.evaluation.scores.facts``."""
    views = len(icosphere(config.subdivisions)[0])
    stated = "20 r + 50 of the best region" if config.score == PUBLISHED else "the best region"
    told = {
        "title": "T3Bench quality" if config.score == PUBLISHED else f"T3Bench's best region, {score.title}",
        "model": score.model,
        "definition": f"{stated} of {views} views at {config.size} px, {len(FIELDS_OF_VIEW)} fields of view each",
        "better": score.better,
    }
    return {figure_key(score, config): told}
