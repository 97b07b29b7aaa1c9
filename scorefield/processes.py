"""Which of several processes this is, before accelerate has been asked: read from what the launcher set."""

import os


def process_number() -> int:
    """Rank of this process among all that the launcher started; 0 when it is alone."""
    return int(os.environ.get("RANK", "0"))


def processes() -> int:
    """How many processes the launcher started."""
    return int(os.environ.get("WORLD_SIZE", "1"))


def is_main() -> bool:
    """Whether this process writes the run's files: the only one, or rank 0 of those that torchrun started."""
    return process_number() == 0
