"""What the user asks to be compared: a YAML file or words of the command line, read and not yet resolved."""

import json
import re
import shlex
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import yaml

from scorefield import resources
from scorefield.errors import UserError, suggest

KEYS = ("title", "note", "task", "config", "common", "seeds", "budget", "variants")
BUDGETS = ("images", "network_evaluations", "minutes")
NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._+-]*")


@dataclass
class VariantSpec:
    """One variant: its name (a folder's name), its own overrides, and words for the page."""

    name: str
    overrides: list[str]
    title: str = ""
    note: str = ""


@dataclass
class Spec:
    """A comparison as asked for; ``budget`` is {} or one of ``BUDGETS`` with its amount."""

    name: str = "compare"
    title: str = ""
    note: str = ""
    task: str = "text_to_image"
    config: str | None = None
    common: list[str] = field(default_factory=list)
    seeds: list[int] = field(default_factory=lambda: [0])
    budget: dict[str, float] = field(default_factory=dict)
    variants: list[VariantSpec] = field(default_factory=list)

    @property
    def heading(self) -> str:
        """Title of page and table: as given, else the file's name, else the variants' names."""
        names = ", ".join(variant.name for variant in self.variants)
        return self.title or (self.name if self.name != "compare" or len(names) > 60 else names)

    def to_dict(self) -> dict[str, Any]:
        """Plain values for comparison.json; ``from_dict`` takes them back."""
        return asdict(self)

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> "Spec":
        return cls(**values | {"variants": [VariantSpec(**v) for v in values["variants"]]})

    def add(self, variant: VariantSpec) -> None:
        """Take in one more variant; raises UserError for a name that is taken or cannot name a folder."""
        if not NAME.fullmatch(variant.name):
            raise UserError(
                f'variant name "{variant.name}" must be made of letters, digits and . _ + - (it names a folder); '
                "say the rest in title"
            )
        # some file systems hold "SIM" and "sim" for one folder
        if variant.name.casefold() in {v.name.casefold() for v in self.variants}:
            raise UserError(f'two variants are called "{variant.name}": give each a name of its own')
        self.variants.append(variant)


def find(name: str) -> Path:
    """The file that ``name`` means: a path, or one of configs/compare by its bare name.

    Raises UserError with the nearest one.
    """
    path = Path(name)
    if path.is_file():
        return path
    here = resources.root() / "configs" / "compare"
    known = sorted(p.stem for p in here.glob("*.yaml"))
    stem = path.name.removesuffix(".yaml")
    if str(path.parent) == "." and stem in known:
        return here / f"{stem}.yaml"
    raise UserError(f'no comparison is called "{name}": {suggest(stem, known)}')


class _Loader(yaml.SafeLoader):
    """Refuses a key that stands twice in one mapping, which YAML itself lets the last one win."""

    def construct_mapping(self, node, deep=False):
        seen = set()
        keys = [key for key, _ in node.value] if isinstance(node, yaml.MappingNode) else []
        for key in keys:
            if not isinstance(key, yaml.ScalarNode):
                raise UserError(f"line {key.start_mark.line + 1} has a key that is no plain name")
            if key.value in seen:
                raise UserError(f'"{key.value}" stands twice (line {key.start_mark.line + 1}): give each its own name')
            seen.add(key.value)
        return super().construct_mapping(node, deep)


def read(path: Path) -> Spec:
    """Read a comparison file.

    Raises:
        UserError: no YAML, an unknown key, a duplicate name, or a value of the wrong kind.
    """
    try:
        values = yaml.load(path.read_text(encoding="utf-8"), _Loader)  # a SafeLoader
    except UserError as error:
        raise UserError(f"{path}: {error}") from error
    except (OSError, yaml.YAMLError, UnicodeDecodeError) as error:
        raise UserError(f"comparison file {path} is not valid YAML: {' '.join(str(error).split())}") from error
    if not isinstance(values, dict):
        raise UserError(f"comparison file {path} must hold key: value pairs: {', '.join(KEYS)}")
    for key in values:
        if key not in KEYS:
            raise UserError(f'unknown key "{key}" in {path}: {suggest(str(key), KEYS)}')
    spec = Spec(name=path.stem)
    spec.title, spec.note = str(values.get("title") or ""), str(values.get("note") or "")
    spec.task = str(values.get("task") or spec.task)
    spec.config = None if values.get("config") is None else str(values["config"])
    spec.common = overrides_of(values.get("common"), f"common in {path}")
    if "seeds" in values:
        spec.seeds = seeds_of(values["seeds"])
    if values.get("budget"):
        spec.budget = budget_of(values["budget"])
    variants = values.get("variants") or {}
    if not isinstance(variants, dict):
        raise UserError(f"variants in {path} must be a mapping of name: overrides, not {type(variants).__name__}")
    for name, value in variants.items():
        if isinstance(name, bool):
            raise UserError(f"a variant of {path} has a name that YAML reads as {name}: put it in quotes")
        spec.add(variant_of(str(name), value))
    return spec


