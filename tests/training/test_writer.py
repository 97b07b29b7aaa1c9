"""Checkpoints written in the background: the same bytes, nothing lost at the end, and no error swallowed."""

import errno
import os
import signal
import threading

import pytest
import torch

from scorefield.errors import UserError
from scorefield.training import checkpoint
from scorefield.training.signals import Interrupted
from scorefield.training.writer import Writer, snapshot

from .test_session import make


def in_background(path, **more):
    session = make(path, **more)
    session.config.checkpoints.asynchronous = True
    return session


@pytest.fixture
def slow(monkeypatch):
    """Writing waits until it is let go on; what is asked of it meanwhile is whether it has begun."""
    begun, go_on, real = threading.Event(), threading.Event(), checkpoint.save_file

    def wait(tensors, path, *rest):
        begun.set()
        assert go_on.wait(20)
        real(tensors, path, *rest)

    monkeypatch.setattr(checkpoint, "save_file", wait)
    return begun, go_on


def test_files_are_those_that_a_run_that_waits_writes(tmp_path):
    make(tmp_path / "waits").run()
    in_background(tmp_path / "goes on").run()
    for number in (5, 10, 15, 20):
        one, two = (
            checkpoint.load(tmp_path / name / "checkpoints" / f"iteration-{number:06d}")
            for name in ("waits", "goes on")
        )
        torch.testing.assert_close(one.weights, two.weights, rtol=0, atol=0)
        moments = [c.state["generator_optimizer"]["state"] for c in (one, two)]
        torch.testing.assert_close(*moments, rtol=0, atol=0)
    assert (tmp_path / "goes on" / "checkpoints" / "latest.txt").read_text() == "iteration-000020\n"


def test_training_goes_on_while_the_state_of_then_is_written(tmp_path, slow):
    begun, go_on = slow
    session = in_background(tmp_path, iterations=9, every=5)
    real, seen = session.trainer.iteration, {}

    def iteration(k):
        if k == 5:  # the checkpoint of iteration 5 has just been handed over
            assert begun.wait(20)
            seen["then"] = snapshot(session.weights())
        real(k)
        if k == 7:
            seen["now"] = snapshot(session.weights())
            assert checkpoint.listed(tmp_path / "checkpoints") == []  # whole or not at all
            go_on.set()

    session.trainer.iteration = iteration
    session.run()
    written = checkpoint.load(tmp_path / "checkpoints" / "iteration-000005").weights
    torch.testing.assert_close(written, seen["then"], rtol=0, atol=0)
    assert not torch.equal(written["ema"]["shift"], seen["now"]["ema"]["shift"])


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGUSR1, signal.SIGINT])
def test_a_signal_saves_waits_and_goes_on_bit_for_bit(tmp_path, number):
    session = in_background(tmp_path / "cut")
    real = session.trainer.iteration

    def iteration(k):
        real(k)
        if k == 6:
            os.kill(os.getpid(), number)

    session.trainer.iteration = iteration
    with pytest.raises(Interrupted) as stopped:
        session.run()
    assert stopped.value.status == 128 + number
    assert "checkpoint" not in {thread.name for thread in threading.enumerate()}
    assert checkpoint.newest_whole(tmp_path / "cut" / "checkpoints").name == "iteration-000007"
    again, straight = in_background(tmp_path / "cut"), make(tmp_path / "straight")
    assert again.resume()
    again.run()
    straight.run()
    for a, b in zip(straight.trainer.average.shadow, again.trainer.average.shadow, strict=True):
        assert torch.equal(a, b)


@pytest.mark.parametrize("fails_at", [10, 20])
def test_what_goes_wrong_is_raised_at_the_next_save_or_the_end(tmp_path, monkeypatch, fails_at):
    session, real = in_background(tmp_path), checkpoint.save_file

    def full(tensors, path, *rest):
        if f"{fails_at:06d}" in path.parent.name:
            raise OSError(errno.ENOSPC, "No space left on device")
        real(tensors, path, *rest)

    monkeypatch.setattr(checkpoint, "save_file", full)
    with pytest.raises(UserError, match=rf"iteration-{fails_at:06d}.*No space left on device"):
        session.run()
    assert session.iteration == min(fails_at + 5, 20)
    newest = checkpoint.newest_whole(tmp_path / "checkpoints")
    assert newest.name == f"iteration-{fails_at - 5:06d}"


def test_another_error_is_not_hidden_by_that_of_a_write(tmp_path):
    writer = Writer()
    writer.submit(lambda: 1 / 0)
    writer.join()
    with pytest.raises(ZeroDivisionError):
        writer.submit(lambda: None)
    writer.submit(lambda: None)
    writer.wait()
    session = in_background(tmp_path)
    session.trainer.iteration = lambda k: session.writer.submit(lambda: 1 / 0) if k == 2 else 1 // (3 - k)
    session.log = lambda *given: {}
    with pytest.raises(ZeroDivisionError, match="integer"):
        session.run()
    assert "checkpoint" not in {thread.name for thread in threading.enumerate()}
