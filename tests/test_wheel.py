"""The built wheel stands alone: tasks, presets and assets lie inside the package, and nothing leans on a checkout."""

import json
import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

pytest.importorskip("hatchling", reason="building needs hatchling")

ROOT = Path(__file__).resolve().parents[1]
PIP = [sys.executable, "-m", "pip", "--disable-pip-version-check", "-q"]


@pytest.fixture(scope="module")
def wheel(tmp_path_factory) -> Path:
    out = tmp_path_factory.mktemp("wheel")
    subprocess.run([*PIP, "wheel", str(ROOT), "--no-deps", "--no-build-isolation", "-w", str(out)], check=True)
    return next(out.glob("scorefield-*.whl"))


@pytest.fixture(scope="module")
def installed(wheel, tmp_path_factory) -> Path:
    target = tmp_path_factory.mktemp("installed")
    subprocess.run([*PIP, "install", "--no-deps", "--target", str(target), str(wheel)], check=True)
    return target


def run(installed: Path, cwd: Path, *words: str) -> str:
    environment = os.environ | {"PYTHONPATH": str(installed), "OMP_NUM_THREADS": "1"}
    done = subprocess.run([sys.executable, *words], cwd=cwd, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_the_wheel_holds_the_package_and_nothing_else(wheel):
    names = zipfile.ZipFile(wheel).namelist()
    tops = {name.split("/")[0] for name in names}
    assert {top for top in tops if not top.endswith(".dist-info")} == {"scorefield"}
    assert not [name for name in names if "__pycache__" in name or name.startswith("scorefield/bundled/tests")]
    tracked = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True)
    if tracked.returncode == 0 and tracked.stdout:
        places = {"tasks": "scorefield/bundled/tasks", "configs": "scorefield/bundled/configs"}
        places |= {"assets": "scorefield/bundled/assets", "scorefield": "scorefield"}
        for line in tracked.stdout.splitlines():
            top, _, rest = line.partition("/")
            if top in places and (ROOT / line).exists():
                assert f"{places[top]}/{rest}" in names, line


def test_the_installed_package_finds_its_own_parts(installed, tmp_path):
    assert not (installed / "tasks").exists()
    told = run(installed, tmp_path, "-m", "scorefield", "list")
    assert "text_to_image" in told
    presets = next(line for line in told.splitlines() if "presets:" in line and "pixart" in line)
    assert {"default", "pixart_512"} <= set(presets.split(":")[1].replace(",", " ").split())
    assert "toybox" in told.split("assets")[1]
    probe = (
        "import scorefield.plugins as p; t = p.load_task('text_to_image'); import sys\n"
        "print(t.__module__, sys.modules[t.__module__].__file__)"
    )
    module, file = run(installed, tmp_path, "-c", probe).split()
    assert module == "scorefield.bundled.tasks.text_to_image.task"
    assert Path(file).is_relative_to(installed)


def test_the_installed_package_runs_elsewhere(installed, tmp_path):
    settings = [
        "training.iterations=2",
        "training.batch=4",
        "training.device=cpu",
        "checkpoints.every=2",
        "evaluation.samples=4",
        "evaluation.teacher_steps=1",
        "evaluation.preview=2",
        "prompts.count=8",
    ]
    said = run(installed, tmp_path, "-m", "scorefield", "run", "text_to_image", "--out", "out", *settings)
    assert "report: out" in said
    summary = json.loads((tmp_path / "out" / "summary.json").read_text())
    assert summary["iterations"] == 2
    assert summary["real"]["prompt_accuracy"] is not None  # the embedded judge was there
    assert (tmp_path / "out" / "report.html").stat().st_size > 10_000
    run(installed, tmp_path, "-m", "scorefield", "sample", "out", "a blue robot, front view", "--out", "pictures")
    assert len(list((tmp_path / "pictures").glob("*.png"))) == 1
