"""Saturation: ever more values at the ends of the range, the drift that long distillation is known for."""

from scorefield.monitors.base import MONITORS, Monitor, Probe


@MONITORS.register("saturation")
class Saturation(Monitor):
    """Share of values within 1 % of black or white, less what it was at the start. Healthy Toybox runs: up to 0.04."""

    name = "saturation"
    line = 0.2
    seen = "pictures saturate: many more values lie at the ends of their range than at the start"
    advice = "lower training.guidance_scale or the generator's learning rate, or stop earlier"

    def figure(self, probe: Probe) -> float | None:
        if probe.pictures is None:
            return None
        share = float((probe.seen.abs() > 0.98).float().mean())
        return share - self.memory.setdefault("start", share)
