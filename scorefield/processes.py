"""Which of several processes this is, before accelerate has been asked: read from what the launcher set."""

import gc
import os
import sys

from scorefield.errors import UserError


def rank() -> int:
    """The number of this process, 0 where it is the only one."""
    return int(os.environ.get("RANK", "0"))


def world() -> int:
    """How many processes torchrun or accelerate launch started, 1 where neither did."""
    return int(os.environ.get("WORLD_SIZE", "1"))


def is_main() -> bool:
    """Whether this process writes the run's files: the only one, or rank 0 of those that were started."""
    return rank() == 0


def leave() -> None:
    """End the exchange with the other processes, when all work is done.

    Gloo's threads may still hold tensors of the last exchange. One that is freed while the interpreter is ending
    aborts the process, whose work was done, with status 134; so the group and its threads end before that.
    """
    distributed = sys.modules.get("torch.distributed")
    if distributed is not None and distributed.is_available() and distributed.is_initialized():
        gc.collect()  # gradient reducers in reference cycles would keep the group's threads alive
        distributed.destroy_process_group()


def announce(text: str) -> None:
    """Print what every process finds alike; the first of them does."""
    if is_main():
        print(text)


def refuse(text: str) -> None:
    """Raise UserError for what every process finds alike: the first one says it, the others end without a word."""
    if is_main():
        raise UserError(text)
    raise SystemExit(2)


def check_launch(batch: int, accumulation: int) -> None:
    """Refuse a batch that does not divide among the processes, and launchers that would shard on their own."""
    for plugin in ("FSDP", "DEEPSPEED", "MEGATRON_LM"):
        if os.environ.get(f"ACCELERATE_USE_{plugin}", "false").lower() in ("true", "1"):
            refuse(
                f"accelerate launch was told to use {plugin}, which takes one model and not three roles: launch without"
                " it (accelerate config: none of them) and give training.sharding=fsdp2"
            )
    parts = world() * accumulation
    if batch < parts:
        refuse(
            f"training.batch {batch} is less than one sample for each of {world()} processes"
            + (f" and {accumulation} accumulation steps" if accumulation > 1 else "")
            + f": raise it to {parts} or start fewer processes"
        )
    if batch % parts:
        refuse(
            f"training.batch {batch} does not divide among {world()} processes"
            + (f" times {accumulation} accumulation steps" if accumulation > 1 else "")
            + f": use {batch // parts * parts} or {-(-batch // parts) * parts}"
        )
