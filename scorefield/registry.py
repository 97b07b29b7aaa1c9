"""Typed registries: a part (loss, teacher, generator …) is added by one decorator in its own file."""

from collections.abc import Callable, Iterator
from typing import Generic, TypeVar

from scorefield.errors import UserError, suggest

T = TypeVar("T")


class Registry(Generic[T]):
    """Names of one kind of part. Duplicates are refused, an unknown name lists the known ones."""

    def __init__(self, kind: str):
        self.kind = kind
        self._parts: dict[str, T] = {}

    def register(self, name: str) -> Callable[[T], T]:
        """Decorator that adds a class or function under ``name``; raises ValueError if it is taken."""

        def add(part: T) -> T:
            if name in self._parts:
                raise ValueError(f'{self.kind} "{name}" is registered twice: {self._parts[name]!r} and {part!r}')
            self._parts[name] = part
            return part

        return add

    def get(self, name: str) -> T:
        """The part called ``name``; raises UserError with the nearest known name."""
        if name not in self._parts:
            raise UserError(f'unknown {self.kind} "{name}": {suggest(name, self._parts)}')
        return self._parts[name]

    def __iter__(self) -> Iterator[str]:
        return iter(sorted(self._parts))

    def __contains__(self, name: object) -> bool:
        return name in self._parts
