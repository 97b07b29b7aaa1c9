"""Drift of brightness and colour: the mean picture moves away from where it began."""

import torch

from scorefield.monitors.base import MONITORS, Monitor, Probe


@MONITORS.register("brightness")
class Brightness(Monitor):
    """Largest move of a channel's mean since the start, in standard deviations of that channel at the start.

    Healthy Toybox runs: up to 0.3.
    """

    name = "brightness"
    line = 0.5
    seen = "brightness or colour drifts: the mean of a channel moved far from the start"
    advice = "lower training.guidance_scale or the generator's learning rate; check the autoencoder's scaling"

    def figure(self, probe: Probe) -> float | None:
        x = probe.seen.transpose(0, 1).flatten(1)
        mean, deviation = x.mean(1).cpu(), x.std(1).cpu()
        start = self.memory.setdefault("mean", mean)
        spread = self.memory.setdefault("deviation", deviation).clamp_min(0.05)
        return float(torch.nan_to_num((mean - start).abs() / spread, nan=float("inf")).max())
