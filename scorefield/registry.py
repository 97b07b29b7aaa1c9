"""Typed registries: a part (loss, teacher, generator …) is added by one decorator in its own file.

That file lies in the registry's folder of this repository, or in any installed package that names the part as an
entry point (groups ``scorefield.losses``, ``scorefield.teachers`` …). Neither is imported before a name is asked for.
"""

import importlib
import inspect
import math
import pkgutil
import sys
from collections.abc import Callable, Iterator, Mapping
from types import NoneType, UnionType
from typing import Any, Generic, TypeVar, Union, get_args, get_origin

from scorefield import plugins
from scorefield.errors import UserError, suggest

T = TypeVar("T")


class Registry(Generic[T]):
    """Names of one kind of part. Duplicates are refused, an unknown name lists the known ones.

    Args:
        kind: what a part is called in messages ("loss").
        group: entry-point group in which other distributions offer parts of this kind; None for none.
        package: dotted name of the package whose modules hold the parts; they are imported when one is asked for.
        wanted: (what a part must be, in words; whether an object is one), asked of what a plugin delivers.
    """

    def __init__(
        self,
        kind: str,
        group: str | None = None,
        package: str | None = None,
        wanted: tuple[str, Callable[[Any], bool]] | None = None,
    ):
        self.kind, self.group, self.package, self.wanted = kind, group, package, wanted
        self._parts: dict[str, T] = {}
        self._homes: dict[str, str] = {}  # name to the top-level package whose module registered it
        self._searched = package is None

    def register(self, name: str) -> Callable[[T], T]:
        """Decorator that adds a class or function under ``name``; raises ValueError if it is taken."""
        home = sys._getframe(1).f_globals.get("__name__", "").partition(".")[0]

        def add(part: T) -> T:
            if name in self._parts:
                raise ValueError(f'{self.kind} "{name}" is registered twice: {self._parts[name]!r} and {part!r}')
            self._parts[name], self._homes[name] = part, home
            return part

        return add

    def get(self, name: str) -> T:
        """The part called ``name``, imported if need be.

        Raises:
            UserError: an unknown name (with the nearest known one), a name that two distributions claim, or a plugin
                that delivers something else.
            scorefield.plugins.PluginError: a plugin that cannot be imported; its own error is the cause.
        """
        if not isinstance(name, str):
            raise UserError(f"the name of a {self.kind} is a word, not {name!r}: {suggest('', self)}")
        self._search()
        offers = plugins.offers(self.group, name)
        own = self._homes.get(name) if name in self._parts else None
        plugins.refuse_conflict(self.kind, name, offers, own)
        if name in self._parts:
            return self._parts[name]
        if not offers:
            raise UserError(f'unknown {self.kind} "{name}": {suggest(name, self)}')
        part = plugins.load(self.kind, offers[0])
        if self.wanted is not None and not self.wanted[1](part):
            raise UserError(f'{self.kind} "{name}" of {plugins.origin(offers[0])} is {part!r}, not {self.wanted[0]}')
        self._parts.setdefault(name, part)  # the import may have registered it itself
        self._homes.setdefault(name, plugins.home(offers[0]))
        return self._parts[name]

    def _search(self) -> None:
        """Import the modules of the registry's package, once."""
        if self._searched or self.package is None:
            return
        self._searched = True
        try:
            for module in pkgutil.iter_modules(importlib.import_module(self.package).__path__):
                importlib.import_module(f"{self.package}.{module.name}")
        except BaseException:
            self._searched = False
            raise

    def _names(self) -> set[str]:
        self._search()
        return {*self._parts, *(offer.name for offer in plugins.offers(self.group))}

    def __iter__(self) -> Iterator[str]:
        return iter(sorted(self._names()))

    def __contains__(self, name: object) -> bool:
        return name in self._names()


def check_options(kind: str, name: str, part: Callable[..., Any], options: Mapping[str, Any], given: int) -> None:
    """Raise UserError for an option that ``part``'s signature does not name beyond its first ``given`` arguments.

    So for a value that is not of the plain kind that the signature asks for (see ``check_value``).
    """
    try:
        parameters = list(inspect.signature(part, eval_str=True).parameters.values())
    except NameError:  # an annotation that only a type checker imports
        parameters = list(inspect.signature(part).parameters.values())
    asked = {p.name: p.annotation for p in parameters[given:] if p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY)}
    if not any(p.kind is p.VAR_KEYWORD for p in parameters):
        for key in options:
            if key not in asked:
                raise UserError(f'unknown option "{key}" of {kind} "{name}": {suggest(key, asked)}')
    for key, value in options.items():
        check_value(f'option "{key}" of {kind} "{name}"', value, asked.get(key, Any))


PLAIN = {float: "a finite number", int: "a whole number", str: "a word", bool: "true or false"}


def check_value(what: str, value: Any, annotation: Any) -> None:
    """Raise UserError for a value that is none of the plain types that ``annotation`` allows; NaN is no number.

    Annotations that allow anything but ``float``, ``int``, ``str``, ``bool`` and None are left to the part itself.
    """
    allowed = get_args(annotation) if get_origin(annotation) in (Union, UnionType) else (annotation,)
    wanted = [kind for kind in allowed if kind is not NoneType]
    if any(kind not in PLAIN for kind in wanted) or (value is None and len(wanted) < len(allowed)):
        return
    number = isinstance(value, int | float) and not isinstance(value, bool)
    fits = {
        float: number and math.isfinite(value),
        int: number and isinstance(value, int),
        str: isinstance(value, str),
        bool: isinstance(value, bool),
    }
    if not any(fits[kind] for kind in wanted):
        raise UserError(f"{what} must be {' or '.join(PLAIN[kind] for kind in wanted)}, not {value!r}")


def construct(kind: str, name: str, part: Callable[..., T], options: Mapping[str, Any], *given: Any) -> T:
    """``part(*given, **options)``; an unknown option is refused as by ``check_options``."""
    check_options(kind, name, part, options, len(given))
    return part(*given, **options)
