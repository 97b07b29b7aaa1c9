"""EDM networks as the core's denoisers: conditions, ranges, dropout, guidance, a short distillation."""

import math

import pytest
import torch

from scorefield import losses, networks
from scorefield.denoiser import Guided
from scorefield.errors import UserError
from scorefield.generators.labels import LabelLaw
from scorefield.generators.one_step import OneStepGenerator
from scorefield.teachers.edm import EDMDenoiser
from scorefield.teachers.online import full_copy
from scorefield.training.settings import PlayerConfig, TrainingConfig
from scorefield.training.trainer import Trainer

SHAPE = {"model_channels": 16, "num_blocks": 1, "channel_mult": [1, 1], "attn_resolutions": [4]}
PIXELS = {"img_resolution": 8, "img_channels": 3}


def network(kind="EDMPrecond", label_dim=3, **options):
    torch.manual_seed(0)
    if kind == "Precond":
        built = networks.build(kind, {**PIXELS, "label_dim": label_dim, **SHAPE, "channels_per_head": 8, **options})
    else:
        base = {**PIXELS, "label_dim": label_dim, "model_type": "SongUNet", "augment_dim": 9, "dropout": 0.3}
        built = networks.build(kind, {**base, **SHAPE, **options})
    with torch.no_grad():
        for p in built.parameters():
            p.add_(torch.randn_like(p) * 0.1)
    return built


KINDS = ["EDMPrecond", "VPPrecond", "VEPrecond", "iDDPMPrecond", "Precond"]


@pytest.mark.parametrize("kind", KINDS)
def test_it_is_the_network(kind):
    raw = network(kind).eval()
    denoiser = EDMDenoiser(raw)
    x, sigma = torch.randn(4, 3, 8, 8, requires_grad=True), torch.tensor([0.1, 1.0, 10.0, 40.0])
    label = torch.tensor([0, 2, 2, 1])
    got = denoiser(x, sigma, {"label": label})
    assert got.dtype == torch.float32
    torch.testing.assert_close(got, raw(x, sigma, torch.eye(3)[label]))
    assert torch.equal(got, denoiser(x, sigma, {"label": torch.eye(3)[label]}))
    (grad,) = torch.autograd.grad(got.sum(), x)
    assert grad.isfinite().all()
    assert grad.any()
    assert not torch.allclose(denoiser(x, sigma, {}), got)


@pytest.mark.parametrize("kind", KINDS)
def test_null_condition_is_no_class(kind):
    denoiser = EDMDenoiser(network(kind)).eval()
    x, sigma, condition = torch.randn(2, 3, 8, 8), torch.ones(2), {"label": torch.eye(3)[:2]}
    free, told = denoiser(x, sigma, {}), denoiser(x, sigma, condition)
    torch.testing.assert_close(denoiser(x, sigma, denoiser.null_condition(condition)), free)
    torch.testing.assert_close(Guided(denoiser, 2.5)(x, sigma, condition), free + 2.5 * (told - free))


def test_ranges_are_finite_and_within_the_networks():
    assert (EDMDenoiser(network()).sigma_min, EDMDenoiser(network()).sigma_max) == (0.002, 80.0)
    limited = EDMDenoiser(network(sigma_min=0.01, sigma_max=50))
    assert (limited.sigma_min, limited.sigma_max) == (0.01, 50.0)
    assert EDMDenoiser(network("VEPrecond")).sigma_min == 0.02
    assert EDMDenoiser(network("VPPrecond"), sigma_max=math.inf).sigma_max == pytest.approx(152.17, rel=1e-3)
    with pytest.raises(UserError, match="do not fit"):
        EDMDenoiser(network(sigma_max=50), sigma_min=60)
    with pytest.raises(UserError, match="do not fit"):
        EDMDenoiser(network(), sigma_max=math.inf)
    with pytest.raises(UserError, match="preconditioner"):
        EDMDenoiser(network().model)


