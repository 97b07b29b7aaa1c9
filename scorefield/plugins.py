"""Parts and tasks from elsewhere: entry points of installed distributions, and task folders.

Nothing is imported before its name is asked for; what is on offer is read from the distributions' metadata.
"""

import functools
import importlib
import sys
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path

from scorefield import resources
from scorefield.errors import UserError, suggest

TASKS = "scorefield.tasks"


class PluginError(RuntimeError):
    """A plugin that cannot be imported; its own error, with its traceback, is the cause."""


@functools.cache
def _found(group: str, paths: tuple[str, ...]) -> tuple[EntryPoint, ...]:
    return tuple(entry_points(group=group))


def offers(group: str | None, name: str | None = None) -> list[EntryPoint]:
    """Entry points of ``group``, all or those called ``name``, as the distributions on sys.path state them."""
    found = _found(group, tuple(sys.path)) if group else ()
    return [point for point in found if name is None or point.name == name]


def origin(point: EntryPoint) -> str:
    """Distribution, version and object of an entry point: "orchard 0.1 (orchard.losses:Apple)"."""
    distribution = f"{point.dist.name} {point.dist.version}" if point.dist else "an unnamed distribution"
    return f"{distribution} ({point.value})"


def home(point: EntryPoint) -> str:
    """Top-level package that an entry point lies in."""
    return point.value.partition(":")[0].strip().partition(".")[0]


def refuse_conflict(kind: str, name: str, found: list[EntryPoint], own: str | None) -> None:
    """Raise UserError if two distributions claim ``name``, or one claims the name of a part that is there already.

    Args:
        found: the offers of that name. own: top-level package that registered ``name``, None if none did; the package
            of the offer itself may have (it was imported).
    """
    if len(found) > 1:
        both = " and ".join(sorted(origin(point) for point in found))
        raise UserError(f'{kind} "{name}" is offered by {both}: uninstall one, or have one renamed')
    if found and own is not None and own != home(found[0]):
        whose = "scorefield's own" if own == "scorefield" else f"registered by {own}"
        raise UserError(
            f'{kind} "{name}" of {origin(found[0])} has the name of one that is {whose}: '
            "have it renamed, or uninstall it"
        )


def load(kind: str, point: EntryPoint):
    """Import what an entry point names; raises PluginError, with the plugin's own error as its cause."""
    try:
        return point.load()
    except Exception as error:
        raise PluginError(f'{kind} "{point.name}" of {origin(point)} cannot be imported') from error


# ---------------------------------------------------------------------- tasks


def task_folders() -> dict[str, Path]:
    """Names and folders of the tasks that come with the package."""
    here = resources.root() / "tasks"
    return {p.name: p for p in sorted(here.glob("*")) if (p / "__init__.py").exists()}


def find_folder(target: str) -> Path:
    """The folder that ``target`` means: a path, or the name of a task that comes along.

    Raises UserError with the nearest name, or with the reason why a folder cannot be a task.
    """
    path, known = Path(target), task_folders()
    if path.is_dir():
        folder = path.resolve()
    elif path.name in known and str(path.parent) in (".", "tasks"):
        folder = known[path.name]
    else:
        raise UserError(f'no task is called "{target}": {suggest(path.name, [*known, *installed_tasks()])}')
    if not folder.name.isidentifier():
        raise UserError(f'task folder "{folder.name}" must be a Python name (letters, digits and _ only)')
    if not (folder / "__init__.py").exists():
        raise UserError(f"{target} is no task: it holds no __init__.py")
    return folder


def lasting_name(target: str) -> str:
    """``target`` as it is found from any working directory: a folder that is none of ours becomes absolute."""
    folder = Path(target).resolve()
    return str(folder) if Path(target).is_dir() and folder not in task_folders().values() else target


def installed_tasks() -> list[str]:
    """Names of the tasks that installed distributions offer."""
    return sorted({point.name for point in offers(TASKS)})


def load_task(target: str):
    """Import the task of a folder or name and return its one ``Task`` subclass.

    A folder wins over a name. An error inside the task's own code is raised as it is (from an installed distribution:
    as the cause of a PluginError). Raises UserError for a name that is unknown or claimed twice.
    """
    if not Path(target).is_dir() and (found := offers(TASKS, target)):
        refuse_conflict("task", target, found, "scorefield" if target in task_folders() else None)
        return _task_of(load("task", found[0]), origin(found[0]))
    folder = find_folder(target)
    bundled = resources.root() / "tasks"
    if folder.parent == bundled and bundled.parent.name == "bundled":
        name = f"scorefield.bundled.tasks.{folder.name}"
    elif (folder.parent / "__init__.py").exists():
        name = f"{folder.parent.name}.{folder.name}"
        _lead_path(folder.parent.parent)
    else:
        name = folder.name
        _lead_path(folder.parent)
    module = importlib.import_module(name)
    origin_folder = Path(module.__file__ or "").resolve().parent
    if origin_folder != folder:
        raise UserError(f"task {folder} is shadowed by another module of the name {name} at {origin_folder}")
    return _task_of(module, f"{folder.name}/__init__.py")


def _task_of(source, where: str):
    """``source`` if it is a Task subclass, else the one that the module ``source`` holds."""
    from scorefield.task import Task

    def is_task(value) -> bool:
        return isinstance(value, type) and issubclass(value, Task) and value is not Task

    if is_task(source):
        return source
    tasks = {value for value in getattr(source, "__dict__", {}).values() if is_task(value)}
    if len(tasks) != 1:
        raise UserError(f"{where} must export exactly one Task subclass, not {len(tasks)}")
    return tasks.pop()


def _lead_path(folder: Path) -> None:
    if str(folder) not in sys.path:
        sys.path.insert(0, str(folder))