def variant_of(name: str, value: Any) -> VariantSpec:
    """A variant from YAML: overrides as text, list or mapping; a mapping may hold title, note and overrides too."""
    where, words = f'variant "{name}"', VariantSpec(name, [])
    if isinstance(value, dict):
        rest = {key: v for key, v in value.items() if key not in ("title", "note", "overrides")}
        words.title, words.note = str(value.get("title") or ""), str(value.get("note") or "")
        words.overrides = overrides_of(value.get("overrides"), where) + overrides_of(rest, where)
    else:
        words.overrides = overrides_of(value, where)
    return words


def variant_of_text(text: str) -> VariantSpec:
    """A variant from the command line: "name: key=value key=value"."""
    name, colon, rest = text.partition(":")
    if not colon or "=" in name:
        raise UserError(f'--variant "{text}" must read "name: key=value key=value"')
    return VariantSpec(name.strip(), overrides_of(rest, f'variant "{name.strip()}"'))


def overrides_of(value: Any, where: str) -> list[str]:
    """Overrides key=value from text, a list of texts or mappings, or a (nested) mapping; raises UserError."""
    if value is None:
        return []
    if isinstance(value, dict):
        return _flat(value)
    try:
        words = shlex.split(value) if isinstance(value, str) else value
    except ValueError as error:
        raise UserError(f'{where}: "{value}" has an open quotation mark') from error
    if not isinstance(words, list):
        raise UserError(f"{where} must be a list or a mapping of overrides, not {value!r}")
    found = []
    for word in words:
        if isinstance(word, dict):
            found += _flat(word)
        elif isinstance(word, str) and word.partition("=")[0] and "=" in word:
            found.append(word)
        else:
            raise UserError(f'{where}: "{word}" is not an override: write key=value, for example loss.name=sid')
    return found


def _flat(values: dict, prefix: str = "") -> list[str]:
    found = []
    for key, value in values.items():
        name = f"{prefix}{key}"
        if isinstance(value, dict) and value:
            found += _flat(value, name + ".")
        else:
            found.append(f"{name}={value if isinstance(value, str) else json.dumps(value)}")
    return found


def seeds_of(value: Any) -> list[int]:
    """Seeds from a list, one number, or "0,1,2"; raises UserError for none, a repeated or a negative one."""
    if isinstance(value, str):
        value = [int(part) if part.strip().isdecimal() else part for part in value.split(",") if part.strip()]
    seeds = value if isinstance(value, list) else [value]
    bad = [s for s in seeds if isinstance(s, bool) or not isinstance(s, int) or s < 0]
    if bad or not seeds:
        raise UserError(f"seeds must be a list of whole numbers from 0, for example [0, 1, 2], not {value!r}")
    if repeated := sorted({s for s in seeds if seeds.count(s) > 1}):
        raise UserError(f"seed {repeated[0]} stands twice in seeds {seeds}")
    return seeds


def budget_of(value: Any) -> dict[str, float]:
    """{kind: amount} from a mapping or "kind=amount"; raises UserError unless it is one known kind, above 0."""
    if isinstance(value, str):
        kind, _, amount = value.partition("=")
        value = {kind.strip(): yaml.safe_load(amount.strip() or "null")}
    if not isinstance(value, dict) or len(value) != 1:
        raise UserError(f"budget must name one of {', '.join(BUDGETS)}, for example {{images: 50000}}, not {value!r}")
    ((kind, amount),) = value.items()
    if kind not in BUDGETS:
        raise UserError(f'unknown budget "{kind}": {suggest(str(kind), BUDGETS)}')
    try:
        spent = float(amount)  # YAML reads 5e4 as text
    except (TypeError, ValueError):
        spent = float("nan")
    if not 0 < spent < float("inf"):
        raise UserError(f"budget {kind} must be a positive number, not {value[kind]!r}")
    return {kind: spent}
