"""Walking what a file built: bounded in depth and size, and only where a network's weights and settings lie."""

import math
import struct
from dataclasses import dataclass
from typing import Any

from scorefield.importer import limits
from scorefield.importer.errors import ImportRefused, shown
from scorefield.importer.nodes import Container, NumpyArray, Parameter, Persistent, Span, View
from scorefield.importer.official import FORMATS
from scorefield.importer.source import Source


@dataclass(frozen=True)
class Module:
    """What one module of a network recorded about itself; plain data only, tuples as lists.

    Attributes:
        class_name: as stored. args, kwargs: how it was made; kwargs is None where the class recorded nothing.
        attributes: its public plain attributes (numbers, texts, flags, lists of them), which say what was in force.
    """

    class_name: str
    args: list[Any]
    kwargs: dict[str, Any] | None
    attributes: dict[str, Any]


@dataclass(frozen=True)
class Walked:
    """A network's parts, in the order of torch's ``state_dict``.

    Attributes:
        views: tensors still in the file. buffers: names of those that are buffers. modules: by path, "" the network.
        texts: embedded source texts, still in the file, with the classes that brought them.
    """

    views: dict[str, View]
    buffers: set[str]
    modules: dict[str, Module]
    texts: dict[Span | str, set[str]]


class NotPlain(Exception):
    """A setting that is something other than plain data."""


def children(node: Any) -> list[Any]:
    """What a node holds."""
    if type(node) in (list, tuple):
        return list(node)
    if type(node) is dict:
        return list(node.values())
    if type(node) in (Persistent, Container):
        return [node.state]
    return []


def check_nesting(root: Any) -> None:
    """ImportRefused for a structure that holds itself or is nested too deep; needs no recursion of Python's."""
    heights: dict[int, int] = {}
    open_nodes: set[int] = set()
    stack: list[tuple[Any, list[Any]]] = [(root, children(root))]
    open_nodes.add(id(root))
    while stack:
        node, waiting = stack[-1]
        if waiting:
            child = waiting.pop()
            if type(child) not in (list, tuple, dict, Persistent, Container) or id(child) in heights:
                continue
            if id(child) in open_nodes:
                raise ImportRefused("a part of the file holds itself")
            if len(stack) >= limits.NESTING:
                raise ImportRefused(f"its parts are nested more than {limits.NESTING} deep")
            open_nodes.add(id(child))
            stack.append((child, children(child)))
            continue
        stack.pop()
        open_nodes.discard(id(node))
        height = 1 + max((heights.get(id(child), 0) for child in children(node)), default=0)
        if height > limits.NESTING:
            raise ImportRefused(f"its parts are nested more than {limits.NESTING} deep")
        heights[id(node)] = height


