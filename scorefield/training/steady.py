"""The online score averaged over its own updates, for the generator to follow in place of the newest one."""

from collections.abc import Iterator
from contextlib import contextmanager

from torch import Tensor, nn

from scorefield.training.player import MovingAverage


class SteadyScore:
    """An exponential moving average of a score's trainable parameters.

    A score that is trained on batches jumps about the one that it would settle at. Where generator and teacher are
    close, the jumps are larger than what the two scores differ by, and Adam makes steps of full size of them. The
    average lags behind, but does not jump.

    Args:
        online: its trainable parameters are averaged.
        half_life: in images that the score has learnt from; 0 switches the average off.
    """

    def __init__(self, online: nn.Module, half_life: float):
        named = [(name, p) for name, p in online.named_parameters() if p.requires_grad] if half_life else []
        self.average = MovingAverage(named, half_life, 0.0)

    def update(self, images: int) -> None:
        """Follow an update on ``images`` samples."""
        if self.average.live:
            self.average.update(images, 0)

    @contextmanager
    def read(self) -> Iterator[None]:
        """The score with its averaged weights within; gradients of what was asked must be taken within as well."""
        if not self.average.live:
            yield
            return
        self.average.swap()
        try:
            yield
        finally:
            self.average.swap()

    def state_dict(self) -> dict[str, Tensor]:
        return self.average.state_dict()

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        """Take back what ``state_dict`` gave; without that an average begins at the present weights."""
        if self.average.live and state:
            self.average.load_state_dict(state)
        elif self.average.live:
            self.average.reset(zip(self.average.names, self.average.live, strict=True))
