"""Find a task by folder path or by name and import it under its real dotted name."""

import importlib
import sys
from pathlib import Path

from scorefield import resources
from scorefield.errors import UserError, suggest


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
        raise UserError(f'no task is called "{target}": {suggest(path.name, known)}')
    if not folder.name.isidentifier():
        raise UserError(f'task folder "{folder.name}" must be a Python name (letters, digits and _ only)')
    if not (folder / "__init__.py").exists():
        raise UserError(f"{target} is no task: it holds no __init__.py")
    return folder


def load_task(target: str):
    """Import the task of a folder or name and return its one ``Task`` subclass.

    An error inside the task's own code is raised as it is.
    """
    from scorefield.task import Task

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
    origin = Path(module.__file__ or "").resolve().parent
    if origin != folder:
        raise UserError(f"task {folder} is shadowed by another module of the name {name} at {origin}")
    tasks = [t for t in vars(module).values() if isinstance(t, type) and issubclass(t, Task) and t is not Task]
    if len(tasks) != 1:
        raise UserError(f"{folder.name}/__init__.py must export exactly one Task subclass, not {len(tasks)}")
    return tasks[0]


def _lead_path(folder: Path) -> None:
    if str(folder) not in sys.path:
        sys.path.insert(0, str(folder))
