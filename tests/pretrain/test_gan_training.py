"""StyleGAN2 training: penalties against autograd, class means of a toy, resumption, files that load and go on."""

import json

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from scorefield.errors import UserError
from scorefield.generators.stylegan2 import StyleGAN2Generator
from scorefield.pretrain import gan
from scorefield.pretrain.gan import Adversaries, GANStage, GANTrainConfig, StyleGAN2Config
from scorefield.pretrain.labelled import classified
from scorefield.random import Draws

SMALL = StyleGAN2Config(
    z_dim=8,
    w_dim=16,
    mapping_layers=2,
    channel_base=128,
    channel_max=16,
    discriminator_base=128,
    discriminator_max=16,
    discriminator_architecture="resnet",
    discriminator_mapping_layers=2,
    mbstd_group=4,
)


def two_classes(count=256, side=8):
    """Flat pictures with a little grain: class 0 is dark red, class 1 light blue."""
    generator = torch.Generator().manual_seed(0)
    labels = torch.arange(count) % 2
    means = torch.tensor([[-0.2, -0.6, -0.6], [0.0, 0.1, 0.6]])[labels]
    grain = 0.05 * torch.randn(count, 3, side, side, generator=generator)
    images = means[:, :, None, None] + 0.1 * torch.randn(count, 1, 1, 1, generator=generator) + grain
    return classified(((images + 1) * 127.5).clamp(0, 255).byte(), labels, ["dark", "light"])


def players(config, side=8):
    torch.manual_seed(4)
    return Adversaries(*gan.make_networks(SMALL, side, 2), config, "cpu")


def test_losses_are_the_logistic_ones():
    real, fake = torch.tensor([[0.3], [-1.2]]), torch.tensor([[2.0], [0.1]])
    expected = -(torch.sigmoid(real).log().mean() + (1 - torch.sigmoid(fake)).log().mean())
    torch.testing.assert_close(gan.discriminator_loss(real, fake), expected)
    torch.testing.assert_close(gan.generator_loss(fake), -torch.sigmoid(fake).log().mean())


def test_r1_is_the_squared_gradient_and_can_be_differentiated():
    # D(x) = sum a x + b x^2 / 2 has dD/dx = a + b x; d/db of the penalty is 2 sum (a + b x) x
    torch.manual_seed(0)
    x = torch.randn(5, 3, 4, 4, dtype=torch.float64, requires_grad=True)
    a = torch.randn(3, 4, 4, dtype=torch.float64)
    b = torch.randn(3, 4, 4, dtype=torch.float64, requires_grad=True)
    penalty = gan.r1_penalty((a * x + b * x.square() / 2).flatten(1).sum(1, keepdim=True), x)
    slope = (a + b * x).detach()
    torch.testing.assert_close(penalty.detach(), slope.square().flatten(1).sum(1).mean())
    (got,) = torch.autograd.grad(penalty, b)
    torch.testing.assert_close(got, (2 * slope * x.detach()).mean(0))


def test_r1_of_the_discriminator_agrees_with_finite_differences():
    torch.manual_seed(0)
    _, D = gan.make_networks(SMALL, 8, 2)
    D = D.double().requires_grad_(False)
    x = torch.randn(4, 3, 8, 8, dtype=torch.float64)
    c = torch.eye(2, dtype=torch.float64)[[0, 1, 1, 0]]
    asked = x.clone().requires_grad_(True)
    penalty = gan.r1_penalty(D(asked, c), asked)
    # the batch is one group of the minibatch deviation, so one pixel moves every logit: differentiate their sum
    total, h = torch.zeros(()), 1e-5
    for place in range(x.numel()):
        step = torch.zeros_like(x).view(-1)
        step[place] = h
        step = step.view_as(x)
        total = total + (((D(x + step, c) - D(x - step, c)).sum() / (2 * h)) ** 2)
    torch.testing.assert_close(penalty, total / 4, rtol=1e-5, atol=1e-8)


def test_path_lengths_of_a_linear_map():
    # pictures = J w, y fixed: the gradient is J^T y / side
    torch.manual_seed(0)
    jacobian, noise = torch.randn(12, 5), torch.randn(2, 3, 2, 2)
    ws = torch.randn(2, 1, 5, requires_grad=True)
    made = (ws[:, 0] @ jacobian.T).view(2, 3, 2, 2)
    expected = (noise.flatten(1) @ jacobian / 2).norm(dim=1)
    torch.testing.assert_close(gan.path_lengths(made, ws, noise).detach(), expected)


def test_lazy_penalties_shorten_rate_and_betas():
    team = players(GANStage(batch=8, r1_interval=16, path_weight=2.0, path_interval=4))
    assert team.optimizers["D"].param_groups[0]["betas"][1] == pytest.approx(0.99 ** (16 / 17))
    data = two_classes(16)
    real = data.images.float()[:8] / 127.5 - 1, torch.eye(2)[data.labels[:8]]
    found = team.update(0, 0.0, lambda: real, torch.Generator().manual_seed(0))
    assert team.optimizers["D"].param_groups[0]["lr"] == pytest.approx(0.0025 * 16 / 17)
    assert team.optimizers["G"].param_groups[0]["lr"] == pytest.approx(0.0025 * 4 / 5)
    assert "r1" in found
    assert "r1" not in team.update(1, 0.0, lambda: real, torch.Generator().manual_seed(1))
    assert team.path_mean > 0