@pytest.mark.parametrize("kind", ["EDMPrecond", "Precond"])
def test_train_mode_changes_nothing_unless_asked(kind):
    x, sigma, condition = torch.randn(2, 3, 8, 8), torch.ones(2), {"label": torch.eye(3)[:2]}
    options = {"dropout": 0.3} if kind == "Precond" else {}
    quiet = EDMDenoiser(network(kind, **options)).train()
    state = networks.state_of(quiet.network)
    assert torch.equal(quiet(x, sigma, condition), quiet(x, sigma, condition))
    assert all(torch.equal(value, state[name]) for name, value in quiet.network.state_dict().items())
    loud = EDMDenoiser(network(kind, **options), native_training=True).train()
    assert not torch.equal(loud(x, sigma, condition), loud(x, sigma, condition))
    assert torch.equal(loud.eval()(x, sigma, condition), loud(x, sigma, condition))


def test_every_trainable_parameter_is_used():
    for kind in ("EDMPrecond", "Precond"):
        copy = full_copy(EDMDenoiser(network(kind)))
        copy(torch.randn(2, 3, 8, 8), torch.ones(2), {"label": torch.eye(3)[:2]}).square().sum().backward()
        assert not [n for n, p in copy.named_parameters() if p.requires_grad and p.grad is None]


def test_wrong_labels_are_refused():
    conditional, free = EDMDenoiser(network()), EDMDenoiser(network(label_dim=0))
    x, sigma = torch.randn(2, 3, 8, 8), torch.ones(2)
    with pytest.raises(UserError, match=r"shape \[2, 3\], got \[2, 4\]"):
        conditional(x, sigma, {"label": torch.eye(4)[:2]})
    for wrong in ([0, 3], [-1, 0]):
        with pytest.raises(UserError, match="classes are 0 to 2"):
            conditional(x, sigma, {"label": torch.tensor(wrong)})
    with pytest.raises(UserError, match="unconditional"):
        free(x, sigma, {"label": torch.eye(3)[:2]})
    with pytest.raises(UserError, match="guidance scale 1"):
        free.null_condition({})
    assert free(x, sigma, {}).shape == x.shape


def test_saved_teachers_come_back(tmp_path):
    teacher = EDMDenoiser(network()).eval()
    networks.save(teacher.network, tmp_path / "edm")
    again = EDMDenoiser.load(tmp_path / "edm", sigma_max=20)
    x, sigma = torch.randn(2, 3, 8, 8), torch.ones(2)
    assert torch.equal(again(x, sigma, {}), teacher(x, sigma, {}))
    assert again.sigma_max == 20
    assert not again.training


@pytest.mark.parametrize("kind", ["EDMPrecond", "Precond"])
def test_a_short_distillation(kind):
    """Teacher, online score and one-step generator from one network, through the trainer."""
    teacher = EDMDenoiser(network(kind)).eval()
    generator = OneStepGenerator(full_copy(teacher), teacher.shape, 2.5, LabelLaw(3))
    player = PlayerConfig(learning_rate=1e-3)
    config = TrainingConfig(iterations=3, batch=4, device="cpu", sigma_data=0.5, generator=player, online=player)
    trainer = Trainer(config, teacher, full_copy(teacher), generator, losses.build("sim"))
    before = networks.state_of(generator.denoiser.network)
    for k in range(3):
        trainer.iteration(k)
    figures = trainer.figures(3)
    assert figures["nan_samples"] == 0
    assert figures["skipped_steps"] == 0
    assert any(not torch.equal(v, before[n]) for n, v in generator.denoiser.network.state_dict().items())


def test_label_law():
    from scorefield.random import Draws

    draws = Draws(0, 0, torch.arange(20_000))
    drawn = LabelLaw(3, [1, 0, 3]).draw(draws)
    assert drawn.sum(1).eq(1).all()
    torch.testing.assert_close(drawn.mean(0), torch.tensor([0.25, 0.0, 0.75]), rtol=0, atol=0.01)
    torch.testing.assert_close(LabelLaw(4).draw(draws).mean(0), torch.full((4,), 0.25), rtol=0, atol=0.01)
    assert torch.equal(LabelLaw(1).draw(draws), torch.ones(20_000, 1))
    for weights in ([1, 2], [0, 0, 0], [1, -1, 1]):
        with pytest.raises(UserError, match="weights"):
            LabelLaw(3, weights)
