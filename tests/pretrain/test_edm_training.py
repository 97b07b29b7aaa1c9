"""EDM training: the loss' optimum, the moving average, augmentation, exact resumption, files that load as a teacher."""

import json
import math

import pytest
import torch

from scorefield.errors import UserError
from scorefield.pretrain import edm
from scorefield.pretrain.augment import diff_augment, flip_some, warp_some
from scorefield.pretrain.edm import EDMStage, EDMTrainConfig, UNetConfig, draw_sigma, edm_loss, train, train_edm
from scorefield.pretrain.labelled import classified
from scorefield.pretrain.loop import StageConfig
from scorefield.pretrain.session import HalfLifeAverage, Session
from scorefield.teachers.edm import EDMDenoiser

SMALL = UNetConfig(16, [1, 1], num_blocks=1, attn_resolutions=[], dropout=0.2, label_dropout=0.2)


def pictures(count=64, side=8):
    generator = torch.Generator().manual_seed(0)
    labels = torch.arange(count) % 2
    images = torch.randint(0, 100, (count, 3, side, side), generator=generator, dtype=torch.uint8)
    return classified(images + 100 * labels.view(-1, 1, 1, 1).byte(), labels, ["dark", "light"])


def test_the_loss_is_least_at_the_analytic_denoiser_of_a_gaussian():
    # D(x) = m + s / (s + sigma^2) (x - m) is the family; truth: m and s of the data, at every sigma at once
    torch.manual_seed(0)
    generator = torch.Generator().manual_seed(1)
    mean, variance = torch.tensor([0.4, -0.3, 0.1]), torch.tensor([0.05, 0.3, 1.0])
    m, log_s = torch.zeros(3, requires_grad=True), torch.zeros(3, requires_grad=True)
    optimizer = torch.optim.Adam([m, log_s], lr=0.03)
    steps = 1500
    for step in range(steps):
        x0 = mean + variance.sqrt() * torch.randn(1024, 3, generator=generator)
        sigma = draw_sigma(1024, -1.2, 1.2, generator)
        x_t = x0 + sigma[:, None] * torch.randn(1024, 3, generator=generator)
        s = log_s.exp()
        denoised = m + s / (s + sigma[:, None] ** 2) * (x_t - m)
        loss = edm_loss(denoised, x0, sigma, 0.5).mean()
        optimizer.param_groups[0]["lr"] = 0.03 * (1 - step / steps) + 1e-4
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    torch.testing.assert_close(m.detach(), mean, atol=0.03, rtol=0)
    torch.testing.assert_close(log_s.detach(), variance.log(), atol=0.04, rtol=0)


def test_the_weight_makes_the_fresh_network_s_loss_one_at_every_sigma():
    # EDM's preconditioning and weight: with F = 0, D = c_skip x, and data of deviation sigma_data, the loss is 1
    generator = torch.Generator().manual_seed(0)
    x0 = 0.5 * torch.randn(40_000, 3, generator=generator)
    for level in (0.01, 0.5, 20.0):
        sigma = torch.full((len(x0),), level)
        x_t = x0 + level * torch.randn(x0.shape, generator=generator)
        loss = edm_loss(0.25 / (0.25 + level**2) * x_t, x0, sigma, 0.5).mean()
        assert loss.item() == pytest.approx(1, abs=0.02)


def test_sigma_follows_its_law():
    sigma = draw_sigma(100_000, -1.2, 1.2, torch.Generator().manual_seed(0)).log()
    assert sigma.mean().item() == pytest.approx(-1.2, abs=0.02)
    assert sigma.std().item() == pytest.approx(1.2, abs=0.02)


def test_average_has_its_half_life_and_ramp():
    source, target = torch.nn.Linear(1, 1, bias=False), torch.nn.Linear(1, 1, bias=False)
    for network, value in ((source, 1.0), (target, 0.0)):
        network.weight.data.fill_(value)
    steady = HalfLifeAverage(source, target, half_life=100, rampup=0.0)
    for k in range(10):
        steady.update(10, 10 * (k + 1))
    assert target.weight.item() == pytest.approx(0.5, rel=1e-5)
    target.weight.data.zero_()
    HalfLifeAverage(source, target, half_life=1e9, rampup=0.1).update(10, 100)  # half-life 0.1 * 100
    assert target.weight.item() == pytest.approx(0.5, rel=1e-5)


