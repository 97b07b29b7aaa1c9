"""The stream inside a tensor's storage: torch.save's legacy layout, or its zip layout, read as data.

``torch.storage._load_from_bytes`` would unpickle these bytes without any filter. Here the pickles inside pass the same
machine with a table of their own, and the raw values are located, not read.

Legacy: pickles of a magic number, of the protocol number and of facts about the writer; a pickle whose persistent id
describes the storage; a pickle of the list of its one key; int64 count; raw values.
Zip: uncompressed entries PREFIX/data.pkl (the persistent id) and PREFIX/data/KEY (raw values), among small others.
"""

import math
import struct
from dataclasses import dataclass
from typing import Any

import torch

from scorefield.importer import limits
from scorefield.importer.errors import ImportRefused, shown
from scorefield.importer.machine import Machine
from scorefield.importer.nodes import Global, Span
from scorefield.importer.source import Source, Stream

MAGIC, PROTOCOL = 0x1950A86A20F9469CFC6C, 1001
STORAGES = {
    "FloatStorage": torch.float32,
    "DoubleStorage": torch.float64,
    "HalfStorage": torch.float16,
    "BFloat16Storage": torch.bfloat16,
    "LongStorage": torch.int64,
    "IntStorage": torch.int32,
    "ShortStorage": torch.int16,
    "CharStorage": torch.int8,
    "ByteStorage": torch.uint8,
    "BoolStorage": torch.bool,
}
END_RECORD, DIRECTORY_ENTRY, LOCAL_ENTRY = b"PK\x05\x06", b"PK\x01\x02", b"PK\x03\x04"


@dataclass(frozen=True)
class Storage:
    """Where a storage's values lie.

    Attributes:
        dtype: of the values. count: how many. offset: byte in the file where they begin.
    """

    dtype: torch.dtype
    count: int
    offset: int


@dataclass(frozen=True)
class Described:
    """The persistent id of a storage."""

    dtype: torch.dtype
    key: str
    count: int


class StorageTable:
    """A storage's pickles name a storage class and describe one storage; nothing is called."""

    def find(self, module: str, name: str) -> Global:
        """A storage class by name."""
        if module != "torch" or name not in STORAGES:
            raise ImportRefused(
                f'the stream inside a tensor names "{shown(module)}.{shown(name)}", which is no storage class; '
                "nothing of it was run"
            )
        return Global(module, name)

    def call(self, function: Global, arguments: tuple) -> Any:
        """Refused."""
        raise ImportRefused(f"the stream inside a tensor calls {function}")

    new = call

    def build(self, target: Any, state: Any) -> None:
        """Refused."""
        raise ImportRefused("the stream inside a tensor sets attributes")

    def persistent(self, identity: Any) -> Described:
        """The description: ("storage", class, key, device, count[, None])."""
        if type(identity) is not tuple or len(identity) not in (5, 6) or identity[0] != "storage":
            raise ImportRefused("the stream inside a tensor describes something other than a storage")
        _, kind, key, device, count = identity[:5]
        if type(kind) is not Global or type(key) is not str or type(device) is not str or type(count) is not int:
            raise ImportRefused("a storage's description is not of the official form")
        if identity[5:] not in ((), (None,)):
            raise ImportRefused("a storage is a part of another one, which official files do not have")
        if count < 0:
            raise ImportRefused(f"a storage has {count} values")
        return Described(STORAGES[kind.name], key, count)


def locate(source: Source, span: Span) -> Storage:
    """Read a storage's description and find its values; raises ImportRefused when anything disagrees."""
    end = span.offset + span.length
    if span.length < 8:
        raise ImportRefused(f"a tensor's storage has only {span.length} bytes")
    first = source.read(span.offset, 4)
    if first == LOCAL_ENTRY:
        return _zip_layout(source, span.offset, end)
    if first[:1] != b"\x80":
        raise ImportRefused("a tensor's storage is neither of torch.save's legacy layout nor of its zip layout")
    return _legacy_layout(source, span.offset, end)


def _legacy_layout(source: Source, start: int, end: int) -> Storage:
    stream, table = Stream(source, start, end, window=1024), StorageTable()

    def value() -> Any:
        return Machine(stream, table, limits.STORAGE_INSTRUCTIONS).run()

    if (magic := value()) != MAGIC or type(magic) is not int:
        raise ImportRefused("a tensor's storage does not begin with torch.save's magic number")
    if (protocol := value()) != PROTOCOL:
        raise ImportRefused(f"a tensor's storage has torch.save protocol {shown(protocol)}; {PROTOCOL} can be read")
    writer = value()
    if type(writer) is not dict or writer.get("little_endian") is not True:
        raise ImportRefused("a tensor's storage was not written on a little-endian machine")
    described, keys = value(), value()
    if type(described) is not Described or keys != [described.key]:
        raise ImportRefused("a tensor's storage does not hold exactly the one storage that it describes")
    count = struct.unpack("<q", stream.take(8))[0]
    if count != described.count:
        raise ImportRefused(f"a storage announces {described.count} values and then {count}")
    return _checked(described, stream.position, end - stream.position)


def _checked(described: Described, offset: int, length: int) -> Storage:
    if described.count * described.dtype.itemsize != length:
        raise ImportRefused(
            f"a storage of {described.count} {str(described.dtype)[6:]} values has {length} bytes of them"
        )
    return Storage(described.dtype, described.count, offset)


# ---------------------------------------------------------------------- zip


