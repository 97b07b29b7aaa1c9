"""``run --resume`` over damaged checkpoints, by the command line: what is said, where it goes on, where it ends."""

import shutil

import pytest
import torch

from scorefield.cli import main
from scorefield.training import checkpoint

TASK = """
import torch

from scorefield.task import Players, Task
from scorefield.teachers.analytic import Gaussian
from tests.training.test_trainer import LinearGenerator, LinearScore


class Linear(Task):
    name = "linear"

    def build(self):
        return Players(Gaussian(torch.ones(2), 0.36 * torch.eye(2)), LinearScore(), LinearGenerator())
"""


def words(task, out) -> list[str]:
    """The command of a run of nine iterations, saved at every third."""
    settings = ["training.iterations=9", "training.batch=8", "training.device=cpu", "checkpoints.every=3"]
    return ["run", str(task), "--out", str(out), *settings, "checkpoints.keep=9"]


@pytest.fixture(scope="module")
def ended(tmp_path_factory):
    """A folder with the task and a run of it that has ended."""
    root = tmp_path_factory.mktemp("damaged")
    (root / "linear").mkdir()
    (root / "linear" / "__init__.py").write_text(TASK)
    assert main(words(root / "linear", root / "run")) == 0
    return root


@pytest.fixture
def resume(ended, tmp_path):
    """The command that goes on with a copy of it in tmp_path/run, whose checkpoints may be damaged."""
    shutil.copytree(ended / "run", tmp_path / "run")
    return [*words(ended / "linear", tmp_path / "run"), "--resume"]


def weights(folder):
    return checkpoint.load(folder / "checkpoints" / "iteration-000009").weights


def truncate(path, by: int = 20) -> None:
    path.write_bytes(path.read_bytes()[:-by])


def test_the_newest_whole_one_is_taken_and_the_others_are_named(ended, resume, tmp_path, capsys):
    folder = tmp_path / "run" / "checkpoints"
    truncate(folder / "iteration-000009" / "ema.safetensors")
    (folder / "iteration-000006" / "state.pt").unlink()
    assert main(resume) == 0
    said = capsys.readouterr().err.splitlines()
    wanted = [
        "checkpoint iteration-000009 cannot be used (ema.safetensors is truncated or changed); "
        "falling back to an older one",
        "checkpoint iteration-000006 cannot be used (state.pt is missing); falling back to an older one",
        "resuming from iteration-000003",
    ]
    assert [line for line in said if "checkpoint iteration" in line or "resum" in line] == wanted
    torch.testing.assert_close(weights(tmp_path / "run"), weights(ended / "run"), rtol=0, atol=0)  # written anew
    assert checkpoint.damage(folder / "iteration-000006") == ""


def test_where_none_is_whole_the_run_starts_afresh_and_says_so(ended, resume, tmp_path, capsys):
    folder = tmp_path / "run" / "checkpoints"
    for path in checkpoint.listed(folder):
        truncate(path / "checkpoint.json")
    assert main(resume) == 0
    said = capsys.readouterr().err
    assert said.count("is not whole JSON") == 3
    assert "no checkpoint to resume from: starting afresh" in said
    torch.testing.assert_close(weights(tmp_path / "run"), weights(ended / "run"), rtol=0, atol=0)
