"""Drawn cameras, and what a view is called in words."""

from collections.abc import Sequence

import torch
from torch import Tensor

from scorefield.random import Draws
from scorefield.three_d.cameras import Cameras, look_at, orbit
from scorefield.three_d.settings import CameraConfig

VIEWS = ("front", "side", "back", "overhead")
ROUNDING = 1e-3  # degrees: 45 to the left and to the right must get the same word


def draw_cameras(config: CameraConfig, draws: Draws, size: tuple[int, int]) -> tuple[Cameras, Tensor]:
    """(cameras, view words) of some samples; azimuths are stratified over four consecutive samples.

    View words are int64 [B], positions in ``VIEWS``.
    """
    elevation = draw_elevation(config, draws)
    # four windows in turn; which comes first is drawn by iteration, so that a batch of one sees all of them
    offset = Draws(draws.seed, draws.iteration, torch.zeros_like(draws.indices)).integers("window", 4)
    window = 90.0 * ((draws.indices + offset) % 4).float()
    azimuth = (window + config.azimuth_window * (2 * draws.uniform("azimuth") - 1)).deg2rad()
    between = lambda name, ends: ends[0] + (ends[1] - ends[0]) * draws.uniform(name)  # noqa: E731
    target = config.target * (2 * draws.uniform("target", 3) - 1)
    cameras = orbit(
        elevation, azimuth, between("distance", config.distance), between("fovy", config.fovy).deg2rad(), size, target
    )
    if config.position_jitter or config.target_jitter or config.up_jitter:
        cameras = jittered(config, draws, cameras, target)
    return cameras, view_words(config, elevation, azimuth)


def jittered(config: CameraConfig, draws: Draws, cameras: Cameras, target: Tensor) -> Cameras:
    """Cameras moved off their orbit round ``target`` [B, 3]; what their view is called stays that of the orbit."""
    place = cameras.c2w[:, :3, 3] + config.position_jitter * (2 * draws.uniform("position-jitter", 3) - 1)
    target = target + config.target_jitter * draws.normal("target-jitter", 3)
    upright = torch.tensor([0.0, 0.0, 1.0], device=place.device) + config.up_jitter * draws.normal("up-jitter", 3)
    return look_at(place, target, upright, cameras.fovy, cameras.size)


def draw_elevation(config: CameraConfig, draws: Draws) -> Tensor:
    """Radians [B]; see ``CameraConfig.elevation_law``."""
    low, high = (torch.tensor(end, device=draws.device).deg2rad() for end in config.elevation)
    u, coin = draws.uniform("elevation"), draws.uniform("elevation-law") < 0.5
    flat = low + (high - low) * u
    area = (low.sin() + (high.sin() - low.sin()) * u).asin()
    if config.elevation_law == "uniform":
        return flat
    if config.elevation_law == "area":
        return area
    return torch.where(coin, area if config.elevation_law == "mixed" else u.asin(), flat)


def view_words(config: CameraConfig, elevation: Tensor, azimuth: Tensor) -> Tensor:
    """int64 [B], positions in ``VIEWS``, of angles in radians; on the border between two words it is the side."""
    turn = torch.rad2deg(torch.atan2(azimuth.sin(), azimuth.cos())).abs()
    front = config.front - ROUNDING
    word = torch.where(turn < front, 0, torch.where(turn > 180 - front, 2, 1))
    return torch.where(torch.rad2deg(elevation) > config.overhead, 3, word)


def eight_views(config: CameraConfig, size: tuple[int, int], count: int = 8) -> tuple[Cameras, Tensor]:
    """The same views at every look: azimuths round the circle from the front, the middle of all other ranges."""
    middle = [sum(ends) / 2 for ends in (config.elevation, config.distance, config.fovy)]
    azimuth = torch.arange(count) * (2 * torch.pi / count)
    elevation = torch.full((count,), middle[0]).deg2rad()
    cameras = orbit(elevation, azimuth, middle[1], torch.tensor(middle[2]).deg2rad(), size)
    return cameras, view_words(config, elevation, azimuth)


def names(words: Tensor | Sequence[int]) -> list[str]:
    """Positions in ``VIEWS`` as words."""
    return [VIEWS[int(word)] for word in words]
