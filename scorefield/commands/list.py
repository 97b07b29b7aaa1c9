"""``scorefield list``: what is at hand, read from file names so that it answers at once."""

import argparse
import ast

from scorefield import resources
from scorefield.plugins import task_folders


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """No flags."""


def first_line(path) -> str:
    """First line of a Python file's docstring, without importing it."""
    text = ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))) or ""
    return text.splitlines()[0] if text else ""


def execute(arguments: argparse.Namespace) -> int:
    """Print tasks with their presets, comparisons, losses and assets."""
    from pathlib import Path

    print("tasks")
    for name, folder in task_folders().items():
        print(f"  {name:18} {first_line(folder / '__init__.py')}")
        presets = sorted(p.stem for p in (resources.root() / "configs" / name).glob("*.yaml"))
        if presets:
            print(f"  {'':18} presets: {', '.join(presets)}")
    print("comparisons")
    for path in sorted((resources.root() / "configs" / "compare").glob("*.yaml")):
        title = next((line for line in path.read_text().splitlines() if line.startswith("title: ")), "")
        print(f"  {path.stem:18} {title.removeprefix('title: ')}")
    print("losses")
    here = Path(__file__).resolve().parent.parent / "losses"
    for path in sorted(here.glob("*.py")):
        if path.stem not in ("__init__", "base", "distances", "weighting"):
            print(f"  {path.stem:18} {first_line(path)}")
    print("assets")
    for path in sorted((resources.root() / "assets").glob("*/")):
        print(f"  {path.name}")
    return 0