def _zip_layout(source: Source, start: int, end: int) -> Storage:
    entries = _directory(source, start, end)
    pickles = [name for name in entries if name.endswith("/data.pkl") and name.count("/") == 1]
    if len(pickles) != 1:
        raise ImportRefused("the zip archive inside a tensor does not hold exactly one data.pkl")
    prefix = pickles[0].removesuffix("data.pkl")
    if f"{prefix}byteorder" in entries:
        offset, length = entries[f"{prefix}byteorder"]
        if length != 6 or source.read(offset, length) != b"little":
            raise ImportRefused("a tensor's storage was not written on a little-endian machine")
    offset, length = entries[pickles[0]]
    stream = Stream(source, offset, offset + length, window=1024)
    described = Machine(stream, StorageTable(), limits.STORAGE_INSTRUCTIONS).run()
    if type(described) is not Described or f"{prefix}data/{described.key}" not in entries:
        raise ImportRefused("the zip archive inside a tensor does not hold the storage that it describes")
    return _checked(described, *entries[f"{prefix}data/{described.key}"])


def _directory(source: Source, start: int, end: int) -> dict[str, tuple[int, int]]:
    """Name -> (byte in the file, length) of a zip archive's entries, all of which must be stored uncompressed."""
    tail = source.read(max(start, end - 22), min(22, end - start))
    if len(tail) < 22 or tail[:4] != END_RECORD:
        raise ImportRefused("the zip archive inside a tensor has no end record")
    disk, first_disk, here, total, length, place, comment = struct.unpack("<HHHHIIH", tail[4:])
    if disk or first_disk or here != total or comment:
        raise ImportRefused("the zip archive inside a tensor is in parts or has a comment")
    if length > limits.ZIP_DIRECTORY_BYTES or start + place + length > end - 22:
        raise ImportRefused(f"the zip archive inside a tensor has a directory of {length} bytes at {place}")
    stream, entries = Stream(source, start + place, start + place + length), {}
    for _ in range(total):
        if stream.take(4) != DIRECTORY_ENTRY:
            raise ImportRefused("the zip archive inside a tensor has a broken directory")
        fields = struct.unpack("<6H3I5H2I", stream.take(42))
        flags, method, packed, size = fields[2], fields[3], fields[7], fields[8]
        name = stream.take(fields[9]).decode("utf-8", "replace")
        stream.skip(fields[10] + fields[11])
        if method or packed != size or flags & 1:
            raise ImportRefused("the zip archive inside a tensor has compressed entries, which torch.save never writes")
        if name in entries:
            raise ImportRefused(f'the zip archive inside a tensor holds "{shown(name)}" twice')
        entries[name] = (_values_of(source, start + fields[15], size, start + place), size)
    return entries


def _values_of(source: Source, place: int, size: int, end: int) -> int:
    """Where an entry's bytes begin, after its local header."""
    if place + 30 > end or source.read(place, 4) != LOCAL_ENTRY:
        raise ImportRefused("the zip archive inside a tensor points to an entry that is not there")
    name, extra = struct.unpack("<HH", source.read(place + 26, 4))
    offset = place + 30 + name + extra
    if offset + size > end:
        raise ImportRefused("the zip archive inside a tensor has an entry that reaches beyond its end")
    return offset


# ---------------------------------------------------------------------- views


@dataclass(frozen=True)
class Stretch:
    """A checked view: the stretch of the file that it spans, and its shape over it.

    Attributes:
        offset: byte of its first value. span: values from its first to its last, both counted.
    """

    dtype: torch.dtype
    offset: int
    span: int
    size: tuple[int, ...]
    stride: tuple[int, ...]

    @property
    def nbytes(self) -> int:
        """Bytes of the stretch."""
        return self.span * self.dtype.itemsize


def check_view(storage: Storage, offset: Any, size: Any, stride: Any) -> Stretch:
    """Check a view against its storage, in whole numbers, before anything is allocated.

    Axes must not overlap (so a stride of 0 is refused): then the view holds at most as many values as it spans.
    """
    if type(size) is not tuple or type(stride) is not tuple or len(size) != len(stride):
        raise ImportRefused("a tensor's sizes and strides do not belong together")
    if len(size) > limits.DIMENSIONS:
        raise ImportRefused(f"a tensor has {len(size)} axes, more than {limits.DIMENSIONS}")
    if any(type(n) is not int or n < 0 for n in (offset, *size, *stride)):
        raise ImportRefused("a tensor has an offset, size or stride that is no whole number of 0 or more")
    if any(n > 1 << 62 for n in (offset, *size, *stride)):
        raise ImportRefused("a tensor has an offset, size or stride of more than 2^62")
    if not math.prod(size):
        if offset > storage.count:
            raise ImportRefused("an empty tensor begins beyond the end of its storage")
        return Stretch(storage.dtype, storage.offset, 0, size, stride)
    last = 0
    for step, length in sorted((s, n) for s, n in zip(stride, size, strict=True) if n > 1):
        if step <= last:
            raise ImportRefused("a tensor repeats values of its storage (a stride of 0, or axes that overlap)")
        last += step * (length - 1)
    if offset + last >= storage.count:
        raise ImportRefused(
            f"a tensor of size {list(size)} reaches value {offset + last} of a storage of {storage.count}"
        )
    return Stretch(storage.dtype, storage.offset + offset * storage.dtype.itemsize, last + 1, size, stride)
