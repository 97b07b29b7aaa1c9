"""Scratch packages leave nothing behind: registries, modules and sys.path are as they were after each test."""

import sys

import pytest

from scorefield.generators.base import GENERATORS
from scorefield.losses import DISTANCES, LOSSES
from scorefield.monitors import MONITORS
from scorefield.noise_laws import NOISE_LAWS
from scorefield.teachers.base import TEACHERS


@pytest.fixture
def visible(monkeypatch):
    """Put a scratch distribution on sys.path: ``visible(folder)``."""
    registries = (LOSSES, DISTANCES, NOISE_LAWS, TEACHERS, GENERATORS, MONITORS)
    for registry in registries:
        registry._search()
    kept = [(dict(registry._parts), dict(registry._homes)) for registry in registries]
    folders: list[str] = []

    def show(folder) -> None:
        folders.append(str(folder))
        monkeypatch.syspath_prepend(str(folder))

    yield show
    for registry, (parts, homes) in zip(registries, kept, strict=True):
        registry._parts, registry._homes = parts, homes
    for name, module in list(sys.modules.items()):
        places = [
            getattr(module, "__file__", None) or "",
            *map(str, getattr(getattr(module, "__spec__", None), "submodule_search_locations", None) or []),
        ]
        if any(place.startswith(folder) for place in places for folder in folders):
            del sys.modules[name]
