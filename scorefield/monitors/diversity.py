"""Mode collapse: samples of one prompt become one sample."""

import torch

from scorefield.monitors.base import MONITORS, Monitor, Probe


@MONITORS.register("diversity")
class Diversity(Monitor):
    """Root mean squared distance among samples of one condition, over the largest that it has been in this run.

    Healthy Toybox runs fall to 0.49 on the way and end near 0.74: guided students vary less than their start.
    """

    name = "diversity"
    line = 0.35
    above = False
    seen = "samples of one prompt look alike: the generator collapses"
    advice = (
        "lower training.guidance_scale, try a loss or noise law that keeps more modes (loss.jacobian=none,"
        " a wider training.generator_noise), or stop earlier"
    )

    def figure(self, probe: Probe) -> float | None:
        if probe.x0.shape[1] < 2:
            return None
        spread = float(probe.x0.flatten(2).float().var(dim=1).mean().mul(2).sqrt())
        if not torch.isfinite(torch.tensor(spread)):
            return float("nan")
        most = self.memory["most"] = max(spread, self.memory.get("most", 1e-12))
        return spread / most
