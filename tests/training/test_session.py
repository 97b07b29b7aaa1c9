"""A run that cannot go on says so: iteration, player and noise range."""

import pytest
import torch

from scorefield import losses
from scorefield.errors import UserError
from scorefield.runfolder import RunFolder
from scorefield.task import Players, Task
from scorefield.training.session import Session
from scorefield.training.settings import PlayerConfig, RunConfig, TrainingConfig

from .test_trainer import LinearGenerator, LinearScore, PoisonedTeacher


def test_masking_that_becomes_the_rule_stops_the_run(tmp_path):
    player = PlayerConfig(learning_rate=0.02)
    training = TrainingConfig(iterations=20, batch=16, device="cpu", generator=player, online=player, log_every=5)
    config = RunConfig(task="linear", training=training, loss={"name": "sim"})
    folder = RunFolder(tmp_path)
    folder.path.mkdir(exist_ok=True)
    players = Players(PoisonedTeacher(list(range(12))), LinearScore(), LinearGenerator())
    session = Session(Task(config, folder, "cpu"), players, folder, say=lambda text: None)
    with pytest.raises(UserError, match=r"iteration 5: 60 of 80 samples.*sigma"):
        session.run()
    assert all(torch.isfinite(p).all() for p in session.generator.parameters())
    assert losses.build("sim").needs_online
