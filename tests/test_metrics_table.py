"""The script behind the documentation's tables of logged figures."""

import json
import subprocess
import sys
from pathlib import Path

SCRIPT = Path(__file__).parent.parent / "scripts" / "metrics_table.py"


def asked(key: str, *runs: Path) -> subprocess.CompletedProcess:
    return subprocess.run([sys.executable, SCRIPT, *runs, "--key", key], capture_output=True, text=True)


def test_rows_are_runs_and_an_unknown_key_is_told_the_nearest(tmp_path):
    lines = [{"iteration": 1, "x0_gap/rms": 0.5}, {"iteration": 2}, {"iteration": 3, "x0_gap/rms": 0.25}]
    (tmp_path / "one").mkdir()
    (tmp_path / "one/metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    (tmp_path / "no-run").mkdir()
    found = asked("x0_gap/rms", tmp_path / "one", tmp_path / "no-run")
    assert found.stdout.splitlines()[2:] == ["| one | 0.5, 0.25 | 2.0 |"]
    wrong = asked("x0_gap", tmp_path / "one")
    assert wrong.returncode == 2
    assert 'none of these runs logged "x0_gap": did you mean "x0_gap/rms"?' in wrong.stderr
