"""Which of several processes this is, before accelerate has been asked: read from what the launcher set."""

import os


def rank() -> int:
    """The number of this process, 0 where there is only one."""
    return int(os.environ.get("RANK", "0"))


def is_main() -> bool:
    """Whether this process writes the run's files: the only one, or rank 0 of those that torchrun started."""
    return rank() == 0
