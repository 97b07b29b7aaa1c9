"""SIGTERM, SIGUSR1 (SLURM's, before a time limit) and Ctrl-C: noted while training, raised at once before and after."""

import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager

STOPPING = (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1)


class Interrupted(BaseException):
    """One of ``STOPPING`` arrived, and what was trained is saved. ``status``: for the exit, 128 + its number.

    No ``Exception``: work that carries on after an error of its own must not carry on after this.
    """

    def __init__(self, number: int):
        super().__init__(signal.Signals(number).name)
        self.status = 128 + number


@contextmanager
def handled(by: Callable[[int], None]) -> Iterator[None]:
    """Call ``by`` with the number of each of ``STOPPING`` that arrives; the former handlers come back on exit."""
    old = {number: signal.signal(number, lambda n, frame: by(n)) for number in STOPPING}
    try:
        yield
    finally:
        for number, handler in old.items():
            signal.signal(number, handler)


@contextmanager
def raised() -> Iterator[None]:
    """Raise ``Interrupted`` where the program stands: for work that has nothing to save, before and after training."""

    def stop(number: int) -> None:
        raise Interrupted(number)

    with handled(stop):
        yield