class Walker:
    """Walks one network from its root; the walk's budgets are its own."""

    def __init__(self, source: Source):
        self.source = source
        self.settings = self.count = self.entries = 0
        self.walked = Walked({}, set(), {}, {})

    def walk(self, node: Any, path: str = "") -> Walked:
        """Collect parameters, buffers, settings and sub-modules of ``node``; ``check_nesting`` must have passed."""
        self.count += 1
        if self.count > limits.MODULES:
            raise ImportRefused(f"the network has more than {limits.MODULES} modules")
        if len(path) > limits.PATH:
            raise ImportRefused(f"the network has a module whose path is longer than {limits.PATH} letters")
        if type(node) not in (Persistent, Container) or type(node.state) is not dict:
            raise ImportRefused(f'what stands at "{path}" is no module of a network')
        self._look_at(node.state)
        self.walked.modules[path.rstrip(".")] = self._module(node, path)
        state = node.state
        for name, value in self._named(state, "_parameters", path):
            if type(value) is not Parameter:
                raise ImportRefused(f'parameter "{path}{name}" is no parameter')
            self._add(path + name, value.view)
        passing = state.get("_non_persistent_buffers_set", set())
        if type(passing) is not set:
            raise ImportRefused(f'the set of passing buffers of "{path}" is no set')
        for name, value in self._named(state, "_buffers", path):
            if type(value) is not View:
                raise ImportRefused(f'buffer "{path}{name}" is no tensor')
            if name not in passing:
                self._add(path + name, value)
                self.walked.buffers.add(path + name)
        for name, value in self._named(state, "_modules", path):
            self.walk(value, f"{path}{name}.")
        return self.walked

    def _named(self, state: dict, kind: str, path: str) -> list[tuple[str, Any]]:
        """The entries of one of a module's dictionaries, less those that are None."""
        entries = state.get(kind, {})
        if type(entries) is not dict:
            raise ImportRefused(f'{kind} of "{path}" is no dictionary')
        self._look_at(entries)
        for name in entries:
            if type(name) is not str or not 0 < len(name) <= 200 or "." in name or not name.isprintable():
                raise ImportRefused(f'"{shown(name)}" in {kind} of "{path}" is no name')
        return [(name, value) for name, value in entries.items() if value is not None]

    def _look_at(self, entries: dict) -> None:
        """Count what is about to be gone through: a file may show one dictionary in thousands of places."""
        self.entries += len(entries)
        if self.entries > limits.ENTRIES:
            raise ImportRefused(f"the network's modules have more than {limits.ENTRIES} entries")

    def _add(self, name: str, view: View) -> None:
        if name in self.walked.views:
            raise ImportRefused(f'the network has two tensors called "{name}"')
        if len(self.walked.views) >= limits.TENSORS:
            raise ImportRefused(f"the network has more than {limits.TENSORS} tensors")
        self.walked.views[name] = view

    # ------------------------------------------------------------------ settings

    def _module(self, node: Persistent | Container, path: str) -> Module:
        if type(node) is Container:
            return Module("ModuleDict", [], None, {})
        self.walked.texts.setdefault(node.text, set()).add(node.class_name)
        state, where = node.state, f'{node.class_name} at "{path.rstrip(".")}"'
        args = self._required(state.get("_init_args"), f"the arguments of {where}")
        kwargs = self._required(state.get("_init_kwargs"), f"the keyword arguments of {where}")
        if type(args) not in (list, type(None)) or type(kwargs) not in (dict, type(None)):
            raise ImportRefused(f"the arguments of {where} are no list and dictionary")
        attributes = {}
        for name, value in state.items():
            if type(name) is str and not name.startswith("_"):
                try:
                    attributes[name] = self.plain(value)
                except NotPlain:
                    continue
        return Module(node.class_name, args or [], kwargs, attributes)

    def _required(self, value: Any, where: str) -> Any:
        try:
            return self.plain(value)
        except NotPlain as error:
            raise ImportRefused(f"{where} hold {error}, not plain data") from error

    def plain(self, value: Any) -> Any:
        """``value`` as plain data that JSON can hold; NotPlain when it is anything else."""
        self.settings += 1
        if self.settings > limits.SETTINGS:
            raise ImportRefused(f"the network's settings have more than {limits.SETTINGS} items")
        if value is None or type(value) in (bool, int, float, str):
            return value
        if type(value) in (list, tuple):
            return [self.plain(item) for item in value]
        if type(value) is dict:
            if any(type(key) is not str for key in value):
                raise NotPlain("a dictionary with keys that are no text")
            return {key: self.plain(item) for key, item in value.items()}
        if type(value) is NumpyArray and value.type is not None and value.span is not None:
            return self._array(value)
        raise NotPlain(f"a {type(value).__name__.lower()}")

    def _array(self, array: NumpyArray) -> Any:
        """A small numpy array as nested lists."""
        form = FORMATS[array.type.code]
        count = array.span.length // struct.calcsize(form)
        if math.prod(max(axis, 1) for axis in array.shape) > limits.ARRAY_ITEMS:
            raise NotPlain(f"an array of shape {list(array.shape)}")
        self.settings += count
        flat = struct.unpack(f"<{count}{form[1]}", self.source.read(array.span.offset, array.span.length))
        return _folded(list(flat), array.shape, array.fortran)


def _folded(flat: list[Any], shape: tuple[int, ...], fortran: bool) -> Any:
    """Nested lists of ``shape`` from values in C or Fortran order."""
    if not shape:
        return flat[0]
    first, *rest = shape
    if fortran and rest:
        return [_folded(flat[k::first], tuple(rest), True) for k in range(first)]
    step = len(flat) // max(first, 1)
    return [_folded(flat[k * step : (k + 1) * step], tuple(rest), False) for k in range(first)]
