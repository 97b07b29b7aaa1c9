"""Run folders in object storage: work goes on in a local folder, and every finished file is copied to its URL.

``--out s3://bucket/run`` (any protocol of fsspec) works in runs/s3-bucket-run. Copies are made by a thread of their own
after every checkpoint and at the end; a checkpoint's list of checksums goes last, so that a half-copied one is not
taken for whole. Where the local folder is gone, or behind, it is brought back from the URL.
"""

import argparse
import os
import re
import sys
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

from scorefield.errors import UserError
from scorefield.processes import is_main

LAST = ("checkpoint.json", "latest.txt", "best.txt")  # copied after what they speak of, in this order
LEFT_OUT = ("cache",)  # made anew where it is missing
KNOWN: dict[Path, "Mirror"] = {}  # by local folder


def place(text: str) -> Path:
    """A folder on the command line as a path; that of a URL is its local copy, which ``of`` finds the mirror of."""
    if "://" not in text:
        return Path(text)
    name = re.sub(r"[^A-Za-z0-9._]+", "-", text).strip("-")
    if not re.fullmatch(r"[a-z0-9.+]+(::[^:]+)*://.+", text) or not name:
        raise argparse.ArgumentTypeError(f'"{text}" is no URL of a folder, such as s3://bucket/run')
    local = Path("runs") / name
    KNOWN[local] = Mirror(text.rstrip("/"), local)
    return local


def of(folder: Path) -> "Mirror | None":
    """The mirror of a local folder, if it has one."""
    return KNOWN.get(Path(folder))


def name_of(folder: Path) -> str:
    """How a folder was called on the command line."""
    mirror = of(folder)
    return mirror.url if mirror else str(folder)


def finish() -> bool:
    """Copy what is left of every mirrored folder; False, and a line on stderr, where that failed."""
    whole = True
    for mirror in KNOWN.values():
        if mirror.used and is_main():
            mirror.push()
            if why := mirror.wait():
                whole = False
                print(f"scorefield: cannot copy {mirror.local} to {mirror.url}: {why}", file=sys.stderr)
        mirror.used = False
    return whole


