"""From checked views to tensors: each is read once, straight into its own memory."""

import os

import torch
from torch import Tensor

from scorefield.importer.errors import ImportRefused
from scorefield.importer.nodes import StorageBytes, View
from scorefield.importer.source import Source
from scorefield.importer.storages import Storage, Stretch, check_view, locate


def materialise(source: Source, views: dict[str, View]) -> dict[str, Tensor]:
    """Read the tensors of ``views``, in their stored dtypes, contiguous and on the CPU.

    All views are checked before the first byte of memory is asked for: together they may span no more bytes than
    the file has, and no more than the machine has free. A view under two names is read once.

    Raises:
        ImportRefused: a storage or a view is not sound, or there is not enough memory.
    """
    storages: dict[StorageBytes, Storage] = {}
    stretches: dict[View, Stretch] = {}
    total = 0
    for name, view in views.items():
        if view in stretches:
            continue
        try:
            if view.storage not in storages:
                storages[view.storage] = locate(source, view.storage.span)
            stretches[view] = check_view(storages[view.storage], view.offset, view.size, view.stride)
        except ImportRefused as error:
            raise ImportRefused(f'tensor "{name}": {error}') from error
        total += stretches[view].nbytes
        if total > source.size:
            raise ImportRefused(f"its tensors span {total} bytes or more, but the file has {source.size}")
    if total > (free := free_memory()):
        raise ImportRefused(f"its tensors need {total} bytes of memory and the machine has {free} free")
    tensors = {view: read(source, stretch) for view, stretch in stretches.items()}
    return {name: tensors[view] for name, view in views.items()}


def read(source: Source, stretch: Stretch) -> Tensor:
    """One tensor from the file."""
    flat = torch.empty(stretch.span, dtype=stretch.dtype)
    raw = flat.view(torch.uint8)
    if stretch.span:
        source.fill(stretch.offset, memoryview(raw.numpy()))  # type: ignore[arg-type]
    if stretch.dtype == torch.bool and bool((raw > 1).any()):
        raise ImportRefused("a tensor of truth values holds bytes other than 0 and 1")
    return flat.as_strided(stretch.size, stretch.stride).contiguous()


def free_memory() -> int:
    """Bytes that can be had without swapping; a very large number where the system does not say."""
    try:
        with open("/proc/meminfo", encoding="ascii") as file:
            for line in file:
                if line.startswith("MemAvailable:"):
                    return int(line.split()[1]) << 10
        return os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (OSError, ValueError, AttributeError):
        return 1 << 62
