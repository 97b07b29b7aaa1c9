"""Warn, stop and roll back in a real session, with a generator that breaks at a given iteration."""

import json

import pytest
import torch

from scorefield.generators.base import Batch
from scorefield.monitors import Probe
from scorefield.runfolder import RunFolder
from scorefield.task import Players, Task
from scorefield.training.session import Session, Stopped
from scorefield.training.settings import CheckpointConfig, MonitorsConfig, PlayerConfig, RunConfig, TrainingConfig

from ..training.test_trainer import LinearGenerator, LinearScore, PoisonedTeacher


class Breaking(LinearGenerator):
    """Collapses to its mean while iterations ``broken`` run."""

    broken: range = range(0)

    def after_step(self, iteration):
        if iteration in self.broken:
            with torch.no_grad():
                self.scale.mul_(0.0)
        return super().after_step(iteration)


class Watched(Task):
    name = "watched"

    def probe(self, generator):
        z = torch.randn(8, 2, generator=torch.Generator().manual_seed(0))
        x0 = generator(Batch({"z": z})).detach()
        return Probe(x0.unflatten(0, (2, 4)))


def session(path, action, broken, rollbacks=2):
    player = PlayerConfig(learning_rate=0.002)
    training = TrainingConfig(
        iterations=20, batch=16, device="cpu", generator=player, online=player, ema_half_life_images=1e-3
    )
    monitors = MonitorsConfig(enabled=["diversity"], grace=0.0, action=action, rollbacks=rollbacks)
    config = RunConfig(
        task="watched", training=training, monitors=monitors, checkpoints=CheckpointConfig(every=5, keep=1)
    )
    folder = RunFolder(path)
    folder.path.mkdir(exist_ok=True)
    generator = Breaking()
    generator.broken = broken
    said: list[str] = []
    players = Players(PoisonedTeacher([]), LinearScore(), generator)
    made = Session(Watched(config, folder, "cpu"), players, folder, say=said.append)
    return made, said


def test_warn_says_it_once_and_goes_on(tmp_path):
    run, said = session(tmp_path, "warn", range(7, 20))
    run.run()
    assert run.iteration == 20
    assert [w["iteration"] for w in run.totals()["warnings"]] == [10]
    assert sum("look alike" in text for text in said) == 1
    assert json.loads((tmp_path / "warnings.json").read_text())[0]["monitor"] == "diversity"
    figures = [r["monitor/diversity"] for r in run.folder.metrics() if "monitor/diversity" in r]
    assert len(figures) == 5
    assert figures[0] == 1
    assert max(figures[2:]) < 0.35


def test_stop_saves_and_says_so(tmp_path):
    run, _ = session(tmp_path, "stop", range(7, 20))
    with pytest.raises(Stopped, match=r"iteration 10 .*diversity"):
        run.run()
    assert (tmp_path / "checkpoints" / "iteration-000010").is_dir()
    assert (tmp_path / "checkpoints" / "iteration-000005").is_dir()  # the last good one is not pruned


def test_rollback_goes_back_with_half_the_rates(tmp_path):
    run, said = session(tmp_path, "rollback", range(7, 8))
    run.generator.broken, count = range(7, 8), []
    after = run.generator.after_step

    def once(iteration):
        if iteration == 7:
            count.append(iteration)
            if len(count) > 1:
                run.generator.broken = range(0)
        return after(iteration)

    run.generator.after_step = once
    run.run()
    assert count == [7, 7]
    assert run.iteration == 20
    assert run.rollbacks == 1
    assert run.trainer.generator_player.rate_scale == run.trainer.online_player.rate_scale == 0.5
    assert len(run.totals()["warnings"]) == 1
    assert any("went back to iteration 5" in text for text in said)
    iterations = [r["iteration"] for r in run.folder.metrics() if "monitor/diversity" in r]
    assert iterations == [0, 5, 10, 15, 20]
    again, _ = session(tmp_path, "rollback", range(0))
    assert again.resume()
    assert again.rollbacks == 1
    assert again.trainer.generator_player.rate_scale == 0.5


def test_rollback_gives_up_after_its_last_one(tmp_path):
    run, _ = session(tmp_path, "rollback", range(7, 20), rollbacks=1)
    with pytest.raises(Stopped):
        run.run()
    assert run.rollbacks == 1
    assert run.iteration == 10


def test_without_a_good_checkpoint_there_is_nothing_to_go_back_to(tmp_path):
    run, _ = session(tmp_path, "rollback", range(0, 20))
    with pytest.raises(Stopped):
        run.run()
    assert run.rollbacks == 0
