"""Help and listing answer at once: nothing heavy is imported for them."""

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
HEAVY = ("torch", "diffusers", "transformers", "accelerate", "peft", "numpy", "PIL", "omegaconf", "matplotlib")
WORDS = [
    ["--help"],
    ["--version"],
    ["list"],
    ["run", "text_to_image", "--help"],
    ["sample", "--help"],
    ["export", "--help"],
    ["evaluate", "--help"],
    ["report", "--help"],
    ["config", "--help"],
    ["train-teacher", "--help"],
]
PROBE = """
import sys
from scorefield.cli import main
try:
    status = main(sys.argv[1:])
except SystemExit as stop:
    status = stop.code
print("HEAVY", *sorted(n for n in {} if n in sys.modules))
sys.exit(status)
"""


def environment() -> dict[str, str]:
    return os.environ | {"PYTHONPATH": str(ROOT)}


@pytest.mark.parametrize("words", WORDS, ids=" ".join)
def test_nothing_heavy_is_imported(words):
    done = subprocess.run(
        [sys.executable, "-c", PROBE.format(HEAVY), *words], capture_output=True, text=True, env=environment()
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1] == "HEAVY"


@pytest.mark.parametrize("words", [["--help"], ["list"], ["run", "text_to_image", "--help"]], ids=" ".join)
def test_the_answer_comes_within_two_seconds(words):
    def seconds() -> float:
        start = time.monotonic()
        done = subprocess.run([sys.executable, "-m", "scorefield", *words], capture_output=True, env=environment())
        assert done.returncode == 0
        assert done.stdout
        return time.monotonic() - start

    assert min(seconds() for _ in range(3)) < 2  # the best of three: other work may hold the cores


def test_an_unknown_verb_is_light_too():
    done = subprocess.run(
        [sys.executable, "-c", PROBE.format(HEAVY), "rum"], capture_output=True, text=True, env=environment()
    )
    assert done.returncode == 2
    assert 'did you mean "run"' in done.stderr
    assert done.stdout.splitlines()[-1] == "HEAVY"
