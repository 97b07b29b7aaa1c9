"""Drift of brightness and colour: the pictures move together, away from where they began."""

import torch

from scorefield.monitors.base import MONITORS, Monitor, Probe


@MONITORS.register("brightness")
class Brightness(Monitor):
    """How far at least three quarters of the pictures moved one way, in a channel's mean, since the start.

    In standard deviations of that channel at the start; the largest of the channels. Each picture is held against what
    it was at the start. The mean of all would not do: a few watched pictures that settle on another background move
    it as far as a drift does (up to 0.8 between start noises of a sound teacher). Toybox runs without a failure: up to
    0.3; pictures of a sound teacher or real ones in their place: up to 0.13; those with a shift of 0.3 in [-1, 1]: from
    0.53 (scripts/brightness_line.py).
    """

    name = "brightness"
    line = 0.5
    seen = "brightness or colour drifts: a channel of most pictures moved the same way, far from the start"
    advice = "lower training.guidance_scale or the generator's learning rate; check the autoencoder's scaling"

    def figure(self, probe: Probe) -> float | None:
        x = probe.seen
        means = x.reshape(*x.shape[:2], -1).mean(2).cpu()
        moved = means - self.memory.setdefault("means", means)
        spread = self.memory.setdefault("deviation", x.transpose(0, 1).flatten(1).std(1).cpu()).clamp_min(0.05)
        low, high = torch.quantile(moved, torch.tensor([0.25, 0.75]), dim=0)
        together = torch.maximum(low, -high).clamp_min(0)
        return float(torch.nan_to_num(together / spread, nan=float("inf")).max())