class Mirror:
    """A local folder and its copy at ``url``; one process copies.

    Attributes:
        used: whether this command reads or writes it.
    """

    def __init__(self, url: str, local: Path):
        self.url, self.local, self.used = url, Path(local), False
        self._files: Any = None
        self._root = ""
        self._copied: dict[str, tuple[int, int]] = {}  # size and time of what was copied
        self._thread = ThreadPoolExecutor(1, "mirror")
        self._running: Future | None = None

    def open(self) -> Any:
        """fsspec's file system; raises UserError for an unknown protocol or one whose package is missing."""
        if self._files is None:
            import fsspec
            from fsspec.registry import known_implementations

            protocol = self.url.split("://")[0].split("::")[0]
            try:
                self._files, self._root = fsspec.core.url_to_fs(self.url)
            except ImportError as error:
                package = known_implementations.get(protocol, {}).get("class", "").split(".")[0] or str(error)
                raise UserError(f"{self.url} needs the package {package}: pip install {package}") from error
            except ValueError as error:
                raise UserError(f"{self.url}: {error} (file, memory, s3, gs, abfs, hf …)") from error
            except Exception as error:
                raise UserError(f"cannot open {self.url}: {first_line(error)}") from error
        return self._files

    # ------------------------------------------------------------------ from the URL

    def exists(self) -> bool:
        """Whether a run lies at the URL."""
        self.open()
        return bool(self._ask("exists", f"{self._root}/config.yaml"))

    def pull(self) -> None:
        """Bring the folder back where it is missing here, or where the URL's newest checkpoint is newer."""
        self.used = True
        if not is_main() or not self.exists():
            return
        if (self.local / "config.yaml").exists() and self.newest_there() <= newest(self.local):
            return
        remote = self._ask("find", self._root)
        names = [name[len(self._root) :].lstrip("/") for name in remote]
        for name in sorted(names, key=order):
            target = self.local / name
            target.parent.mkdir(parents=True, exist_ok=True)
            part = target.with_name(f".{target.name}.part")
            self._ask("get_file", f"{self._root}/{name}", str(part))
            os.replace(part, target)
            self._copied[name] = mark(target)

    def newest_there(self) -> int:
        """Iteration of the URL's newest checkpoint, -1 for none."""
        pointer = f"{self._root}/checkpoints/latest.txt"
        if not self._ask("exists", pointer):
            return -1
        return number(self._ask("cat_file", pointer).decode())

    def _ask(self, verb: str, *given: Any) -> Any:
        try:
            return getattr(self.open(), verb)(*given)
        except UserError:
            raise
        except Exception as error:
            raise UserError(f"cannot read {self.url}: {first_line(error)}") from error

    # ------------------------------------------------------------------ to the URL

    def push(self) -> None:
        """Copy what is new or changed, and remove pruned checkpoints, in the background; one copy at a time."""
        self.used = True
        if not is_main() or (self._running is not None and not self._running.done()):
            return  # what is new by then goes with the next one
        self._report()
        self.open()
        self._running = self._thread.submit(self._push)

    def wait(self) -> str:
        """Until all that ``push`` was asked for is there; why it is not, or ""."""
        for _ in range(2):  # the first may have been under way before the last files were written
            if self._running is not None:
                self._running.exception()
            self._running = self._thread.submit(self._push)
        error = self._running.exception() if self._running else None
        self._running = None
        return first_line(error) if error else ""

    def _report(self) -> None:
        """Say that the last copy failed; the run goes on, and the next copy tries again."""
        if self._running is not None and (error := self._running.exception()):
            print(f"warning: could not copy to {self.url}: {first_line(error)}; tried again later", file=sys.stderr)

    def _push(self) -> None:
        here = {path.relative_to(self.local).as_posix(): path for path in self.local.rglob("*") if path.is_file()}
        here = {name: path for name, path in here.items() if copied(name)}
        for name in sorted(here, key=order):
            try:
                now = mark(here[name])
                if self._copied.get(name) == now:
                    continue
                self._files.makedirs(f"{self._root}/{name}".rpartition("/")[0], exist_ok=True)
                self._files.put_file(str(here[name]), f"{self._root}/{name}")
                self._copied[name] = now
            except FileNotFoundError:
                continue  # pruned meanwhile
        self._prune()

    def _prune(self) -> None:
        """Remove the checkpoints that are gone here, each one's list of checksums first."""
        folders = {name: "/".join(name.split("/")[:2]) for name in self._copied if name.startswith("checkpoints/iter")}
        for folder in {folder for folder in folders.values() if not (self.local / folder).exists()}:
            there = f"{self._root}/{folder}"
            if self._files.exists(f"{there}/checkpoint.json"):
                self._files.rm_file(f"{there}/checkpoint.json")
            if self._files.exists(there):  # a disk keeps folders, which object storage does not have
                self._files.rm(there, recursive=True)
            for name in [name for name, owner in folders.items() if owner == folder]:
                del self._copied[name]


def copied(name: str) -> bool:
    """Whether a file belongs into the copy: no lock, nothing half-written, nothing that is made anew."""
    parts = name.split("/")
    if parts[-1] == ".metadata":  # torch's index of a sharded checkpoint, without which the shares cannot be read
        parts.pop()
    return not any(part.startswith(".") for part in parts) and parts[0] not in LEFT_OUT


def order(name: str) -> tuple[int, str]:
    """Files before the lists that speak of them."""
    last = name.rpartition("/")[2]
    return (LAST.index(last) + 1 if last in LAST else 0, name)


def mark(path: Path) -> tuple[int, int]:
    """What changes with a file."""
    found = path.stat()
    return found.st_size, found.st_mtime_ns


def number(pointer: str) -> int:
    """N of "iteration-N"."""
    found = re.search(r"(\d+)\s*$", pointer)
    return int(found.group(1)) if found else -1


def newest(folder: Path) -> int:
    """Iteration of a local folder's newest checkpoint, -1 for none."""
    pointer = folder / "checkpoints" / "latest.txt"
    return number(pointer.read_text()) if pointer.exists() else -1


def first_line(error: BaseException | None) -> str:
    """Why, in one line."""
    return (str(error).strip() or type(error).__name__).splitlines()[0]
