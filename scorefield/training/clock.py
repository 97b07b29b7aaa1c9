"""Time per phase: events on a GPU, the wall clock elsewhere; the host waits only when the times are read."""

import time
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager

import torch


class PhaseClock:
    """``with clock("teacher"): …`` adds up the seconds of named phases."""

    def __init__(self, device: torch.device):
        self.cuda = device.type == "cuda"
        self._seconds: dict[str, float] = defaultdict(float)
        self._events: list[tuple[str, torch.cuda.Event, torch.cuda.Event]] = []

    @contextmanager
    def __call__(self, phase: str) -> Iterator[None]:
        if not self.cuda:
            start = time.perf_counter()
            yield
            self._seconds[phase] += time.perf_counter() - start
            return
        first, last = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
        first.record()
        yield
        last.record()
        self._events.append((phase, first, last))

    def read(self) -> dict[str, float]:
        """Seconds per phase since the last reading; waits for the device."""
        if self.cuda:
            torch.cuda.synchronize()
            for phase, first, last in self._events:
                self._seconds[phase] += first.elapsed_time(last) / 1000
            self._events = []
        seconds, self._seconds = dict(self._seconds), defaultdict(float)
        return seconds