def test_a_gan_learns_the_means_of_two_classes(tmp_path):
    config = GANStage(steps=300, batch=16, learning_rate=0.005, r1_gamma=0.1, ema_half_life_images=300, ema_rampup=0)
    team, data = players(config), two_classes()
    gan.train(data, team, seed=0, out=tmp_path, say=lambda text: None)
    sample = gan.sampler(team.average, "cpu")
    for label in (0, 1):
        got = sample(torch.full((64,), label), 7).mean((0, 2, 3))
        truth = (data.images[data.labels == label].float() / 127.5 - 1).mean((0, 2, 3))
        assert (got - truth).abs().max() < 0.15, (label, got, truth)


def test_resumed_training_equals_one_that_was_never_stopped(tmp_path):
    options = {"batch": 8, "path_weight": 2.0, "mixing": 0.5, "flip": True, "augment": "diffaugment", "r1_interval": 2}

    def run(folder, steps, seed):
        torch.manual_seed(seed)
        team = Adversaries(*gan.make_networks(SMALL, 8, 2), GANStage(steps=steps, **options), "cpu")
        gan.train(two_classes(32), team, seed=0, out=tmp_path / folder, say=lambda text: None)
        return team

    whole = run("whole", 6, 4)
    run("parts", 3, 4)
    parts = run("parts", 6, 77)
    for kind in ("G", "D", "average"):
        pairs = zip(getattr(whole, kind).state_dict().items(), getattr(parts, kind).state_dict().values(), strict=True)
        for (name, a), b in pairs:
            assert torch.equal(a, b), (kind, name)
    assert torch.equal(whole.path_mean, parts.path_mean)


def test_mixing_crosses_over_at_one_layer():
    team = players(GANStage(mixing=1.0))
    team.G.eval()
    with torch.no_grad():
        ws = team.latents(torch.eye(2)[torch.zeros(50, dtype=torch.long)], torch.Generator().manual_seed(0))
    changes = (ws[:, 1:] != ws[:, :-1]).any(2).sum(1)
    assert (changes == 1).all()


def whole_config(**options):
    settings = {"judge": "none", "resolution": 8, "held_out": 16, "samples": 16} | options
    return GANTrainConfig(network=SMALL, training=GANStage(steps=3, batch=8), **settings)


@pytest.fixture
def npz(tmp_path):
    data = two_classes(64)
    np.savez(tmp_path / "toy.npz", images=data.images.permute(0, 2, 3, 1).numpy(), labels=data.labels.numpy())
    return str(tmp_path / "toy.npz")


def test_whole_training_then_going_on_from_its_folder(tmp_path, npz):
    path = gan.train_gan(whole_config(data=npz), tmp_path / "a", say=lambda text: None)
    generator = StyleGAN2Generator.load(path)
    batch = generator.draw(Draws(0, 0, torch.arange(4)))
    assert generator(batch).shape == (4, 3, 8, 8)
    record = json.loads((tmp_path / "a" / "gan" / "training.json").read_text())
    assert record["kimg"] == pytest.approx(0.024)
    assert list((tmp_path / "a" / "samples").glob("gan-*.png"))

    said = []
    more = whole_config(data=npz, init=str(tmp_path / "a" / "gan"))
    team, seen = gan.open_players(more, 2, "cpu", said.append)
    assert seen == pytest.approx(0.024)
    for kind, name in (("G", "G"), ("D", "D"), ("average", "G_ema")):
        loaded = gan.networks.load(tmp_path / "a" / "gan" / name).state_dict()
        for key, value in getattr(team, kind).state_dict().items():
            assert torch.equal(value, loaded[key]), (kind, key)
    gan.train_gan(more, tmp_path / "b", say=said.append)
    assert json.loads((tmp_path / "b" / "gan" / "training.json").read_text())["kimg"] == pytest.approx(0.048)
    with pytest.raises(UserError, match="2 classes at 8 px"):
        gan.open_players(more, 3, "cpu", said.append)


def test_figures_on_an_npz_use_a_judge_of_its_classes(tmp_path, npz):
    config = whole_config(data=npz)
    config.judge, config.judge_stage.steps, config.judge_stage.batch = "train", 30, 32
    gan.train_gan(config, tmp_path / "a", say=lambda text: None)
    found = json.loads((tmp_path / "a" / "gan-figures.json").read_text())["figures"]
    assert found["real"]["label_accuracy"] == 1.0
    assert found["real"]["frechet"] < found["gan"]["frechet"]


def test_mistakes_have_one_sentence():
    with pytest.raises(UserError, match="num_fp16_res"):
        GANStage(precision="bf16")
    with pytest.raises(UserError, match='did you mean "diffaugment"'):
        GANStage(augment="diffaugmnt")
    with pytest.raises(UserError, match="intervals"):
        GANStage(r1_interval=0)


def test_softplus_does_not_overflow():
    huge = torch.tensor([[1e4]])
    assert torch.isfinite(gan.discriminator_loss(-huge, huge))
    torch.testing.assert_close(gan.generator_loss(-huge), F.softplus(huge).mean())
