"""Who may import whom, read from the sources: the core never knows a task, losses and noise are pure tensors."""

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PURE = ("diffusers", "transformers", "accelerate", "tasks", "scorefield.training", "scorefield.generators")
PURE += ("scorefield.teachers", "scorefield.task", "scorefield.commands", "scorefield.pretrain")
HEAVY = {"diffusers", "transformers", "peft", "matplotlib", "torchvision", "torchmetrics", "scipy", "pyarrow"}


def package_of(path: Path, root: Path) -> list[str]:
    return list(path.relative_to(root).parent.parts)


def imports(path: Path, root: Path = ROOT, top_only: bool = False, types: bool = True) -> set[str]:
    """Absolute dotted names that a file imports.

    ``top_only``: at import time, so not within functions. ``types``: those for annotations alone as well.
    """
    found: set[str] = set()
    pending: list[ast.AST] = [ast.parse(path.read_text(encoding="utf-8"))]
    while pending:
        node = pending.pop()
        if top_only and (isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) or guards_types(node)):
            continue
        if not types and guards_types(node):
            continue
        pending += ast.iter_child_nodes(node)
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            base = package_of(path, root)[: -(node.level - 1) or None] if node.level else []
            module = ".".join([*base, *([node.module] if node.module else [])])
            found |= {module} | {f"{module}.{alias.name}" for alias in node.names}
        elif isinstance(node, ast.Call) and getattr(node.func, "attr", "") in ("import_module", "__import__"):
            found |= {a.value for a in node.args if isinstance(a, ast.Constant) and isinstance(a.value, str)}
    return found


def guards_types(node: ast.AST) -> bool:
    return isinstance(node, ast.If) and isinstance(node.test, ast.Name) and node.test.id == "TYPE_CHECKING"


def below(name: str, packages) -> bool:
    return any(name == package or name.startswith(package + ".") for package in packages)


def offenders(folder: str, forbidden, root: Path = ROOT, top_only: bool = False) -> list[str]:
    return [
        f"{path.relative_to(root)} imports {name}"
        for path in sorted((root / folder).rglob("*.py"))
        for name in sorted(imports(path, root, top_only))
        if below(name, forbidden)
    ]


def test_the_core_imports_no_task():
    assert offenders("scorefield", ("tasks", "scorefield.bundled", "tests")) == []


@pytest.mark.parametrize("folder", ["losses", "noise"])
def test_losses_and_noise_are_pure(folder):
    assert list((ROOT / "scorefield" / folder).glob("*.py"))
    assert offenders(f"scorefield/{folder}", PURE) == []


def test_a_task_imports_no_other_task():
    assert foreign_tasks(ROOT) == []


def foreign_tasks(root: Path) -> list[str]:
    names = {path.parent.name for path in (root / "tasks").glob("*/__init__.py")}
    others = {own: [f"tasks.{name}" for name in names - {own}] for own in sorted(names)}
    return [line for own, forbidden in others.items() for line in offenders(f"tasks/{own}", forbidden, root)]


def test_heavy_libraries_are_imported_where_they_are_used():
    assert offenders("scorefield", HEAVY, top_only=True) == []
    assert offenders("tasks", HEAVY, top_only=True) == []


TRUTH = ("scorefield.three_d.truth", "scorefield.evaluation.judge", "scorefield.evaluation.toybox")
# what runs while text_to_3d trains: its generators, losses, scores, trainer, and the task's parts that they are given
TRAINS_3D = [f"scorefield/generators/{name}.py" for name in ("base", "nerf", "staged", "splats", "texture")]
TRAINS_3D += [f"scorefield/{folder}/*.py" for folder in ("losses", "teachers", "training")]
TRAINS_3D += [f"tasks/text_to_3d/{name}.py" for name in ("prompts", "paint")]


def reached(start: list[Path], root: Path = ROOT) -> dict[str, str]:
    """Modules of ours that files import, themselves or through others, with the file that does; annotations aside."""
    found: dict[str, str] = {}
    pending = list(start)
    while pending:
        path = pending.pop()
        for name in sorted(imports(path, root, types=False)):
            place = root.joinpath(*name.split("."))
            file = next((f for f in (place.with_suffix(".py"), place / "__init__.py") if f.exists()), None)
            if file is not None and name not in found:
                found[name] = str(path.relative_to(root))
                pending.append(file)
    return found


def test_no_truth_of_toybox_reaches_what_trains_in_3d():
    """Only prompts, cameras and the teacher enter the optimisation; pictures along the way are measured beside it."""
    from tasks.text_to_3d.task import TextTo3D

    found = reached([path for pattern in TRAINS_3D for path in ROOT.glob(pattern)])
    assert {"scorefield.three_d.render", "tasks.text_to_3d.settings"} < set(found)
    assert [f"{via} imports {name}" for name, via in found.items() if below(name, TRUTH)] == []
    # the task's own file measures as well: the methods that make what trains must use none of that
    source = ast.parse((ROOT / "tasks" / "text_to_3d" / "task.py").read_text())
    methods = {node.name: node for node in ast.walk(source) if isinstance(node, ast.FunctionDef)}
    for name in ("build", "make_generator", "open_pipeline", "pixels"):
        assert callable(getattr(TextTo3D, name))
        used = {node.id for node in ast.walk(methods[name]) if isinstance(node, ast.Name)}
        assert used.isdisjoint({"assets", "look", "scores"}), name
    assert "assets" in {node.id for node in ast.walk(methods["finish"]) if isinstance(node, ast.Name)}


def test_the_check_sees_the_truth_through_others(tmp_path):
    for name, text in (("truth", ""), ("middle", "def f():\n    from scorefield.three_d import truth\n")):
        (tmp_path / "scorefield" / "three_d").mkdir(parents=True, exist_ok=True)
        (tmp_path / "scorefield" / "three_d" / f"{name}.py").write_text(text)
    first = tmp_path / "scorefield" / "first.py"
    first.write_text("from .three_d import middle\n")
    assert reached([first], tmp_path)["scorefield.three_d.truth"] == "scorefield/three_d/middle.py"
    first.write_text("from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    from .three_d import truth\n")
    assert reached([first], tmp_path) == {}


def test_the_check_sees_every_form_of_import(tmp_path):
    core = tmp_path / "scorefield" / "a"
    core.mkdir(parents=True)
    (core / "plain.py").write_text("import tasks.one\n")
    (core / "lazy.py").write_text("def f():\n    from tasks import one\n    import scipy\n")
    (core / "dynamic.py").write_text("import importlib\nimportlib.import_module('tasks.two.parts')\n")
    (core / "harmless.py").write_text("import tasksmith\nfrom . import plain\n")
    found = offenders("scorefield", ("tasks",), tmp_path)
    assert {line.split()[0] for line in found} == {f"scorefield/a/{n}.py" for n in ("plain", "lazy", "dynamic")}
    assert offenders("scorefield", ("scipy",), tmp_path) == ["scorefield/a/lazy.py imports scipy"]
    assert offenders("scorefield", ("scipy",), tmp_path, top_only=True) == []


def test_the_check_sees_a_task_that_reaches_for_another(tmp_path):
    for name in ("one", "two"):
        (tmp_path / "tasks" / name).mkdir(parents=True)
        (tmp_path / "tasks" / name / "__init__.py").write_text("")
    (tmp_path / "tasks" / "one" / "sideways.py").write_text("from ..two import parts\n")
    (tmp_path / "tasks" / "one" / "own.py").write_text("from . import sideways\nfrom tasks.one import own\n")
    assert {line.split()[0] for line in foreign_tasks(tmp_path)} == {"tasks/one/sideways.py"}
