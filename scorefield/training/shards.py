"""Checkpoints that every process writes its share of, through torch.distributed.checkpoint.

A folder like any other checkpoint's, with ``shards/`` in the place of the safetensors files. It can be read by any
number of processes: each reads what its own shares need, and a single one reads everything whole.
"""

import shutil
import warnings
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
import torch.distributed.checkpoint as dcp
from torch import Tensor, nn

from scorefield.errors import UserError
from scorefield.files import flush, reason, write_json
from scorefield.training.checkpoint import checksum

SHARDS = "shards"
Parts = Mapping[str, Mapping[str, Tensor]]


def save(root: Path, iteration: int, parts: Parts, state: dict[str, Any], group: Any = None) -> Path:
    """Write checkpoint ``root``/iteration-NNNNNN, whole or not at all; called by all processes alike.

    Args:
        root: on a disk that all processes see. parts: named tensors of each part, sharded ones among them.
        state: what is no tensor and the same in all processes. group: of all processes; one of its own where a thread
            writes while training uses the default one.

    Raises:
        UserError: in every process, where the disk of one is full or not writable; what was there before stays.
    """
    folder = root / f"iteration-{iteration:06d}"
    part = root / f".{folder.name}.part"
    main = _rank() == 0

    def prepare() -> None:
        shutil.rmtree(part, ignore_errors=True)
        part.mkdir(parents=True)

    def check() -> dict[str, int]:
        mine = (part / SHARDS).glob(f"__{_rank()}_*.distcp")
        return {f"{SHARDS}/{path.name}": checksum(path) for path in mine}

    def close() -> None:
        torch.save(state, part / "state.pt")
        flush(part / "state.pt")  # the shards and their list were, by their writer
        for path in (part / "state.pt", part / SHARDS / ".metadata"):
            sums[str(path.relative_to(part))] = checksum(path)
        write_json(part / "checkpoint.json", {"iteration": iteration, "crc32": sums})
        shutil.rmtree(folder, ignore_errors=True)
        part.rename(folder)

    try:
        _everyone(prepare if main else None, group)
        _write(dict(_flat(parts)), part / SHARDS, group)
        sums: dict[str, int] = {name: value for found in _everyone(check, group) for name, value in found.items()}
        _everyone(close if main else None, group)
    except UserError as error:
        if main:
            shutil.rmtree(part, ignore_errors=True)
        raise UserError(
            f"cannot write checkpoint {folder}: {error} (earlier ones are untouched; free space, then --resume)"
        ) from error
    return folder


def restore(folder: Path, parts: Parts) -> dict[str, Any]:
    """Read a checkpoint into the tensors of ``parts``, in place; returns its state. Called by all processes alike.

    Raises UserError when the tensors are not those that were saved.
    """
    wanted, saved = dict(_flat(parts)), _saved(folder)
    for key in sorted(wanted.keys() | saved.keys()):
        sizes = [tuple(size[key].shape) if key in size else "nothing" for size in (saved, wanted)]
        if sizes[0] != sizes[1]:
            raise UserError(f"checkpoint {folder} does not fit: {key} is {sizes[0]} there and {sizes[1]} here")
    _read(wanted, folder, alone=not dist.is_initialized())
    return torch.load(folder / "state.pt", map_location="cpu", weights_only=True)


def read(folder: Path, parts: list[str] | None = None) -> dict[str, dict[str, Tensor]]:
    """Whole tensors of some parts (all of them if left out), on the CPU, by a process for itself."""
    found = {key: like for key, like in _saved(folder).items() if parts is None or key.split("/")[0] in parts}
    found = {key: torch.empty_like(like, device="cpu") for key, like in found.items()}
    _read(found, folder, alone=True)
    weights: dict[str, dict[str, Tensor]] = {}
    for key, value in found.items():
        part, _, name = key.partition("/")
        weights.setdefault(part, {})[name] = value
    return weights


def moments(module: nn.Module, optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
    """The tensors of an optimizer's state, named after the parameters of ``module`` that they belong to."""
    state = ((name, optimizer.state.get(parameter, {})) for name, parameter in module.named_parameters())
    return {f"{name}/{kind}": value for name, kept in state for kind, value in kept.items()}


def make_moments(folder: Path, part: str, module: nn.Module, optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
    """As ``moments``, with room for what ``part`` of a checkpoint holds and nothing else."""
    parameters = dict(module.named_parameters())
    optimizer.state.clear()
    for key, like in _saved(folder).items():
        name, _, kind = key.removeprefix(f"{part}/").rpartition("/")
        if key.startswith(f"{part}/") and name in parameters:
            parameter = parameters[name]
            scalar = torch.zeros((), dtype=like.dtype, device=parameter.device)
            optimizer.state[parameter][kind] = torch.zeros_like(parameter).detach() if like.ndim else scalar
    return moments(module, optimizer)


def _rank() -> int:
    return dist.get_rank() if dist.is_initialized() else 0


def _flat(parts: Parts) -> Iterator[tuple[str, Tensor]]:
    for part, tensors in parts.items():
        for name, value in tensors.items():
            yield f"{part}/{name}", value.detach()


def _saved(folder: Path) -> dict[str, Tensor]:
    """What a checkpoint holds, as tensors without memory."""
    known = dcp.FileSystemReader(folder / SHARDS).read_metadata().state_dict_metadata
    return {key: torch.empty(it.size, dtype=it.properties.dtype, device="meta") for key, it in known.items()}


def own_group() -> Any:
    """A group of all processes for exchanges of a background thread, None for one process; asked by all together."""
    return dist.new_group(backend="gloo") if dist.is_initialized() else None


def _write(tensors: dict[str, Tensor], folder: Path, group: Any) -> None:
    """Each process its own share; raises UserError in all of them where one cannot."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # one process alone is told that it is not distributed
            dcp.save(tensors, storage_writer=dcp.FileSystemWriter(folder), process_group=group)
    except dcp.CheckpointException as error:
        raise UserError(_cause(error)) from error


def _read(tensors: dict[str, Tensor], folder: Path, alone: bool) -> None:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            dcp.load(tensors, storage_reader=dcp.FileSystemReader(folder / SHARDS), no_dist=alone)
    except dcp.CheckpointException as error:
        raise UserError(f"cannot read checkpoint {folder}: {_cause(error)}") from error


def _cause(error: dcp.CheckpointException) -> str:
    """What failed first, and in which process."""
    rank, (cause, _) = next(iter(error.failures.items()))
    return f"process {rank}: {reason(cause) if isinstance(cause, Exception) else cause}"


def _everyone(act: Callable[[], Any] | None, group: Any) -> list[Any]:
    """Every process does its own; what each returned, in all. Raises UserError in all where one failed."""
    done, problem = None, ""
    try:
        done = act() if act else None
    except Exception as error:
        problem = reason(error)
    ends = [(done, problem)]
    if dist.is_initialized():
        ends = [(None, "")] * dist.get_world_size()
        dist.all_gather_object(ends, (done, problem), group)
    for rank, (_, problem) in enumerate(ends):
        if problem:
            raise UserError(f"process {rank}: {problem}" if len(ends) > 1 else problem)
    return [done for done, _ in ends]
