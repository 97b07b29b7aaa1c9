"""Whether a run fits into a device's memory and, where it does not, the switches that would make it fit."""

import copy
import dataclasses
import os
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from scorefield.cost.estimate import Estimate
from scorefield.errors import UserError

# what a process takes before it holds a tensor: torch's libraries, and the driver's context on a GPU
RESERVE = {"cuda": 0.6e9, "cpu": 0.5e9}
UNITS = {"KB": 1e3, "MB": 1e6, "GB": 1e9, "TB": 1e12, "KIB": 2**10, "MIB": 2**20, "GIB": 2**30, "TIB": 2**40}
CGROUP = Path("/sys/fs/cgroup/memory.max")

# those that change nothing in what is learned come first
SWITCHES: list[tuple[str, Any]] = [
    ("training.split_guidance", True),
    ("training.ema_device", "cpu"),
    ("training.activation_checkpointing", ["teacher", "online", "generator"]),
    ("training.activation_checkpointing", ["teacher", "online"]),  # where the generator has nothing to cut
    ("training.generator.optimizer", "adamw_8bit"),
    ("training.online.optimizer", "adamw_8bit"),
    ("training.precision", "bf16"),
    ("teacher.dtype", "bfloat16"),
    ("training.sharding", "fsdp2"),
    ("online.kind", "lora"),
    ("generator.kind", "lora"),
]


def read_size(text: str) -> int:
    """Bytes of "80GB" or "79.6 GiB"; raises UserError for anything else."""
    found = re.fullmatch(r"\s*([\d.]+)\s*([KMGT]I?B)\s*", text.upper())
    try:
        size = int(float(found[1]) * UNITS[found[2]]) if found else 0
    except ValueError:
        size = 0
    if size <= 0:
        raise UserError(f'"{text}" is no size of a memory: write 80GB, or 79.6GiB')
    return size


def memory_of(device: str) -> int:
    """Bytes of memory of a device here: of the GPU, else of the machine or of what this process may use of it."""
    if device.startswith("cuda"):
        import torch

        return torch.cuda.get_device_properties(device).total_memory
    machine = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    limit = CGROUP.read_text().strip() if CGROUP.exists() else "max"
    return min(machine, int(limit)) if limit.isdecimal() else machine


def room_on(device: str, memory: int) -> int:
    """Bytes of ``memory`` that are left for tensors."""
    return int(memory - RESERVE.get(device.split(":")[0], 0))


def switches(config: Any, devices: int) -> Iterator[tuple[str, Any]]:
    """Switches of this configuration that are not on yet, accumulation first."""
    training = config.training
    if most := [parts for parts in divisors(training.batch, devices) if parts > training.accumulation]:
        yield "training.accumulation", most[-1]
    network = getattr(config.generator, "kind", "") in ("full", "lora")  # and no field, which is not sharded
    for key, value in SWITCHES:
        path, _, name = key.rpartition(".")
        inside = section(config, path)
        if not hasattr(inside, name) or getattr(inside, name) == value or not taken_by(inside, name, value):
            continue
        if name == "sharding" and (devices == 1 or not network):
            continue
        if name == "split_guidance" and training.guidance_scale == 1 == training.online_guidance_scale:
            continue
        yield key, value


def taken_by(inside: Any, name: str, value: Any) -> bool:
    """Whether a section of the configuration takes the value: generator.kind is not the same thing in every task."""
    try:
        dataclasses.replace(inside, **{name: value})
    except UserError:
        return False
    return True


def divisors(batch: int, devices: int) -> list[int]:
    """Numbers of micro-batches that divide the batch of each device, rising."""
    each = batch // devices
    return [parts for parts in range(1, each + 1) if each % parts == 0]


def with_value(config: Any, key: str, value: Any) -> Any:
    """A copy of the configuration with one key set."""
    config = copy.deepcopy(config)
    path, _, name = key.rpartition(".")
    setattr(section(config, path), name, value)
    return config


def section(config: Any, path: str) -> Any:
    """The section at a dotted path; None where there is none."""
    for name in path.split("."):
        config = getattr(config, name, None)
    return config


def advise(config: Any, room: int, before: Estimate, ask: Callable[[Any], Estimate]) -> str:
    """What to switch on, one after the other until the run fits ``room`` bytes, each with its effect; one clause."""
    taken: list[str] = []
    done: set[str] = set()
    for key, value in switches(config, before.devices):
        if key in done:
            continue
        tried = with_value(config, key, value)
        try:
            after = ask(tried)
        except UserError:
            continue  # this task has no use for it
        if key == "training.accumulation" and after.per_device <= room:
            tried, value, after = gentlest(config, room, before, (tried, after), ask)
        saved = before.per_device - after.per_device
        if saved < 0.005 * before.per_device:
            continue  # no help here
        taken.append(f"{key}={shown(value)} (-{amount(saved)})")
        done.add(key)
        config, before = tried, after
        if before.per_device <= room:
            return f"it would fit, in {amount(before.per_device)}, with {' '.join(taken)}"
    if not taken:
        return "and no switch would help: take a device with more memory"
    return f"even with {' '.join(taken)} it would take {amount(before.per_device)}: take a device with more memory"


def gentlest(config: Any, room: int, before: Estimate, most: tuple[Any, Estimate], ask) -> tuple[Any, int, Estimate]:
    """(configuration, micro-batches, estimate) of the largest micro-batch that fits; memory is linear in its size."""
    batch, now = config.training.batch, config.training.accumulation
    tried, after = most
    ends = (batch / tried.training.accumulation, after.per_device), (batch / now, before.per_device)
    slope = (ends[1][1] - ends[0][1]) / (ends[1][0] - ends[0][0])
    for parts in divisors(batch, before.devices):
        guess = ends[0][1] + slope * (batch / parts - ends[0][0])
        if parts <= now or guess > room or parts == tried.training.accumulation:
            continue
        changed = with_value(config, "training.accumulation", parts)
        found = ask(changed)
        if found.per_device <= room:
            return changed, parts, found
    return tried, tried.training.accumulation, after


def shown(value: Any) -> str:
    """A value as it is written on the command line."""
    if isinstance(value, list):
        return f"[{','.join(map(shown, value))}]"
    return str(value).lower() if isinstance(value, bool) else str(value)


def amount(size: float) -> str:
    """Three figures: "79.9 GB"."""
    unit, name = next(((unit, name) for unit, name in ((1e9, "GB"), (1e6, "MB")) if size >= unit), (1e3, "kB"))
    return f"{size / unit:.3g} {name}"
