"""The moving average in host memory: the device holds none of it, and does not wait for it."""

from collections.abc import Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import torch
from torch import Tensor

from scorefield.generators.base import Changes
from scorefield.training.player import MovingAverage


class HostAverage(MovingAverage):
    """``MovingAverage`` on the host: after every step the live values are copied there, and a thread averages them.

    The copy runs beside the next iteration, on a stream of its own, from and into pinned memory; only the next step of
    the optimizer waits for it (``before_step``), on the device. The host's processors do the same arithmetic on the
    same values as the device would. It takes twice the average's size in host memory.
    """

    def __init__(self, named: Iterable[tuple[str, Tensor]], half_life: float, rampup: float):
        self._thread = ThreadPoolExecutor(1, "average")
        self._job: Future | None = None
        self._copied: Any = None
        super().__init__(named, half_life, rampup)

    def reset(self, named: Iterable[tuple[str, Tensor]]) -> None:
        self.wait()
        named = list(named)
        self.names, self.live = [n for n, _ in named], [p for _, p in named]
        self.shadow = [on_host(p).copy_(p.detach()) for p in self.live]
        self._arriving = [on_host(p) for p in self.live]
        device = self.live[0].device if self.live else torch.device("cpu")
        self._queue = torch.cuda.Stream(device) if device.type == "cuda" else None

    def follow(self, changes: Changes, named: Iterable[tuple[str, Tensor]]) -> None:
        self.wait()
        super().follow(changes, named)

    @torch.no_grad()
    def update(self, batch: int, images: int) -> None:
        self.wait()  # for the processors, with what arrived an iteration ago
        if self._queue is None:
            self._copy()
        else:
            self._queue.wait_stream(torch.cuda.current_stream(self._queue.device))
            with torch.cuda.stream(self._queue):
                self._copy()
                self._copied = self._queue.record_event()
        self._job = self._thread.submit(self._average, self.share(batch, images), self._copied)

    def _copy(self) -> None:
        for arriving, live in zip(self._arriving, self.live, strict=True):
            arriving.copy_(live.detach(), non_blocking=True)

    @torch.no_grad()
    def _average(self, share: float, copied: Any) -> None:
        if copied is not None:
            copied.synchronize()
        torch._foreach_lerp_(self.shadow, self._arriving, share)

    def before_step(self) -> None:
        if self._copied is not None:
            torch.cuda.current_stream(self._queue.device).wait_event(self._copied)

    def wait(self) -> None:
        """Until nothing is under way."""
        job, self._job = self._job, None
        if job is not None:
            job.result()

    @torch.no_grad()
    def swap(self) -> None:
        self.wait()
        for live, shadow, spare in zip(self.live, self.shadow, self._arriving, strict=True):
            spare.copy_(live.detach())
            live.copy_(shadow)
            shadow.copy_(spare)

    def state_dict(self) -> dict[str, Tensor]:
        self.wait()
        return super().state_dict()

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        self.wait()
        super().load_state_dict(state)


def on_host(like: Tensor) -> Tensor:
    """Room for a tensor in host memory, pinned where it comes from a GPU."""
    return torch.empty_like(like, device="cpu", pin_memory=like.is_cuda, requires_grad=False)
