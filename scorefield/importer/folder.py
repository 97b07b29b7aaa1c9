"""A converted network: weights.safetensors beside network.json, written whole or not at all.

Settings may hold infinities (EDM's sigma_max); they are written as Python's json does, ``Infinity``.
"""

import hashlib
import os
import shutil
import tempfile
from dataclasses import asdict
from pathlib import Path
from typing import Any

from scorefield.files import read_json, write_json
from scorefield.importer import limits
from scorefield.importer.errors import ImportRefused, shown
from scorefield.importer.imported import Imported, Provenance
from scorefield.importer.networks import ROLES
from scorefield.importer.source import Source
from scorefield.importer.structure import Module

FORMAT, VERSION = "scorefield network", 1
RECORD, WEIGHTS = "network.json", "weights.safetensors"


def write(imported: Imported, out: Path) -> Path:
    """Write ``imported`` to the folder ``out``, which must not exist or be empty; returns it.

    Raises:
        ImportRefused: the folder holds something, or cannot be written (a full disk); nothing is left behind.
    """
    from safetensors.torch import save_file

    out = Path(out)
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise ImportRefused(f"{out} is there already and not an empty folder; name another with --out")
    part = None
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        part = Path(tempfile.mkdtemp(dir=out.parent, prefix=f".{out.name}.", suffix=".part"))
        part.chmod(0o755)
        # tensors that share memory are cloned apart: safetensors refuses them
        first: dict[int, str] = {}
        plain = {n: t if first.setdefault(id(t), n) == n else t.clone() for n, t in imported.state.items()}
        save_file(plain, part / WEIGHTS)
        (part / WEIGHTS).chmod(0o644)
        with open(part / WEIGHTS, "rb") as file:
            os.fsync(file.fileno())
            digest = hashlib.file_digest(file, "sha256").hexdigest()
        write_json(part / RECORD, _record(imported, digest))
        part.rename(out)
    except ImportRefused:
        raise
    except Exception as error:  # a full disk reaches us as OSError, UserError or SafetensorError
        raise ImportRefused(f"cannot write {out}: {error} (nothing was changed)") from error
    finally:
        if part is not None:
            shutil.rmtree(part, ignore_errors=True)
    return out


def _record(imported: Imported, digest: str) -> dict[str, Any]:
    tensors = [
        {"name": name, "shape": list(t.shape), "dtype": str(t.dtype)[6:], "buffer": name in imported.buffers}
        for name, t in imported.state.items()
    ]
    return {
        "format": FORMAT,
        "version": VERSION,
        "class_name": imported.class_name,
        "args": imported.args,
        "kwargs": imported.kwargs,
        "provenance": asdict(imported.provenance),
        "weights_sha256": digest,
        "tensors": tensors,
        "modules": {path: asdict(module) for path, module in imported.modules.items()},
    }


def read(path: Path, network: str | None) -> Imported:
    """Read a converted folder; raises ImportRefused when it is none, damaged, or of another network."""
    from safetensors.torch import load_file

    record_path, weights_path = path / RECORD, path / WEIGHTS
    if not record_path.is_file():
        raise ImportRefused(f"the folder holds no {RECORD}: give an official .pkl file, or a folder made from one")
    if record_path.stat().st_size > limits.FOLDER_RECORD_BYTES:
        raise ImportRefused(f"{RECORD} is larger than {limits.FOLDER_RECORD_BYTES} bytes")
    record = read_json(record_path)
    if not isinstance(record, dict) or record.get("format") != FORMAT or record.get("version") != VERSION:
        raise ImportRefused(f"{RECORD} is not a network record of version {VERSION}")
    class_name, args, kwargs, provenance, modules, tensors = _checked(record)
    if network not in (None, provenance.network):
        raise ImportRefused(f'the folder has no network "{network}"; it holds {provenance.network} ({class_name})')
    with Source(weights_path) as weights:
        if weights.digest() != record.get("weights_sha256"):
            raise ImportRefused(f"{WEIGHTS} is truncated or changed")
    stored = load_file(weights_path)
    if {name: (list(t.shape), str(t.dtype)[6:]) for name, t in stored.items()} != {
        name: (shape, dtype) for name, (shape, dtype, _) in tensors.items()
    }:
        raise ImportRefused(f"{WEIGHTS} and {RECORD} do not list the same tensors")
    state = {name: stored[name] for name in tensors}
    buffers = frozenset(name for name, (_, _, is_buffer) in tensors.items() if is_buffer)
    return Imported(class_name, args, kwargs, state, buffers, modules, provenance)


def _checked(record: dict[str, Any]) -> tuple[str, list, dict, Provenance, dict[str, Module], dict[str, tuple]]:
    """The record's parts, of the kinds that ``_record`` writes."""
    try:
        provenance = Provenance(**record["provenance"])
        modules = {path: Module(**module) for path, module in record["modules"].items()}
        tensors = {t["name"]: (list(t["shape"]), t["dtype"], t["buffer"]) for t in record["tensors"]}
        class_name, args, kwargs = (record[key] for key in ("class_name", "args", "kwargs"))
    except (KeyError, TypeError, AttributeError) as error:
        raise ImportRefused(f"{RECORD} lacks an entry or has one of the wrong kind ({error})") from error
    kinds = [(class_name, str), (args, list), (kwargs, dict), (provenance.size, int), (provenance.sources, dict)]
    kinds += [(getattr(provenance, name), str) for name in ("file", "sha256", "network", "dialect")]
    for module in modules.values():
        kinds += [(module.class_name, str), (module.args, list), (module.attributes, dict)]
        kinds += [(module.kwargs, dict)] if module.kwargs is not None else []
    if wrong := [value for value, kind in kinds if not isinstance(value, kind)]:
        raise ImportRefused(f"{RECORD} has an entry of the wrong kind: {shown(wrong[0])}")
    if class_name not in ROLES:
        raise ImportRefused(f'{RECORD} names the class "{shown(class_name)}", which is none of {", ".join(ROLES)}')
    return class_name, args, kwargs, provenance, modules, tensors
