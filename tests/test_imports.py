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


def imports(path: Path, root: Path = ROOT, top_only: bool = False) -> set[str]:
    """Absolute dotted names that a file imports; ``top_only``: at import time, so not within functions."""
    found: set[str] = set()
    pending: list[ast.AST] = [ast.parse(path.read_text(encoding="utf-8"))]
    while pending:
        node = pending.pop()
        if top_only and (isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) or guards_types(node)):
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
