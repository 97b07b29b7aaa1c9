"""Reference curves: kept from a run, found again by its preset, drawn in the report."""

import json
from pathlib import Path

import pytest

from scorefield import resources
from scorefield.commands.common import preset_name
from scorefield.report import page, reference
from scorefield.report.source import RunData


def run_folder(path, preset="job/usual", count=300):
    path.mkdir()
    lines = [{"iteration": k, "images": 64 * k, "x0_gap/rms": 1 / (k + 1), "time/teacher": 0.1} for k in range(count)]
    (path / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    (path / "environment.json").write_text(json.dumps({"preset": preset, "command": "scorefield run job"}))
    (path / "config.yaml").write_text(f"training: {{iterations: {count - 1}}}\n")
    (path / "summary.json").write_text(json.dumps({"iterations": count - 1, "device": "cpu"}))
    return path


@pytest.fixture
def configs(tmp_path, monkeypatch):
    monkeypatch.setattr(resources, "root", lambda: tmp_path)
    (tmp_path / "configs" / "job").mkdir(parents=True)
    (tmp_path / "configs" / "job" / "usual.yaml").write_text("{}")
    return tmp_path / "configs"


def test_curves_are_thinned_and_keep_what_tells(configs, tmp_path):
    data = RunData.read(run_folder(tmp_path / "run"))
    curves = reference.gather(data.metrics)
    assert set(curves) == {"x0_gap/rms"}
    points = curves["x0_gap/rms"]
    assert len(points) == 100
    assert points[0] == [64.0, pytest.approx((1 + 1 / 2 + 1 / 3) / 3, rel=1e-4)]
    assert sum(y for _, y in points) / 100 == pytest.approx(sum(1 / (k + 1) for k in range(300)) / 300, rel=1e-3)


def test_a_report_draws_the_curves_of_its_preset_only(configs, tmp_path):
    kept = reference.gather(RunData.read(run_folder(tmp_path / "first")).metrics)
    reference.place(configs / "job" / "usual.yaml").write_text(json.dumps({"curves": kept}))
    later = page.render(RunData.read(run_folder(tmp_path / "later", count=20)))
    assert "own run" in later
    other = page.render(RunData.read(run_folder(tmp_path / "other", preset="", count=20)))
    assert "own run" not in other
    reference.place(configs / "job" / "usual.yaml").write_text("no json")
    assert "own run" not in page.render(RunData.read(run_folder(tmp_path / "broken", count=20)))


def test_the_name_of_a_preset_is_known_by_name_and_by_path(configs, tmp_path):
    assert preset_name(None, "job") == ""  # there is no default here
    assert preset_name(Path("usual"), "job") == "job/usual"
    assert preset_name(configs / "job" / "usual.yaml", "job") == "job/usual"
    (tmp_path / "usual.yaml").write_text("{}")
    assert preset_name(tmp_path / "usual.yaml", "job") == ""
