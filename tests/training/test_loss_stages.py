"""A run whose loss changes on the way: each stage asks for what its own loss needs, and a resumed run goes on alike."""

import pytest
import torch

from scorefield import losses
from scorefield.errors import UserError
from scorefield.teachers.analytic import Gaussian
from scorefield.training.settings import PlayerConfig, RunConfig, TrainingConfig
from scorefield.training.trainer import Trainer
from tests.training.test_trainer import LinearGenerator, LinearScore


def make(*names):
    player = PlayerConfig(learning_rate=0.02, betas=(0.0, 0.99))
    config = TrainingConfig(iterations=9, batch=8, device="cpu", generator=player, online=player)
    stages = {3 * place: losses.build(name) for place, name in enumerate(names)}
    teacher = Gaussian(torch.ones(2), 0.36 * torch.eye(2)).float()
    return Trainer(config, teacher, LinearScore(), LinearGenerator(), stages)


def online_changes(trainer, iterations):
    """Whether the online score learned, by iteration."""
    learned = []
    for k in iterations:
        before = trainer.online.mean.clone()
        trainer.iteration(k)
        learned.append(not torch.equal(before, trainer.online.mean))
    return learned


def test_each_stage_has_its_own_loss():
    trainer, alone = make("vsd", "sds", "sim"), make("vsd")
    assert online_changes(trainer, range(9)) == [True] * 3 + [False] * 3 + [True] * 3
    for k in range(4):
        alone.iteration(k)
    other = make("vsd", "sds")
    for k in range(3):
        other.iteration(k)
    before = other.generator.shift.clone()
    other.iteration(3)
    assert not torch.equal(other.generator.shift, alone.generator.shift)  # the fourth iteration was another loss's
    assert not torch.equal(other.generator.shift, before)


def test_a_resumed_run_is_in_the_right_stage():
    trainer = make("vsd", "sds", "sim")
    trainer.iteration(4)
    assert type(trainer.loss) is type(losses.build("sds"))
    trainer.iteration(7)
    assert type(trainer.loss) is type(losses.build("sim"))
    trainer.iteration(2)  # gone back to an earlier checkpoint
    assert type(trainer.loss) is type(losses.build("vsd"))


@pytest.mark.parametrize(
    ("stages", "expected"),
    [
        ({0: {"name": "sds"}}, "loss_stages: 0 is none of the iterations 1 to 9"),
        ({10: {"name": "sds"}}, "loss_stages: 10 is none of"),
        ({5: "sds"}, "loss_stages.5 must name its loss"),
        ({5: {"name": "sdz"}}, '"sdz"'),
        ({5: {"name": "regression"}}, "pairs are drawn for the first loss alone"),
    ],
)
def test_stages_that_make_no_sense_are_refused(stages, expected):
    config = RunConfig(training=TrainingConfig(iterations=10), loss_stages=stages)
    with pytest.raises(UserError, match=expected):
        config.build_later_losses()
