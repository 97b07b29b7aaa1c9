"""Which of several processes this is, before accelerate has been asked: read from what the launcher set."""

import os


def is_main() -> bool:
    """Whether this process writes the run's files: the only one, or rank 0 of those that torchrun started."""
    return int(os.environ.get("RANK", "0")) == 0


def process_count() -> int:
    """How many processes torchrun started; 1 without it."""
    return int(os.environ.get("WORLD_SIZE", "1"))
