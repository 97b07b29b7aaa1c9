"""Divergence to noise: neighbouring pixels lose what they have in common."""

import torch
from torch import Tensor

from scorefield.monitors.base import MONITORS, Monitor, Probe


def neighbour_correlation(x: Tensor) -> float:
    """Correlation of neighbours along rows and columns of [N, C, H, W], each channel about its own mean."""
    centred = x - x.mean((-2, -1), keepdim=True)
    power = centred.square().mean().clamp_min(1e-12)
    right = (centred[..., :, 1:] * centred[..., :, :-1]).mean()
    down = (centred[..., 1:, :] * centred[..., :-1, :]).mean()
    return float((right + down) / (2 * power))


@MONITORS.register("noise")
class Noise(Monitor):
    """How far x0 went from the correlation of neighbours that it started with (0) to none at all (1).

    White noise has none whatever its strength; measured in the space of the loss, where a latent generator diverges
    first. Healthy Toybox runs went up to 0.46, since a student is sharper than the start.
    """

    name = "noise"
    line = 0.7
    seen = "samples turn to noise: neighbouring values have little in common any more"
    advice = (
        "lower both learning rates, let the online score learn faster than the generator or train it twice an"
        " iteration (training.online_updates), and check the noise law and weighting of the online score"
    )

    def figure(self, probe: Probe) -> float | None:
        x = probe.x0.flatten(0, 1).float()
        if x.ndim != 4 or min(x.shape[-2:]) < 4:
            return None
        if not torch.isfinite(x).all():
            return float("nan")
        now = neighbour_correlation(x)
        start = self.memory.setdefault("start", now)
        return (start - now) / max(start, 1e-3)
