"""The file being read: positioned reads through one descriptor, never a mapping and never the whole.

Reads are copies made by ``pread``, so a file that shrinks while it is read ends in an error and not in a signal,
and bytes that nobody asks for never count as this process's memory.
"""

import hashlib
import os
import stat
from pathlib import Path

from scorefield.importer import limits
from scorefield.importer.errors import ImportRefused

CHUNK = 1 << 20


class Source:
    """A regular file opened for reading; use as a context manager.

    Raises ImportRefused when the path is missing, no regular file, empty, or larger than the limit.
    """

    def __init__(self, path: Path):
        self.path = Path(path)
        try:
            # a pipe would block an ordinary open for ever
            self._descriptor = os.open(self.path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0))
        except (OSError, ValueError) as error:
            raise ImportRefused(f"cannot read: {getattr(error, 'strerror', None) or error}") from error
        try:
            self._status = os.fstat(self._descriptor)
            self.size = self._status.st_size
            if not stat.S_ISREG(self._status.st_mode):
                kind = "a folder" if stat.S_ISDIR(self._status.st_mode) else "no regular file"
                raise ImportRefused(f"it is {kind}; give the network's file itself")
            if not self.size:
                raise ImportRefused("the file is empty")
            if self.size > limits.FILE_BYTES:
                raise ImportRefused(f"the file has {self.size} bytes, more than the limit of {limits.FILE_BYTES}")
        except BaseException:
            os.close(self._descriptor)
            raise

    def __enter__(self) -> "Source":
        return self

    def __exit__(self, *_: object) -> None:
        os.close(self._descriptor)

    def read(self, offset: int, count: int) -> bytes:
        """Exactly ``count`` bytes from ``offset``; ImportRefused when the file ends before."""
        if offset < 0 or count < 0 or offset + count > self.size:
            raise ImportRefused(f"the file ends at byte {self.size}, inside something that should reach further")
        data = os.pread(self._descriptor, count, offset)
        if len(data) != count:
            raise ImportRefused("the file became shorter while it was read")
        return data

    def fill(self, offset: int, target: memoryview) -> None:
        """Fill ``target`` (bytes) from ``offset``, without a second copy in memory."""
        if offset < 0 or offset + len(target) > self.size:
            raise ImportRefused(f"the file ends at byte {self.size}, inside the values of a tensor")
        done = 0
        while done < len(target):
            got = os.preadv(self._descriptor, [target[done:]], offset + done)
            if not got:
                raise ImportRefused("the file became shorter while it was read")
            done += got

    def digest(self, offset: int = 0, count: int | None = None) -> str:
        """SHA-256 of a stretch (of the whole file by default), read in pieces."""
        end = self.size if count is None else offset + count
        hasher, piece = hashlib.sha256(), memoryview(bytearray(min(CHUNK, max(end - offset, 1))))
        while offset < end:
            part = piece[: min(CHUNK, end - offset)]
            self.fill(offset, part)
            hasher.update(part)
            offset += len(part)
        return hasher.hexdigest()

    def check_unchanged(self) -> None:
        """ImportRefused when the file was written to since it was opened."""
        now = os.fstat(self._descriptor)
        if (now.st_size, now.st_mtime_ns) != (self.size, self._status.st_mtime_ns):
            raise ImportRefused("the file was changed while it was read; import it again when it is whole")


class Stream:
    """A forward reader over bytes ``start`` to ``end`` of a source, for the pickle machine.

    Args:
        window: bytes fetched at a time.
    """

    def __init__(self, source: Source, start: int, end: int, window: int = 1 << 16):
        self.source, self.end, self._window = source, end, window
        self._buffer, self._place, self._base = b"", 0, start

    @property
    def position(self) -> int:
        """Place in the file of the next byte."""
        return self._base + self._place

    def take(self, count: int) -> bytes:
        """The next ``count`` bytes; ImportRefused when the stream ends before."""
        stop = self._place + count
        if stop > len(self._buffer):
            self._refill(count)
            stop = count
        piece = self._buffer[self._place : stop]
        self._place = stop
        return piece

    def _refill(self, count: int) -> None:
        position = self.position
        if count > self.end - position:
            raise ImportRefused(
                f"the data end at byte {self.end}, inside something that should reach further: it is cut short"
            )
        self._buffer = self.source.read(position, min(max(count, self._window), self.end - position))
        self._base, self._place = position, 0

    def line(self, limit: int) -> bytes:
        """Bytes up to the next newline, which is swallowed; ImportRefused beyond ``limit`` bytes."""
        if (stop := self._buffer.find(b"\n", self._place, self._place + limit + 1)) < 0:
            self._refill(min(limit + 1, self.end - self.position))
            stop = self._buffer.find(b"\n", 0, limit + 1)
        if stop < 0:
            raise ImportRefused(f"no line of {limit} bytes or less where a name should stand")
        piece = self._buffer[self._place : stop]
        self._place = stop + 1
        return piece

    def skip(self, count: int) -> int:
        """Pass over ``count`` bytes without reading them; returns where they begin."""
        position = self.position
        if count > self.end - position:
            raise ImportRefused(
                f"{count} bytes are announced at byte {position}, but only {self.end - position} follow: "
                "it is cut short or damaged"
            )
        if self._place + count <= len(self._buffer):
            self._place += count
        else:
            self._buffer, self._base, self._place = b"", position + count, 0
        return position
