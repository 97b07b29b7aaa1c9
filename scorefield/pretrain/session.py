"""Clock, log and resumable state of one training; the loops of EDM and StyleGAN2 run inside it."""

import math
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from scorefield.errors import UserError
from scorefield.files import write_atomically
from scorefield.pretrain.loop import StageBase, progress_line


class Session:
    """Counts steps and seconds, also over interruptions.

    Args:
        name: of the state file ``out``/state-NAME.pt.
        gather: returns everything the training needs to go on (tensors, numbers, dicts); restore: takes it back.

    Attributes:
        step: finished steps. seconds: of training so far. images: ``step`` times the batch.
    """

    def __init__(
        self,
        name: str,
        config: StageBase,
        *,
        seed: int,
        out: Path,
        device: str,
        gather: Callable[[], dict[str, Any]],
        restore: Callable[[dict[str, Any]], None],
        say: Callable[[str], None] = print,
    ):
        self.name, self.config, self.seed, self.out, self.device, self.say = name, config, seed, out, device, say
        self.gather, self.path = gather, Path(out) / f"state-{name}.pt"
        self.step, self._spent, self._start = 0, 0.0, time.monotonic()
        self._values: dict[str, Tensor] = {}
        self._due: dict[str, float] = {}
        if self.path.exists():
            state = torch.load(self.path, map_location=device, weights_only=True)
            try:
                restore(state["training"])
            except (KeyError, ValueError, RuntimeError) as error:
                raise UserError(f"{self.path} does not fit this configuration: {error}") from error
            self.step, self._spent = state["step"], state["seconds"]
            say(f"{name}: going on from step {self.step}")

    @property
    def seconds(self) -> float:
        return self._spent + time.monotonic() - self._start

    @property
    def images(self) -> int:
        return self.step * self.config.batch

    @property
    def done(self) -> float:
        """Share of the training that is over; 1 and more is its end."""
        return self.config.share(self.step, self.seconds)

    def save(self) -> None:
        """Write the state from which another call goes on."""
        state = {"step": self.step, "seconds": self.seconds, "training": self.gather()}
        write_atomically(self.path, lambda part: torch.save(state, part))

    def due(self, what: str, minutes: float) -> bool:
        """True at most every ``minutes`` (the first time after that long)."""
        now = time.monotonic()
        if now - self._due.setdefault(what, self._start) < 60 * minutes:
            return False
        self._due[what] = now
        return True

    def note(self, values: dict[str, Tensor]) -> None:
        """Scalars of this step for the log; read off the device only when a line is printed."""
        self._values.update(values)

    def steps(self) -> Iterator[torch.Generator]:
        """One generator a step, seeded with (seed, step), as torch's own is; state is saved on the way and at the end.

        Raises:
            UserError: a noted value is not finite (looked at every ten seconds and at the end).
        """
        generator = torch.Generator(self.device)
        first = self.step
        while self.done < 1:
            key = self.seed * 1_000_003 + self.step
            generator.manual_seed(key)
            torch.manual_seed(key)  # dropout and the networks' own noise draw from it
            yield generator
            self.step += 1
            if self.due("log", 1 / 6) or self.step == first + 1:
                self._log(first)
            if self.due("save", self.config.save_minutes):
                self._check()
                self.save()
        if self.step > first:
            self._check()
            self.save()
        self.say(f"{self.name}: {self.step} steps, {self.images} images, {self.seconds:.0f} s")

    def _check(self) -> None:
        values = {key: float(value) for key, value in self._values.items()}
        if not all(math.isfinite(v) for v in values.values()):
            raise UserError(f"{self.name}: the loss is not finite at step {self.step}: {values}")

    def _log(self, first: int) -> None:
        pace = (self.step - first) / max(time.monotonic() - self._start, 1e-9)
        self.say(progress_line(self.name, self._values, self.config, self.step, self.seconds, pace))


class HalfLifeAverage:
    """Exponential average of a network's parameters with a half-life in images and a ramp-up; buffers are copied.

    Args:
        half_life: images after which an old value weighs half. rampup: early on, the half-life is at most this
            share of the images seen so far; 0 is off. (Karras et al. 2022, arXiv:2206.00364, and StyleGAN2-ADA.)
    """

    def __init__(self, source: torch.nn.Module, average: torch.nn.Module, half_life: float, rampup: float):
        self.half_life, self.rampup = half_life, rampup
        self.source: list[Tensor] = list(source.parameters())
        self.target: list[Tensor] = list(average.parameters())
        floats = [(a, b) for a, b in zip(source.buffers(), average.buffers(), strict=True) if a.is_floating_point()]
        self.buffers = [a for a, _ in floats], [b for _, b in floats]

    @torch.no_grad()
    def update(self, batch: int, images: int) -> None:
        """Take in the parameters after ``images`` images, ``batch`` of them new."""
        half_life = min(self.half_life, images * self.rampup) if self.rampup else self.half_life
        torch._foreach_lerp_(self.target, self.source, 1 - 0.5 ** (batch / max(half_life, 1e-8)))
        if self.buffers[0]:
            torch._foreach_copy_(self.buffers[1], self.buffers[0])
