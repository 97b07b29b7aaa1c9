"""What a monitor sees and says."""

from dataclasses import dataclass, field
from typing import Any, ClassVar

from torch import Tensor

from scorefield.denoiser import Condition, Denoiser
from scorefield.registry import Registry


@dataclass
class Probe:
    """A few samples of the averaged generator, drawn the same way at every look.

    Attributes:
        x0: [P, K, …], K samples for each of P conditions, as the loss sees them.
        pictures: [P, K, C, H, W] in [-1, 1], the same samples as people see them; None where there are none.
        condition: what the online score is told of the P * K samples, in that order.
        online: the online score, or None for a loss without one.
    """

    x0: Tensor
    pictures: Tensor | None = None
    condition: Condition = field(default_factory=dict)
    online: Denoiser | None = None

    @property
    def seen(self) -> Tensor:
        """Pictures [P * K, C, H, W] if there are any, else x0."""
        return (self.x0 if self.pictures is None else self.pictures).flatten(0, 1).float()


class Monitor:
    """One failure: its figure, the line that the figure may not cross, and what to say when it does.

    Attributes:
        name: key in the configuration and, as ``monitor/NAME``, in metrics.jsonl.
        line: default line; ``monitors.lines.NAME`` overrules it. above: whether crossing means going above it.
        seen, advice: what is said when the line is crossed.
        memory: what the monitor keeps between looks, numbers and tensors; saved with each checkpoint.
    """

    name: ClassVar[str] = ""
    line: ClassVar[float] = 0.0
    above: ClassVar[bool] = True
    seen: ClassVar[str] = ""
    advice: ClassVar[str] = ""

    def __init__(self) -> None:
        self.memory: dict[str, Any] = {}

    def figure(self, probe: Probe) -> float | None:
        """The figure of this look, None where it cannot be had (too few samples, no picture, first look)."""
        raise NotImplementedError

    def crossed(self, value: float, line: float) -> bool:
        """Whether ``value`` lies on the wrong side of ``line``; a value that is no number does."""
        return not (value <= line if self.above else value >= line)


MONITORS: Registry[type[Monitor]] = Registry(
    "monitor",
    group="scorefield.monitors",
    package="scorefield.monitors",
    wanted=(
        "a subclass of scorefield.monitors.Monitor",
        lambda part: isinstance(part, type) and issubclass(part, Monitor),
    ),
)
