"""Keeps all monitors of a run: asks them at each look, notes crossings, says once what was seen."""

from typing import Any

from scorefield.monitors import brightness, diversity, lag, noise, saturation, texture  # noqa: F401 (they register)
from scorefield.monitors.base import MONITORS, Monitor, Probe
from scorefield.training.settings import MonitorsConfig


class Watch:
    """The monitors of one run.

    Attributes:
        warnings: one record an episode: monitor, iteration, value, line, text. good: no line is crossed now.
    """

    def __init__(self, config: MonitorsConfig, iterations: int):
        for name in config.lines:
            MONITORS.get(name)
        self.config, self.iterations = config, iterations
        self.monitors: dict[str, Monitor] = {name: MONITORS.get(name)() for name in config.enabled}
        self.count = dict.fromkeys(self.monitors, 0)  # looks in a row beyond the line
        self.warnings: list[dict[str, Any]] = []

    @property
    def good(self) -> bool:
        return not any(self.count.values())

    def line(self, name: str) -> float:
        """The line of a monitor: configured, else its own."""
        return float(self.config.lines.get(name, self.monitors[name].line))

    def look(self, probe: Probe, iteration: int) -> tuple[dict[str, float], list[dict[str, Any]]]:
        """Figures for metrics.jsonl, and the warnings that begin with this look."""
        figures, fresh = {}, []
        for name, monitor in self.monitors.items():
            value = monitor.figure(probe)
            if value is None:
                continue
            figures[f"monitor/{name}"] = value
            line = self.line(name)
            beyond = monitor.crossed(value, line) and iteration > self.config.grace * self.iterations
            self.count[name] = self.count[name] + 1 if beyond else 0
            if self.count[name] == self.config.patience:
                side = "above" if monitor.above else "below"
                text = (
                    f"{monitor.seen} (monitor/{name} is {value:.3g} at iteration {iteration}, {side} its line of"
                    f" {line:g}); try: {monitor.advice}"
                )
                fresh.append({"monitor": name, "iteration": iteration, "value": value, "line": line, "text": text})
        self.warnings += fresh
        return figures, fresh

    def state(self) -> dict[str, Any]:
        """What a resumed run needs to go on watching."""
        memories = {name: monitor.memory for name, monitor in self.monitors.items()}
        return {"memories": memories, "count": dict(self.count), "warnings": list(self.warnings)}

    def load_state(self, state: dict[str, Any]) -> None:
        """Take back what ``state`` gave; monitors that were not enabled then start afresh."""
        for name, monitor in self.monitors.items():
            monitor.memory = dict(state["memories"].get(name, {}))
            self.count[name] = state["count"].get(name, 0)
        self.warnings = list(state["warnings"])
