"""Inert stand-ins for what a pickle stream names. Nothing here acts, and nothing sets attributes by name."""

from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, slots=True)
class Global:
    """A name (module, name) from the allow-list; never the object of that name."""

    module: str
    name: str

    def __str__(self) -> str:
        return f"{self.module}.{self.name}"


@dataclass(frozen=True, slots=True, eq=False)
class Span:
    """Bytes (or long text, as UTF-8) left in the file."""

    offset: int
    length: int
    is_text: bool = False


@dataclass(frozen=True, slots=True, eq=False)
class Persistent:
    """An object of a persistent class: the class's name, the defining module's text as data, the attributes."""

    class_name: str
    text: Span | str
    state: dict


@dataclass(slots=True, eq=False)
class Container:
    """torch's ModuleDict; ``state`` arrives once, after the object."""

    state: dict | None = None


@dataclass(frozen=True, slots=True, eq=False)
class StorageBytes:
    """A tensor's storage: a stream of its own, read only when a tensor is wanted."""

    span: Span


@dataclass(frozen=True, slots=True, eq=False)
class View:
    """A tensor: a view of a storage, as recorded and unchecked."""

    storage: StorageBytes
    offset: Any
    size: Any
    stride: Any


@dataclass(frozen=True, slots=True, eq=False)
class Parameter:
    """A parameter around a tensor."""

    view: View


@dataclass(slots=True, eq=False)
class NumpyType:
    """A numpy dtype by its code ("f4"); ``little`` once its byte order has arrived."""

    code: str
    little: bool = False


@dataclass(slots=True, eq=False)
class NumpyArray:
    """A numpy array; type, shape and bytes arrive once, after the object."""

    type: NumpyType | None = None
    shape: tuple = ()
    fortran: bool = False
    span: Span | None = None
