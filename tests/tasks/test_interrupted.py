"""Signals outside the training loop: nothing is lost, and the way on is said."""

import os
import shutil
import signal

import pytest

from scorefield.cli import main
from scorefield.runfolder import RunFolder
from scorefield.training.session import Session
from tasks.text_to_image import TextToImage

SETTINGS = [
    "training.iterations=2",
    "training.batch=2",
    "training.device=cpu",
    "evaluation.samples=2",
    "evaluation.teacher_steps=1",
    "evaluation.preview=1",
    "evaluation.judge=none",
]


def words(out, *more):
    return ["run", "text_to_image", "--out", str(out), *SETTINGS, *more]


def signalled(number):
    """What stands in for a piece of work that survives its own errors, during which this process is sent a signal."""

    def work(*given, **named):
        try:
            os.kill(os.getpid(), number)
        except Exception:
            pytest.fail("a signal was taken for an error of the work's own")
        raise AssertionError("the signal was not heard")

    return work


@pytest.fixture(scope="module")
def measuring(tmp_path_factory):
    """A run that SIGTERM reached while it was being measured: (folder, exit status, what was said)."""
    out = tmp_path_factory.mktemp("interrupted") / "run"
    prompts = out.parent / "prompts.txt"
    prompts.write_text("\n".join(f"a red thing number {k}" for k in range(20)))
    said = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(TextToImage, "finish", signalled(signal.SIGTERM))
        patch.setattr("scorefield.commands.run.say", said.append)
        status = main(words(out, f"prompts.path={prompts}"))
    return out, prompts, status, said


def test_sigterm_while_measuring_says_how_to_go_on(measuring):
    out, _, status, said = measuring
    assert status == 128 + signal.SIGTERM
    assert "stopped by SIGTERM, saved at iteration 2" in said
    assert f"go on with: scorefield run text_to_image --out {out} --resume" in said
    assert not (out / "summary.json").exists()
    assert (out / "report.html").exists()


def test_what_was_left_to_do_is_done_by_a_resumed_run(measuring, tmp_path, monkeypatch):
    out = shutil.copytree(measuring[0], tmp_path / "run")
    monkeypatch.setattr(Session, "look", lambda self: pytest.fail("nothing is trained again"))
    assert main(words(out, f"prompts.path={measuring[1]}", "--resume")) == 0
    assert (out / "summary.json").exists()


def test_ctrl_c_while_the_players_are_built_says_how_to_go_on(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(TextToImage, "build", signalled(signal.SIGINT))
    assert main(words(tmp_path / "run")) == 128 + signal.SIGINT
    assert "stopped by SIGINT before the first iteration: go on with" in capsys.readouterr().err


def test_a_signal_in_the_last_look_is_not_swallowed(tmp_path, monkeypatch, capsys):
    look = Session.look

    def looked(self):
        if self.iteration == 2:
            os.kill(os.getpid(), signal.SIGTERM)
        return look(self)

    monkeypatch.setattr(Session, "look", looked)
    assert main(words(tmp_path / "run")) == 128 + signal.SIGTERM
    assert "saved at iteration 2" in capsys.readouterr().err


def test_a_run_does_not_go_on_with_other_prompts(measuring, tmp_path, capsys):
    out = shutil.copytree(measuring[0], tmp_path / "run")
    measuring[1].write_text(measuring[1].read_text().replace("number 7", "number seventy"))
    before = (out / "environment.json").read_text()
    assert main(words(out, f"prompts.path={measuring[1]}", "--resume")) == 2
    assert "prompts.path does not give what it gave then" in capsys.readouterr().err
    assert (out / "environment.json").read_text() == before
    measuring[1].write_text(measuring[1].read_text().replace("number seventy", "number 7"))


@pytest.mark.parametrize(("together", "met"), [(True, ["page", "copied", "met"]), (False, ["page", "copied"])])
def test_the_other_processes_wait_until_the_first_has_copied(together, met, tmp_path, monkeypatch):
    import torch.distributed as dist

    from scorefield.commands import run

    done = []
    monkeypatch.setattr("scorefield.report.page.build_report", lambda path: done.append("page"))
    monkeypatch.setattr(run.mirror, "finish", lambda: done.append("copied"))
    monkeypatch.setattr(dist, "is_initialized", lambda: True)
    monkeypatch.setattr(dist, "barrier", lambda: done.append("met"))
    run.wind_up(RunFolder(tmp_path), together)
    assert done == met
