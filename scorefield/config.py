"""Dataclass schemas, YAML presets and ``key=value`` overrides; the only file that knows OmegaConf.

Order of precedence: dataclass default < YAML < override. Unknown keys, wrong types and impossible
combinations are refused before anything heavy starts.
"""

import dataclasses
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any, TypeVar

from scorefield.errors import UserError, suggest

T = TypeVar("T")


def dotted_keys(schema: Any, prefix: str = "") -> list[str]:
    """All keys of a nested dataclass (type or object) as dotted names, sections included."""
    keys = []
    for item in dataclasses.fields(schema):
        name = prefix + item.name
        keys.append(name)
        if dataclasses.is_dataclass(item.type):
            keys += dotted_keys(item.type, name + ".")
    return keys


def free_sections(schema: Any, prefix: str = "") -> list[str]:
    """Sections marked free: their keys are checked by the part that they name (a loss, a noise law)."""
    sections = []
    for item in dataclasses.fields(schema):
        if item.metadata.get("free"):
            sections.append(prefix + item.name)
        elif dataclasses.is_dataclass(item.type):
            sections += free_sections(item.type, f"{prefix}{item.name}.")
    return sections


def parse_override(text: str, known: Sequence[str], free: Sequence[str] = ()) -> tuple[str, str]:
    """Split ``key=value``; raises UserError for a missing "=" or an unknown key, with the nearest one."""
    key, equals, value = text.partition("=")
    if not equals or not key:
        raise UserError(f'"{text}" is not an override: write key=value, for example training.iterations=100')
    if f"{key}.path" in known and not value.lstrip().startswith("{"):
        key = f"{key}.path"  # generator=FILE: what a section is about is its path
    if key not in known and not key.startswith(tuple(f"{section}." for section in free)):
        raise UserError(f'unknown configuration key "{key}": {_nearest(key, known)}')
    _refuse_no_section(key, value.lstrip().startswith(("{", "$")), known, free)
    return key, value


def _refuse_no_section(key: str, is_section: bool, known: Sequence[str], free: Sequence[str]) -> None:
    """Raise UserError if ``key`` is a section but its value is none."""
    inner = [name for name in known if name.startswith(f"{key}.")]
    if (inner or key in free) and not is_section:
        raise UserError(
            f'configuration key "{key}" is a section: set {inner[0] if inner else key + ".name"} or another'
        )


def _nearest(key: str, known: Sequence[str]) -> str:
    """Suggest full keys first, then keys whose last word is near."""
    import difflib

    near = difflib.get_close_matches(key, known, n=1, cutoff=0.6)
    if not near:
        tails = {name.rsplit(".", 1)[-1]: name for name in known}
        tail = difflib.get_close_matches(key.rsplit(".", 1)[-1], tails, n=1, cutoff=0.6)
        near = [tails[tail[0]]] if tail else []
    if near:
        return f'did you mean "{near[0]}"?'
    return suggest(key.split(".")[0], {name.split(".")[0] for name in known})


def load(schema: type[T], preset: Path | None = None, overrides: Sequence[str] = (), base: dict | None = None) -> T:
    """Build a checked dataclass from its defaults, ``base``, a YAML file and overrides.

    Raises:
        UserError: the file is missing or no YAML, a key is unknown, a value has the wrong type, or a
            dataclass refuses the combination in ``__post_init__``.
    """
    from omegaconf import OmegaConf
    from omegaconf.errors import OmegaConfBaseException

    known, free = dotted_keys(schema), free_sections(schema)
    merged = OmegaConf.structured(schema)
    try:
        layers = [("defaults", OmegaConf.create(base or {}))]
        if preset is not None:
            layers.append((str(preset), _read_yaml(preset)))
        for source, layer in layers:
            _refuse_unknown(dict(OmegaConf.to_container(layer) or {}), known, free, source)  # type: ignore[arg-type]
            merged = _merge(merged, layer, free)
        pairs = [parse_override(text, known, free) for text in overrides]
        if pairs:
            merged = _merge(merged, _dotlist(pairs), free)
        return OmegaConf.to_object(merged)  # type: ignore[return-value]
    except OmegaConfBaseException as error:
        key = getattr(error, "full_key", None)
        first = re.split(r"\n", str(error).strip())[0]
        if "Incompatible value 'None'" in first:
            first = "a value is missing"
        raise UserError(f'configuration key "{key}": {first}' if key else f"configuration: {first}") from error


def given(schema: Any, overrides: Sequence[str]) -> dict[str, str]:
    """Overrides by dotted key, the last of each, before they are read; raises UserError as ``load`` does."""
    return dict(parse_override(text, dotted_keys(schema), free_sections(schema)) for text in overrides)


def _dotlist(pairs: Sequence[tuple[str, str]]):
    """Overrides as a nested configuration; raises UserError for a value that is no YAML."""
    import yaml
    from omegaconf import OmegaConf

    layers = []
    for key, value in pairs:
        try:
            layers.append(OmegaConf.from_dotlist([f"{key}={value}"]))
        except yaml.YAMLError as error:
            raise UserError(f'"{value}", given for {key}, is not valid YAML: is a bracket or quote open?') from error
    return OmegaConf.merge(*layers)


def _merge(merged, layer, free: Sequence[str]):
    """Merge ``layer`` over ``merged``; another ``name`` in a free section drops the options of the old one."""
    from omegaconf import OmegaConf

    for section in free:
        named = OmegaConf.select(layer, f"{section}.name")
        if named is not None and named != OmegaConf.select(merged, f"{section}.name"):
            OmegaConf.update(merged, section, {"name": named}, merge=False)
    return OmegaConf.merge(merged, layer)


def _read_yaml(path: Path):
    from omegaconf import OmegaConf

    if not Path(path).is_file():
        raise UserError(f"configuration file {path} does not exist")
    try:
        loaded = OmegaConf.load(path)
    except Exception as error:
        first = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise UserError(f"configuration file {path} is not valid YAML: {first}") from error
    if not OmegaConf.is_dict(loaded):
        raise UserError(f"configuration file {path} must hold key: value pairs")
    return loaded


def _refuse_unknown(values: dict, known: Sequence[str], free: Sequence[str], source: str, prefix: str = "") -> None:
    for key, value in values.items():
        name = f"{prefix}{key}"
        if name not in known:
            raise UserError(f'unknown configuration key "{name}" in {source}: {_nearest(name, known)}')
        _refuse_no_section(name, isinstance(value, dict), known, free)
        if isinstance(value, dict) and name not in free:
            _refuse_unknown(value, known, free, source, name + ".")


def to_yaml(config: Any) -> str:
    """The resolved configuration as YAML text that ``load`` reads back unchanged."""
    from omegaconf import OmegaConf

    return OmegaConf.to_yaml(OmegaConf.structured(config))


def differences(old: dict, new: dict, prefix: str = "") -> list[str]:
    """Dotted keys whose values differ between two plain nested dicts."""
    changed = []
    for key in sorted(set(old) | set(new)):
        a, b = old.get(key), new.get(key)
        if isinstance(a, dict) and isinstance(b, dict):
            changed += differences(a, b, f"{prefix}{key}.")
        elif a != b:
            changed.append(f"{prefix}{key} ({a} → {b})")
    return changed
