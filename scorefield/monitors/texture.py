"""Texture grids: a periodic pattern with the period of a patch or of the autoencoder's upsampling."""

import torch
from torch import Tensor

from scorefield.monitors.base import MONITORS, Monitor, Probe

PERIODS = (2, 4, 8, 16)


def grid_strength(pictures: Tensor) -> float | None:
    """Largest peak of the mean power spectrum at a grid's frequencies, over the spectrum beside it.

    Along rows and along columns of [N, C, H, W]: the power at every multiple of 1/period, divided by the mean of its
    neighbours two and three steps away (a smooth spectrum gives about 1). None for sides too short to tell.
    """
    found = []
    for x in (pictures, pictures.transpose(-1, -2)):
        side = x.shape[-1]
        # a window keeps the seam between the picture's two ends out of the spectrum
        window = torch.hann_window(side, device=x.device)
        power = torch.fft.rfft((x - x.mean((-2, -1), keepdim=True)) * window).abs().square().mean((0, 1, 2))
        floor = 1e-4 * power[1:].mean()  # rounding is no pattern
        for period in PERIODS:
            for place in range(side // period, side // 2 + 1, max(side // period, 1)):
                beside = [place + step for step in (-3, -2, 2, 3) if 2 <= place + step <= side // 2]
                if side % period == 0 and place >= 6 and len(beside) >= 2:
                    found.append((power[place] + floor) / (power[beside].mean() + floor))
    return float(torch.stack(found).max()) if found else None


@MONITORS.register("texture")
class Texture(Monitor):
    """Strength of the strongest grid, over what it was at the start (1 at least, so that a smooth start is fair).

    Healthy Toybox runs: up to 1.5.
    """

    name = "texture"
    line = 4.0
    seen = "a regular grid shows in the pictures"
    advice = "lower the generator's learning rate, use more weight averaging (training.ema_half_life_images)"

    def figure(self, probe: Probe) -> float | None:
        if probe.seen.ndim != 4:
            return None
        strength = grid_strength(probe.seen)
        if strength is None:
            return None
        return strength / max(self.memory.setdefault("start", strength), 1.0)
