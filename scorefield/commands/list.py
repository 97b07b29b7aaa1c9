"""``scorefield list``: what is at hand, read from files and metadata so that it answers at once."""

import argparse
import ast
from pathlib import Path

from scorefield import plugins, resources

PACKAGE = Path(__file__).resolve().parent.parent
# heading, entry-point group, files whose ``register("name")`` calls hold the parts
KINDS = (
    ("losses", "scorefield.losses", "losses/*.py"),
    ("distances", "scorefield.distances", "losses/distances.py"),
    ("teachers", "scorefield.teachers", "teachers/*.py"),
    ("generators", "scorefield.generators", "generators/*.py"),
    ("monitors", "scorefield.monitors", "monitors/*.py"),
    ("scores", "scorefield.scores", "evaluation/scores/*.py"),
    ("noise laws", "scorefield.noise_laws", "noise_laws.py"),
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """No flags."""


def first_line(text: str | None) -> str:
    """First line of a docstring, "" where there is none."""
    return (text or "").split("\n")[0]


def registered(path: Path) -> dict[str, str]:
    """Names that a file registers, each with its docstring's first line, without importing the file.

    A part alone in its file is told by the file's docstring, the others by their own.
    """
    tree = ast.parse(path.read_text(encoding="utf-8"))
    found: dict[str, str] = {}
    for node in ast.walk(tree):
        for call in node.decorator_list if isinstance(node, ast.ClassDef | ast.FunctionDef) else []:
            if name := _registered_name(call):
                found[name] = first_line(ast.get_docstring(node))  # type: ignore[arg-type]
        if (
            isinstance(node, ast.Expr)
            and isinstance(node.value, ast.Call)
            and (name := _registered_name(node.value.func))
        ):
            found[name] = ""
    if len(found) == 1:
        found = dict.fromkeys(found, first_line(ast.get_docstring(tree)))
    return found


def _registered_name(node: ast.AST) -> str | None:
    """The name in ``REGISTRY.register("name")``."""
    if not (isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr == "register"):
        return None
    first = node.args[0] if node.args else None
    return first.value if isinstance(first, ast.Constant) and isinstance(first.value, str) else None


def print_parts(heading: str, own: dict[str, str], group: str) -> None:
    """One kind: our own, then what installed distributions offer; a name that is claimed twice is marked."""
    print(heading)
    told = {name: text for name, text in own.items() if text}
    for name, text in told.items():
        print(f"  {name:18} {text}")
    if silent := [name for name in own if name not in told]:
        print(f"  {', '.join(silent)}")
    offers = sorted(plugins.offers(group), key=lambda point: (point.name, plugins.origin(point)))
    names = [point.name for point in offers]
    for point in offers:
        twice = point.name in own or names.count(point.name) > 1
        print(f"  {point.name:18} from {plugins.origin(point)}{', REFUSED: the name is taken twice' if twice else ''}")


def execute(arguments: argparse.Namespace) -> int:
    """Print tasks with their presets, comparisons, every kind of part, and the assets."""
    folders = plugins.task_folders()
    texts = {}
    for name, folder in folders.items():
        texts[name] = first_line(ast.get_docstring(ast.parse((folder / "__init__.py").read_text(encoding="utf-8"))))
        presets = sorted(p.stem for p in (resources.root() / "configs" / name).glob("*.yaml"))
        if presets:
            texts[name] += f"\n  {'':18} presets: {', '.join(presets)}"
    print_parts("tasks", texts, plugins.TASKS)
    print("comparisons")
    for path in sorted((resources.root() / "configs" / "compare").glob("*.yaml")):
        title = next((line for line in path.read_text().splitlines() if line.startswith("title: ")), "")
        print(f"  {path.stem:18} {title.removeprefix('title: ')}")
    for heading, group, files in KINDS:
        own: dict[str, str] = {}
        for path in sorted(PACKAGE.glob(files)):
            if heading == "distances" or path.stem != "distances":
                own |= registered(path)
        print_parts(heading, own, group)
    print("assets")
    for path in sorted((resources.root() / "assets").glob("*/")):
        print(f"  {path.name}")
    return 0
