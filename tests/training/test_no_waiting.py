"""The hot path asks the device for nothing: no value of a tensor is read by the host within an iteration."""

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from scorefield.random import HOSTED, Draws

from .test_trainer import make

READS = {torch.ops.aten._local_scalar_dense.default, torch.ops.aten.nonzero.default, torch.ops.aten.equal.default}
SETTINGS = [
    {"loss": "sim"},
    {"loss": "dmd", "accumulation": 2},
    {"loss": "sim", "ema_device": "cpu", "activation_checkpointing": ["teacher", "online"]},
    {"loss": "sim", "online_updates": 2, "fresh_samples": True, "dropout": "trained"},
]


class Reads(TorchDispatchMode):
    """Counts operations that hand a tensor's value to the host; the step counts of optimizers lie there already."""

    def __init__(self, trainer):
        super().__init__()
        players = trainer.generator_player, trainer.online_player
        self.steps = {id(s["step"]) for p in players for s in p.optimizer.state.values() if "step" in s}
        self.found = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        if func in READS and id(args[0]) not in self.steps:
            self.found.append(func)
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("settings", SETTINGS)
def test_no_value_is_read_within_an_iteration(settings, monkeypatch):
    trainer = make(**settings)
    trainer.iteration(0)  # makes the optimizers' states
    # what is drawn for dropout comes from the host's own copy of the indices
    host = []
    monkeypatch.setattr(torch, "manual_seed", host.append)
    with Reads(trainer) as reads:
        trainer.iteration(1)
    assert len(reads.found) <= len(host)  # each seed is one number of a tensor on the host
    assert bool(host) == ("dropout" in settings)


def test_the_count_sees_a_read():
    trainer = make()
    trainer.iteration(0)
    with Reads(trainer) as reads:
        trainer.figures(1)
    assert reads.found


@pytest.mark.gpu
@pytest.mark.parametrize("settings", SETTINGS)
def test_cuda_is_never_waited_for_within_an_iteration(settings):
    trainer = make(device="cuda", **settings)
    trainer.iteration(0)
    torch.cuda.synchronize()
    torch.cuda.set_sync_debug_mode("error")
    try:
        trainer.iteration(1)
    finally:
        torch.cuda.set_sync_debug_mode("default")


def test_draws_of_a_device_without_float64_are_made_on_the_host(monkeypatch):
    """Metal has no float64; the device "meta", which has no numbers at all, stands in for it."""
    host = torch.arange(4)
    monkeypatch.setattr("scorefield.random.HOSTED", (*HOSTED, "meta"))
    draws = Draws(3, 7, host.to("meta"), "salt", host=host)
    for name, given in (("normal", (2, 3)), ("uniform", (2,)), ("bits", (2,)), ("integers", (5, 2))):
        same = getattr(Draws(3, 7, host, "salt"), name)("eps", *given)
        found = getattr(draws, name)("eps", *given)
        assert (found.device.type, found.shape, found.dtype) == ("meta", same.shape, same.dtype)
    assert draws._keys.device.type == "cpu"
    assert torch.equal(draws._keys, Draws(3, 7, host, "salt")._keys)