def config_of(steps, **options):
    return EDMStage(steps=steps, batch=16, warmup_steps=2, schedule="constant", flip=True, augment=0.3, **options)


def run(tmp_path, steps, network):
    return train(pictures(), network, config_of(steps), seed=3, out=tmp_path, device="cpu", say=lambda text: None)


def fresh():
    torch.manual_seed(5)
    return edm.make_network(SMALL, 8, 2, augmented=True)


def test_resumed_training_equals_one_that_was_never_stopped(tmp_path):
    whole, _ = run(tmp_path / "whole", 6, fresh())
    run(tmp_path / "parts", 3, fresh())
    torch.manual_seed(99)  # what the process drew in between must not matter
    parts, session = run(tmp_path / "parts", 6, edm.make_network(SMALL, 8, 2, augmented=True))
    assert session.step == 6
    for (name, a), b in zip(whole.state_dict().items(), parts.state_dict().values(), strict=True):
        assert torch.equal(a, b), name


def test_a_state_of_another_network_is_refused(tmp_path):
    run(tmp_path, 1, fresh())
    other = edm.make_network(UNetConfig(32, [1, 1], num_blocks=1), 8, 2, augmented=True)
    with pytest.raises(UserError, match="does not fit"):
        run(tmp_path, 2, other)


def test_a_loss_that_is_not_finite_stops_the_training_and_keeps_the_state(tmp_path):
    def session(steps):
        config = EDMStage(steps=steps, batch=1)
        keep = {"gather": dict, "restore": lambda state: None}
        return Session("x", config, seed=0, out=tmp_path, device="cpu", say=lambda text: None, **keep)

    def run_on(steps, value):
        training = session(steps)
        for _ in training.steps():
            training.note({"loss": torch.tensor(value)})

    run_on(2, 1.0)
    with pytest.raises(UserError, match="not finite at step 3"):
        run_on(4, math.nan)
    assert session(4).step == 2


def test_training_stops_by_minutes(tmp_path):
    config = config_of(10**9, minutes=0.5 / 60)
    _, session = train(pictures(), fresh(), config, seed=0, out=tmp_path, device="cpu", say=lambda text: None)
    assert 0 < session.step < 1000


def whole_config(**options):
    return EDMTrainConfig(
        images=60,
        resolution=16,
        held_out=20,
        samples=20,
        judge_stage=StageConfig(steps=3, batch=8),
        network=UNetConfig(16, [1, 1], num_blocks=1, attn_resolutions=[], dropout=0.0),
        training=EDMStage(steps=3, batch=8),
        sampler_steps=3,
        **options,
    )


def test_whole_training_on_toybox(tmp_path):
    path = train_edm(whole_config(), tmp_path, say=lambda text: None)
    teacher = EDMDenoiser.load(path)
    x0 = teacher(torch.randn(2, 3, 16, 16), torch.ones(2), {"label": torch.tensor([0, 13])})
    assert x0.shape == (2, 3, 16, 16)
    assert (
        path.with_name("teacher.safetensors").stat().st_size < 2.2 * sum(p.numel() for p in teacher.parameters()) + 1e5
    )
    found = json.loads((tmp_path / "teacher-figures.json").read_text())["figures"]
    for who in ("real", "teacher"):
        assert set(found[who]) == {"frechet", "precision", "recall", "label_accuracy"}
    assert found["real"]["frechet"] < found["teacher"]["frechet"]
    assert list((tmp_path / "samples").glob("edm-*.png"))
    again = train_edm(whole_config(), tmp_path, say=lambda text: None)  # finished: nothing is trained anew
    for a, b in zip(teacher.parameters(), EDMDenoiser.load(again).parameters(), strict=True):
        assert torch.equal(a, b)


