"""Reading an official pickle, or the folder that it was converted to, into an ``Imported``."""

import hashlib
from pathlib import Path

from scorefield.importer import folder
from scorefield.importer.errors import ImportRefused
from scorefield.importer.imported import Imported, Provenance
from scorefield.importer.kinds import check_start
from scorefield.importer.machine import Machine
from scorefield.importer.networks import choose, dialect
from scorefield.importer.nodes import Span
from scorefield.importer.official import OfficialTable
from scorefield.importer.source import Source, Stream
from scorefield.importer.structure import Walked, Walker, check_nesting
from scorefield.importer.tensors import materialise


def load(path: Path | str, network: str | None = None) -> Imported:
    """Read one network out of an official pickle, or out of a folder that ``scorefield import`` wrote.

    Reads the pickles of stylegan2-ada-pytorch, stylegan3 (its StyleGAN2 networks), edm (baselines included) and edm2.
    Nothing that the file holds is imported, compiled or run, and only the network asked for is read into memory.

    Args:
        path: file or folder. network: the file's key, such as "G_ema", "G", "D" or "ema"; None takes the first of
            G_ema, ema, G that is there.

    Raises:
        ImportRefused: for every failure whatever: nothing there, unreadable, damaged, hostile, of another kind, too
            large, or without that network (the text lists those that are there).
    """
    path = Path(path)
    try:
        return folder.read(path, network) if path.is_dir() else _load_pickle(path, network)
    except ImportRefused as error:
        raise ImportRefused(f"cannot import {path}: {error}") from error
    except Exception as error:  # a reader of hostile files has one way to fail, whatever was overlooked
        raise ImportRefused(f"cannot import {path}: {type(error).__name__}: {error}") from error


def _load_pickle(path: Path, network: str | None) -> Imported:
    with Source(path) as source:
        check_start(source)
        top = Machine(Stream(source, 0, source.size), OfficialTable(source)).run()
        check_nesting(top)
        key, node = choose(top, network)
        walked = Walker(source).walk(node)
        family = dialect(top, walked.modules)
        state = materialise(source, walked.views)
        provenance = Provenance(path.name, source.digest(), source.size, key, family, _sources(source, walked))
        source.check_unchanged()
    root = walked.modules[""]
    buffers = frozenset(walked.buffers)
    return Imported(root.class_name, root.args, root.kwargs or {}, state, buffers, walked.modules, provenance)


def _sources(source: Source, walked: Walked) -> dict[str, list[str]]:
    """SHA-256 of each embedded text -> classes."""
    found: dict[str, set[str]] = {}
    for text, names in walked.texts.items():
        if isinstance(text, Span):
            digest = source.digest(text.offset, text.length)
        else:
            digest = hashlib.sha256(text.encode()).hexdigest()
        found.setdefault(digest, set()).update(names)
    return {digest: sorted(names) for digest, names in found.items()}
