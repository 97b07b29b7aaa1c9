"""bf16 and compilation change how things are computed, not what is learned."""

import shutil

import pytest
import torch

from scorefield import losses
from scorefield.cost.passes import bare_passes, needed_flops
from scorefield.denoiser import Denoiser
from scorefield.teachers.shared import holder
from scorefield.training.settings import TrainingConfig
from scorefield.training.trainer import make_accelerator

from . import ranks


class Watched(Denoiser):
    """Notes the kind of numbers that come in and go out."""

    def __init__(self, denoiser):
        super().__init__()
        self.denoiser, self.seen = denoiser, []
        self.sigma_min, self.sigma_max = denoiser.sigma_min, denoiser.sigma_max

    def forward(self, x_t, sigma, condition):
        x0 = self.denoiser(x_t, sigma, condition)
        hidden = self.denoiser.body[0](torch.zeros(1, 4))
        self.seen.append((x_t.dtype, sigma.dtype, hidden.dtype))
        return x0


def test_bf16_trains_and_the_loss_sees_float32(monkeypatch):
    trainer = ranks.make(precision="bf16")
    teacher = trainer.teacher.denoiser = Watched(trainer.teacher.denoiser)
    given, real = [], type(trainer.loss).__call__

    def noted(self, **tensors):
        given.extend((name, value.dtype) for name, value in tensors.items())
        return real(self, **tensors)

    monkeypatch.setattr(type(trainer.loss), "__call__", noted)
    before = {n: p.detach().clone() for n, p in trainer.generator.named_parameters()}
    for k in range(4):
        trainer.iteration(k)
    figures = trainer.figures(4)
    assert all(torch.isfinite(torch.tensor(float(v))) for v in figures.values())
    assert figures["nan_samples"] == figures["skipped_steps"] == 0
    for name, parameter in trainer.generator.named_parameters():
        assert parameter.dtype == torch.float32
        assert torch.isfinite(parameter).all()
        assert not torch.equal(parameter, before[name]), name
    assert set(teacher.seen) == {(torch.float32, torch.float32, torch.bfloat16)}  # fp32 in, bf16 products inside
    assert {name for name, _ in given} == {"x0", "x_t", "sigma", "teacher_x0", "online_x0"}
    assert {dtype for _, dtype in given} == {torch.float32}


def generator_gradient(precision: str) -> torch.Tensor:
    """Gradient of one generator update, after the same weights were already run without a graph."""
    trainer = ranks.make(precision=precision)
    trainer.loss = losses.build("sim")
    sample = trainer._render(trainer._parts(0)[0])
    with torch.no_grad(), trainer._autocast():
        for network in (trainer.teacher, trainer.online):
            network(sample.x0.detach(), torch.ones(16), sample.batch.teacher_condition)
    trainer._generator_loss(sample, 0).backward()
    return torch.cat([p.grad.flatten() for p in trainer.generator.parameters()])


def test_bf16_gradient_is_that_of_float32():
    exact, rounded = generator_gradient("fp32"), generator_gradient("bf16")
    assert not torch.equal(exact, rounded)
    assert (exact - rounded).norm() < 0.05 * exact.norm()


def test_a_weight_run_without_a_graph_gets_its_gradient_afterwards():
    """Within one region; the cache of older torch would leave the second pass without a graph."""
    trainer = ranks.make(precision="bf16")
    weight = trainer.online.body[0].weight
    told = {"label": torch.zeros(3, 1)}
    with trainer._autocast():
        assert not torch.is_autocast_cache_enabled()
        with torch.no_grad():
            trainer.online(torch.ones(3, 2), torch.ones(3), told)
        trainer.online(torch.ones(3, 2), torch.ones(3), told).sum().backward()
    assert weight.grad is not None
    assert weight.grad.abs().sum() > 0


def test_one_process_may_train_in_both_precisions():
    """The command line asks for a device before the trainer asks for a precision."""
    make_accelerator(TrainingConfig(device="cpu"))
    for precision in ("bf16", "fp32", "bf16"):
        trainer = ranks.make(precision=precision)
        trainer.iteration(0)
        assert trainer.accelerator.mixed_precision == "no"


@pytest.mark.skipif(not (shutil.which("cc") or shutil.which("gcc") or shutil.which("clang")), reason="no C compiler")
@pytest.mark.parametrize(
    ("settings", "rounding"),  # of bf16 in the last: three steps move weights by 0.03
    [({}, 1e-4), ({"deep": True}, 1e-4), ({"deep": True, "lora": ranks.BOTH}, 5e-3)],
)
def test_compiled_networks_learn_the_same(settings, rounding):
    """Whole where they have no blocks, else block by block, also where all roles are one network's."""
    plain, compiled = ranks.make(**settings), ranks.make(compile=True, **settings)
    torch._dynamo.reset()
    torch._dynamo.utils.counters.clear()
    for k in range(3):
        plain.iteration(k)
        compiled.iteration(k)
    assert torch._dynamo.utils.counters["stats"]["unique_graphs"] >= 1
    for role in (compiled.teacher.denoiser, compiled.online, compiled.generator.denoiser):
        network = holder(role)
        parts = list(network.blocks) or [network]
        assert all(part._compiled_call_impl is not None for part in parts)
        assert parts == [network] or network._compiled_call_impl is None
    for part in ("generator", "online"):
        pairs = zip(getattr(plain, part).named_parameters(), getattr(compiled, part).named_parameters(), strict=True)
        for (name, a), (other, b) in pairs:
            assert name == other  # compiling renames nothing that a checkpoint holds
            assert torch.allclose(a, b, atol=rounding), name
    for name, each in bare_passes(compiled).items():  # and nothing is left uncounted
        assert needed_flops(compiled, each) == needed_flops(plain, bare_passes(plain)[name])
