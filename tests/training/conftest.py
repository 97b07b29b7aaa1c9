"""One start of two processes for all tests that look at what they end with."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


def torchrun(*words: str, processes: int = 2, timeout: float = 110) -> subprocess.CompletedProcess:
    """Run a module (``-m`` and its words) in several processes on this machine."""
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc_per_node={processes}"]
    environment = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
    return subprocess.run(
        [*launcher, *words], cwd=ROOT, capture_output=True, text=True, env=environment, timeout=timeout
    )


@pytest.fixture(scope="session")
def ended(tmp_path_factory) -> Path:
    """The folder that two processes wrote their ends into."""
    out = tmp_path_factory.mktemp("ranks")
    done = torchrun("-m", "tests.training.ranks", "several", str(out), timeout=300)
    assert done.returncode == 0, done.stderr[-3000:]
    return out
