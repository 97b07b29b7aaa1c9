"""Moments of eight bits: they learn what AdamW learns, in a quarter of its memory, and survive a checkpoint."""

import importlib.util
import shutil

import pytest
import torch
from torch.utils._python_dispatch import is_traceable_wrapper_subclass

from scorefield.cli import main
from scorefield.errors import UserError
from scorefield.generators.base import Changes
from scorefield.training import checkpoint, optimizers
from scorefield.training.player import Player
from scorefield.training.settings import PlayerConfig, TrainingConfig
from scorefield.training.writer import snapshot

compiles = pytest.mark.skipif(
    importlib.util.find_spec("torchao") is None or not (shutil.which("g++") or shutil.which("c++")),
    reason="no torchao, or no compiler for its step",
)
SHAPE, SETTINGS = (64, 64), {"learning_rate": 1e-3, "betas": (0.5, 0.99)}


def player(optimizer: str, weight: torch.Tensor) -> Player:
    config = PlayerConfig(optimizer=optimizer, **SETTINGS)
    return Player([{"params": [torch.nn.Parameter(weight.clone())]}], config, 100)


def gradients(count: int) -> list[torch.Tensor]:
    rng = torch.Generator().manual_seed(1)
    return [torch.randn(SHAPE, generator=rng) + 0.5 for _ in range(count)]


def bytes_of(value) -> int:
    if is_traceable_wrapper_subclass(value):
        return sum(bytes_of(getattr(value, name)) for name in value.__tensor_flatten__()[0])
    return value.numel() * value.element_size()


@compiles
def test_eight_bits_learn_what_adamw_learns(tmp_path):
    start = torch.randn(SHAPE, generator=torch.Generator().manual_seed(0))
    plain, eight = player("adamw", start), player("adamw_8bit", start)
    for k, gradient in enumerate(gradients(40)):
        for each in (plain, eight):
            each.parameters[0].grad = gradient.clone()
            each.step(k)
    moved = [each.parameters[0].detach() - start for each in (plain, eight)]
    assert moved[0].abs().mean() > 5e-3
    assert (moved[1] - moved[0]).norm() < 0.1 * moved[0].norm()

    sizes = [sum(map(bytes_of, next(iter(each.optimizer.state.values())).values())) for each in (plain, eight)]
    planned = optimizers.planned_state(torch.nn.Parameter(torch.empty(SHAPE, device="meta")), "adamw_8bit")
    assert sizes[1] < 0.4 * sizes[0]  # and the map of a small tensor weighs
    assert sum(map(bytes_of, planned.values())) == sizes[1]

    # a broken gradient moves nothing, and is counted
    before = eight.parameters[0].detach().clone()
    eight.parameters[0].grad = torch.full(SHAPE, torch.nan)
    eight.step(40)
    assert torch.equal(eight.parameters[0], before)
    assert int(eight.skipped) == 1

    # a copy for writing in the background is one
    kept = eight.optimizer.state[eight.parameters[0]]["exp_avg_sq"]
    copied = snapshot({"moment": kept})["moment"]
    assert copied.codes.data_ptr() != kept.codes.data_ptr()
    assert torch.equal(copied.dequantize(), kept.dequantize())

    # through a checkpoint on disk, another player goes on bit for bit
    checkpoint.save(tmp_path, 41, {}, {"optimizer": eight.optimizer.state_dict()})
    again = player("adamw_8bit", before)
    again.optimizer.load_state_dict(checkpoint.load(tmp_path / "iteration-000041").state["optimizer"])
    for each in (eight, again):
        each.parameters[0].grad = gradients(1)[0]
        each.step(41)
    assert torch.equal(eight.parameters[0], again.parameters[0])
    assert not torch.equal(eight.parameters[0], before)

    grown = torch.nn.Parameter(torch.zeros(65, 64))
    with pytest.raises(UserError, match="adamw_8bit cannot follow a generator that grows"):
        eight.apply(Changes({eight.parameters[0]: grown}, rows={grown: torch.arange(65) - 1}))


def test_small_tensors_are_planned_in_float32():
    for shape, size in (((63, 64), 2 * 4 * 63 * 64 + 4), ((4097,), 2 * 4 * 4097 + 4)):
        state = optimizers.planned_state(torch.nn.Parameter(torch.empty(shape, device="meta")), "adamw_8bit")
        assert sum(map(bytes_of, state.values())) == size


def test_without_the_package_it_is_one_sentence(monkeypatch, capsys, tmp_path):
    real = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "torchao" else real(name))
    words = ["--out", str(tmp_path / "run"), "training.online.optimizer=adamw_8bit"]
    assert main(["run", "text_to_image", *words]) == 2
    said = capsys.readouterr().err.strip().splitlines()[-1]
    assert said == (
        "scorefield: training.online.optimizer=adamw_8bit needs the package torchao, which is not installed: "
        'pip install "scorefield[eight-bit]"'
    )
    assert not (tmp_path / "run").exists()


def test_mistakes_are_one_sentence(monkeypatch):
    with pytest.raises(UserError, match='optimizer "adam" is unknown: did you mean "adamw"'):
        PlayerConfig(optimizer="adam")
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: True)
    config = TrainingConfig(sharding="fsdp2", generator=PlayerConfig(optimizer="adamw_8bit"))
    with pytest.raises(UserError, match=r"with training\.sharding use adamw"):
        optimizers.check(config)
