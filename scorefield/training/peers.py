"""The other processes of a run: whether their devices are alike, and what to say when one of them is gone."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch
import torch.distributed as dist

from scorefield.training.session import Session

# how gloo, NCCL and the store say that the other side has ended or no longer answers
SIGNS = ("closed by peer", "reset by peer", "Broken pipe", "gloo/transport", "NCCL", "Timed out waiting", "timed out")


class PeerLost(Exception):
    """Another process ended before the run did; this one cannot go on alone."""

    status = 4


def of_a_peer(error: BaseException) -> bool:
    """Whether an error is that of an exchange in which another process no longer took part."""
    return isinstance(error, dist.DistError) or (
        isinstance(error, RuntimeError) and any(sign in str(error) for sign in SIGNS)
    )


@contextmanager
def watched(session: Session, again: str) -> Iterator[None]:
    """Raise PeerLost, with the last checkpoint and the command ``again`` that goes on, for a process that is gone."""
    accelerator = session.trainer.accelerator
    try:
        yield
    except RuntimeError as error:
        if accelerator.num_processes == 1 or not of_a_peer(error):
            raise
        pointer = session.folder.checkpoints / "latest.txt"
        kept = f"the last checkpoint is {pointer.read_text().strip()}" if pointer.exists() else "nothing was saved yet"
        who = f"process {accelerator.process_index} of {accelerator.num_processes}"
        raise PeerLost(
            f"another process of this run has ended, so {who} stops at iteration {session.iteration}; {kept}; "
            f"go on with: {again}"
        ) from error


def mixed(names: Sequence[str]) -> str:
    """One sentence about processes on unlike devices, "" where all are alike; ``names`` by rank."""
    kinds = {name: [rank for rank, other in enumerate(names) if other == name] for name in names}
    if len(kinds) < 2:
        return ""
    told = ", ".join(f"{name} ({_ranks(ranks)})" for name, ranks in kinds.items())
    return f"the processes run on unlike devices, {told}: the slowest sets the pace and the smallest memory the limit"


def _ranks(ranks: Sequence[int]) -> str:
    return f"process{'es' if len(ranks) > 1 else ''} {', '.join(map(str, ranks))}"


def unlike_devices(device: torch.device) -> str:
    """``mixed`` of all processes' devices; asked by all of them together."""
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else device.type
    names = [name] * (dist.get_world_size() if dist.is_initialized() else 1)
    if len(names) > 1:
        dist.all_gather_object(names, name)
    return mixed(names)
