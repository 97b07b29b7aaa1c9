"""A run that stops says why, and a run that goes on takes up exactly where its checkpoint lies."""

import errno

import pytest
import torch

from scorefield.errors import UserError
from scorefield.files import write_text
from scorefield.runfolder import RunFolder
from scorefield.task import Players, Task
from scorefield.training import checkpoint
from scorefield.training.session import Session
from scorefield.training.settings import CheckpointConfig, PlayerConfig, RunConfig, TrainingConfig

from . import ranks
from .test_trainer import LinearGenerator, LinearScore, PoisonedTeacher


class Linear(Task):
    """Two numbers a sample; a preview leaves a picture file and a line of figures."""

    name = "linear"

    def preview(self, generator, iteration):
        write_text(self.folder.samples / f"iteration-{iteration:06d}.png", "a picture")
        return {"eval/shift": generator.shift.mean().item()}


def make(path, poisoned=(), iterations=20, every=5, log_every=5):
    player = PlayerConfig(learning_rate=0.02)
    training = TrainingConfig(
        iterations=iterations, batch=16, device="cpu", generator=player, online=player, log_every=log_every
    )
    config = RunConfig(
        task="linear", training=training, loss={"name": "sim"}, checkpoints=CheckpointConfig(every=every, keep=9)
    )
    folder = RunFolder(path)
    folder.path.mkdir(exist_ok=True)
    players = Players(PoisonedTeacher(list(poisoned)), LinearScore(), LinearGenerator())
    return Session(Linear(config, folder, "cpu"), players, folder, say=lambda text: None)


def lines(session, key):
    return [r["iteration"] for r in session.folder.metrics() if key in r]


def pictures(session):
    return sorted(int(path.stem.split("-")[1]) for path in session.folder.samples.iterdir())


def test_masking_that_becomes_the_rule_stops_the_run(tmp_path):
    session = make(tmp_path, poisoned=range(12))
    with pytest.raises(UserError, match=r"iteration 5: 60 of 80 samples.*sigma"):
        session.run()
    assert all(torch.isfinite(p).all() for p in session.generator.parameters())


@pytest.mark.parametrize(("after", "stops"), [(3, 6), (4, 8)])
def test_an_overflow_in_bf16_is_told_in_its_logging_interval_with_the_last_good_checkpoint(tmp_path, after, stops):
    run = ranks.session(tmp_path, precision="bf16", iterations=12)  # figures and a checkpoint at every second iteration
    said = []
    run.say = said.append

    @torch.no_grad()
    def spoil(k):  # the next iteration is the first that leaves bf16's range
        if k == after:
            run.trainer.teacher.denoiser.body[0].weight.mul_(1e10)
            run.trainer.teacher.denoiser.body[2].weight.mul_(1e38)

    run.generator.after_step = spoil
    good = "the last good checkpoint is iteration-000004"
    with pytest.raises(UserError, match=f"iteration {stops}: 32 of 32 samples.*{good}"):
        run.run()
    if stops == 8:  # no more than half of the samples of iterations 5 and 6: told, and stopped by the next figures
        assert len(said) == 1
        assert "by iteration 6 16 of 32 samples" in said[0]
        assert said[0].endswith(good)
    assert checkpoint.listed(run.folder.checkpoints)[0].name == f"iteration-{stops - 2:06d}"
    assert all(torch.isfinite(p).all() for p in run.generator.parameters())


def test_resuming_drops_what_lies_beyond_the_checkpoint(tmp_path):
    first = make(tmp_path, log_every=2)
    first.run()
    (first.folder.checkpoints / "iteration-000020" / "ema.safetensors").unlink()
    (first.folder.checkpoints / "iteration-000015" / "ema.safetensors").unlink()
    (first.folder.checkpoints / ".iteration-000025.part").mkdir()
    (first.folder.checkpoints / ".iteration-000025.part" / "ema.safetensors").write_text("half")
    write_text(first.folder.path / ".summary.json.x.part", "half")
    again = make(tmp_path, log_every=2)
    assert again.resume()
    assert list(tmp_path.rglob("*.part")) == []
    assert again.iteration == 10
    assert pictures(again) == [0, 5, 10]
    assert lines(again, "loss/generator") == [2, 4, 6, 8, 10]
    again.run()
    assert pictures(again) == lines(again, "eval/shift") == [0, 5, 10, 15, 20]
    assert lines(again, "loss/generator") == list(range(2, 21, 2))
    for a, b in zip(first.trainer.average.shadow, again.trainer.average.shadow, strict=True):
        assert torch.equal(a, b)


def test_resuming_without_a_checkpoint_starts_with_a_clean_record(tmp_path):
    make(tmp_path, iterations=4, every=2, log_every=1).run()
    for folder in checkpoint.listed(tmp_path / "checkpoints"):
        (folder / "checkpoint.json").unlink()
    again = make(tmp_path, iterations=4, every=4, log_every=1)
    assert not again.resume()
    assert pictures(again) == again.folder.metrics() == []
    again.run()
    assert lines(again, "loss/generator") == [1, 2, 3, 4]
    assert lines(again, "eval/shift") == [0, 4]


def test_stray_samples_of_the_past_do_not_stop_a_resumed_run(tmp_path):
    make(tmp_path, poisoned=[3], iterations=100, every=100, log_every=10).run()
    again = make(tmp_path, poisoned=[3], iterations=105, every=100, log_every=2)
    assert again.resume()
    again.run()  # 100 masked samples so far, 32 in the window at hand
    assert again.totals()["nan_samples"] == 105


def test_a_full_disk_at_a_checkpoint_stops_the_run_and_keeps_the_last(tmp_path, monkeypatch):
    session, real = make(tmp_path), checkpoint.save_file

    def full(tensors, path, *rest):
        if session.iteration > 5 and path.stem == "online":  # the third of the parts: two are written already
            raise OSError(errno.ENOSPC, "No space left on device")
        real(tensors, path, *rest)

    monkeypatch.setattr(checkpoint, "save_file", full)
    with pytest.raises(UserError, match=r"iteration-000010.*No space left on device"):
        session.run()
    assert [p.name for p in session.folder.checkpoints.iterdir() if p.is_dir()] == ["iteration-000005"]
    assert checkpoint.damage(session.folder.checkpoints / "iteration-000005") == ""
    assert (session.folder.checkpoints / "latest.txt").read_text() == "iteration-000005\n"
    monkeypatch.undo()
    again, straight = make(tmp_path), make(tmp_path.with_name("straight"))
    assert again.resume()
    again.run()
    straight.run()
    assert lines(again, "loss/generator") == [5, 10, 15, 20]
    for a, b in zip(straight.trainer.average.shadow, again.trainer.average.shadow, strict=True):
        assert torch.equal(a, b)


def test_the_rate_leaves_out_looking_and_keeps_what_was_done_before_it(tmp_path, monkeypatch):
    now = [0.0]
    monkeypatch.setattr("scorefield.training.session.time.monotonic", lambda: now[0])
    session = make(tmp_path, iterations=12, every=4, log_every=6)
    step, look = session.trainer.iteration, session.task.preview

    def slow_step(k):
        now[0] += 1.0
        step(k)

    def slow_look(generator, iteration):
        now[0] += 100.0
        return look(generator, iteration)

    monkeypatch.setattr(session.trainer, "iteration", slow_step)
    monkeypatch.setattr(session.task, "preview", slow_look)
    session.run()
    rates = [r["images_per_sec"] for r in session.folder.metrics() if "images_per_sec" in r]
    assert rates == pytest.approx([16.0, 16.0])