def test_a_training_goes_on_from_a_stored_network(tmp_path):
    first = train_edm(whole_config(), tmp_path / "first", say=lambda text: None)
    settings = {"init": str(first), "judge": str(tmp_path / "first" / "judge")}
    config = whole_config(**settings)
    config.training.steps, config.training.warmup_steps, config.training.learning_rate = 1, 1, 1e-12
    second = train_edm(config, tmp_path / "second", say=lambda text: None)
    old, new = EDMDenoiser.load(first), EDMDenoiser.load(second)
    for a, b in zip(old.parameters(), new.parameters(), strict=True):
        assert torch.allclose(a, b, atol=1e-5)
    config.training.learning_rate = 1e-2
    moved = EDMDenoiser.load(train_edm(config, tmp_path / "third", say=lambda text: None))
    assert any(not torch.allclose(a, b, atol=1e-4) for a, b in zip(old.parameters(), moved.parameters(), strict=True))
    config.resolution = 32
    with pytest.raises(UserError, match=r"init: .* knows 14 classes of pictures \[3, 16, 16\], and the data"):
        edm.open_network(config, 14)
    config.resolution, config.training.augment = 16, 0.1
    with pytest.raises(UserError, match="not trained to be told of augmentation"):
        edm.open_network(config, 14)


def test_mistakes_have_one_sentence(tmp_path):
    with pytest.raises(UserError, match="test seed"):
        train_edm(whole_config(seed=1), tmp_path, say=lambda text: None)
    with pytest.raises(UserError, match="storage"):
        EDMTrainConfig(storage="int8")
    with pytest.raises(UserError, match="schedule"):
        EDMStage(schedule="linear")


def test_flips_are_half_and_exact():
    x = torch.randn(400, 3, 4, 4)
    flipped = flip_some(x, torch.Generator().manual_seed(0))
    changed = (flipped != x).flatten(1).any(1)
    assert 150 < int(changed.sum()) < 250
    torch.testing.assert_close(flipped[changed], x[changed].flip(3))


@pytest.mark.gpu
def test_warps_do_not_make_the_host_wait():
    images, generator = torch.zeros(4, 3, 8, 8, device="cuda"), torch.Generator("cuda").manual_seed(0)
    warp_some(images, 0.5, generator)  # whatever has to be loaded is loaded
    torch.cuda.set_sync_debug_mode("error")
    try:
        warp_some(images, 0.5, generator)
    finally:
        torch.cuda.set_sync_debug_mode("default")


def test_warps_are_told_and_leave_the_rest_alone():
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(300, 3, 8, 8)
    same, labels = warp_some(x, 0.0, generator)
    assert torch.equal(same, x)
    assert not labels.any()
    moved, labels = warp_some(x, 0.12, generator)
    untouched = (labels == 0).all(1)
    assert 0.25 < untouched.float().mean() < 0.55  # 0.88^7 = 0.41
    assert torch.equal(moved[untouched], x[untouched])
    assert not (moved[~untouched] == x[~untouched]).all((1, 2, 3)).any()
    mirrored = (labels[:, 0] == 1) & (labels[:, 1:] == 0).all(1)
    assert mirrored.any()
    torch.testing.assert_close(moved[mirrored], x[mirrored].flip(3), atol=1e-4, rtol=1e-4)
    upset = (labels[:, 1] == 1) & (labels[:, [0, *range(2, 9)]] == 0).all(1)
    torch.testing.assert_close(moved[upset], x[upset].flip(2), atol=1e-4, rtol=1e-4)


def test_a_told_shift_is_that_shift():
    x = torch.zeros(4000, 1, 16, 16)
    x[:, :, 8, 8] = 1.0
    moved, labels = warp_some(x, 0.2, torch.Generator().manual_seed(0))
    only = (labels[:, :7] == 0).all(1) & (labels[:, 7:] != 0).any(1) & (labels[:, 7:].abs() < 1.5).all(1)
    places = torch.arange(16.0)
    for axis, column in ((3, 7), (2, 8)):
        weight = moved[only].sum((1, 5 - axis))
        centre = (weight * places).sum(1) / weight.sum(1)
        torch.testing.assert_close(centre - 8, 2 * labels[only, column], atol=0.02, rtol=0)


def test_diff_augment_is_differentiable_and_shows_every_pixel():
    x = torch.randn(2000, 3, 8, 8, requires_grad=True)
    out = diff_augment(x, torch.Generator().manual_seed(0))
    assert out.shape == x.shape
    hidden = (out == 0).all(1).float().mean(0)
    assert 0.1 < hidden.min() < hidden.max() < 0.7  # corners are also shifted out of the picture
    (grad,) = torch.autograd.grad(out.square().sum(), x)
    assert (grad != 0).any(1).any(0).all()
