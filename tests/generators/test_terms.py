"""Optional terms: weights of f-divergences and discriminators against closed forms, anchors, and who feels what."""

import math

import pytest
import torch
from torch import nn

from scorefield import losses, networks
from scorefield.denoiser import Denoiser
from scorefield.errors import UserError
from scorefield.generators.base import Batch, Generator
from scorefield.generators.one_step import OneStepGenerator
from scorefield.generators.terms import WithTerms, build_terms, plain
from scorefield.generators.terms.adversarial import AdversarialTerm
from scorefield.generators.terms.anchor import AnchorTerm, build_distance, squared
from scorefield.generators.terms.divergence import DIVERGENCES, weights
from scorefield.generators.terms.real import LabelledReal
from scorefield.generators.terms.settings import AdversarialConfig, AnchorConfig, DivergenceConfig, TermsConfig
from scorefield.pretrain.labelled import classified
from scorefield.random import Draws
from scorefield.teachers.edm import EDMDenoiser
from scorefield.teachers.online import full_copy
from scorefield.training.settings import PlayerConfig, TrainingConfig
from scorefield.training.trainer import Trainer

torch.set_num_threads(1)
SIDE, CLASSES = 8, 3


def denoiser(classes=CLASSES, model="SongUNet", seed=0):
    torch.manual_seed(seed)
    kwargs = {"img_resolution": SIDE, "img_channels": 3, "label_dim": classes, "model_type": model}
    kwargs |= {"model_channels": 16, "channel_mult": [1, 2], "num_blocks": 1, "attn_resolutions": []}
    network = networks.build("EDMPrecond", kwargs)
    with torch.no_grad():
        for p in network.parameters():
            p.add_(torch.randn_like(p) * 0.05)
    return EDMDenoiser(network).eval()


def real_pictures(count=12):
    generator = torch.Generator().manual_seed(1)
    images = torch.randint(0, 256, (count, 3, SIDE, SIDE), generator=generator, dtype=torch.uint8)
    return classified(images, torch.arange(count) % CLASSES, [str(k) for k in range(CLASSES)])


# ---------------------------------------------------------------------- f-divergences


F = {
    "reverse_kl": lambda r: -r.log(),
    "forward_kl": lambda r: r * r.log(),
    "jeffreys": lambda r: (r - 1) * r.log(),
    "jensen_shannon": lambda r: r * r.log() - (r + 1) * ((r + 1) / 2).log(),
    "hellinger": lambda r: (1 - r.sqrt()).square(),
    "softened_reverse_kl": lambda r: (r + 1) * (0.5 + 0.5 / r).log(),
}


@pytest.mark.parametrize("name", list(DIVERGENCES))
def test_weights_turn_the_kl_gradient_into_that_of_the_divergence(name):
    """q = N(m, 1.2^2) moves over p = N(0, 1): d/dm D_f(p || q) by quadrature, against E_q h(r) (s_q - s_p)."""
    x = torch.linspace(-14, 14, 60001, dtype=torch.float64)
    step, spread = x[1] - x[0], 1.2
    normal = lambda mean, std: torch.exp(-0.5 * ((x - mean) / std) ** 2) / (std * math.sqrt(2 * math.pi))  # noqa: E731
    m = torch.tensor(0.7, dtype=torch.float64, requires_grad=True)
    p, q = normal(0.0, 1.0), normal(m, spread)
    inside = (p > 1e-30) & (q.detach() > 1e-30)
    divergence = (q * F[name](p / q))[inside].sum() * step
    (wanted,) = torch.autograd.grad(divergence, m)
    q = q.detach()
    log_r = (p / q).log()
    direction = -(x - m.detach()) / spread**2 + x  # s_q - s_p; dx/dm = 1
    found = (q * weights(name, log_r, 100.0) * direction)[inside].sum() * step
    assert float(found) == pytest.approx(float(wanted), rel=1e-6)


def test_ratios_are_clipped():
    assert weights("forward_kl", torch.tensor([-9.0, 9.0]), 2.0).log().tolist() == pytest.approx([-2.0, 2.0])


# ---------------------------------------------------------------------- the discriminator


class Moments(nn.Module):
    """Stands for an encoder whose channel mean can be any quadratic of one number: log p / q is within reach."""

    shape, label_dim = (1, 1, 1), 0

    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(3))

    def encode(self, x_t, sigma, condition):
        x = x_t.flatten(1)
        return 3 * self.weight * torch.cat([torch.ones_like(x), x, x.square()], 1)


def test_the_discriminator_learns_the_log_ratio_of_the_noised_densities():
    """Real pictures are points whose noised law is N(0.4, 0.5^2), generated ones N(-0.3, 0.8^2) noised by 0.5."""
    net = Moments()
    real = classified(torch.full((4, 1, 1, 1), 178, dtype=torch.uint8), torch.zeros(4, dtype=torch.long), ["a"])
    term = AdversarialTerm(
        AdversarialConfig(weight=1.0),
        DivergenceConfig(),
        net,
        LabelledReal(real, (1, 1, 1), 0),
        lambda u: torch.full_like(u, 0.5),
    )
    optimizer = torch.optim.LBFGS([net.weight], max_iter=60, line_search_fn="strong_wolfe")
    batch = Batch(term.draw(Draws(0, 0, torch.arange(60_000))))
    x0 = -0.3 + 0.8 * Draws(0, 0, torch.arange(60_000)).normal("x0", 1, 1, 1)

    def closure():
        optimizer.zero_grad()
        loss = term.online(x0, batch)
        loss.backward()
        return loss

    optimizer.step(closure)
    x = torch.linspace(-1.5, 2.0, 9)
    p = torch.distributions.Normal(178 / 127.5 - 1, 0.5)
    q = torch.distributions.Normal(-0.3, math.hypot(0.8, 0.5))
    logits = term.logits(x.view(-1, 1, 1, 1), torch.full((9,), 0.5), {})
    torch.testing.assert_close(logits.detach(), p.log_prob(x) - q.log_prob(x), atol=0.1, rtol=0)
    term.ratio = DivergenceConfig("forward_kl")
    h = term.weigh(x.view(-1, 1, 1, 1), torch.full((9,), 0.5), Batch({}))
    torch.testing.assert_close(h, logits.detach().clamp(-5, 5).exp())


def hand_written(net, x_t, sigma, label):
    """The encoder's output, part by part."""
    model = net.network.model
    scaled = x_t / (sigma**2 + 0.25).sqrt()[:, None, None, None]
    emb = model.embed(sigma.log() / 4, label, None)
    x = scaled
    for part in model.enc.values():
        x = part(x, emb) if type(part).__name__ == "UNetBlock" else part(x)
    return x


@pytest.mark.parametrize("model", ["SongUNet", "DhariwalUNet"])
def test_the_encoder_is_read_without_its_decoder(model):
    net = denoiser(model=model)
    x_t, sigma = torch.randn(2, 3, SIDE, SIDE), torch.tensor([0.5, 2.0])
    label = torch.eye(CLASSES)[:2]
    ran = []
    next(iter(net.network.model.dec.values())).register_forward_hook(lambda *_: ran.append(1))
    features = net.encode(x_t, sigma, {"label": label})
    torch.testing.assert_close(features, hand_written(net, x_t, sigma, label))
    assert not ran
    assert features.shape[2:] == (SIDE // 2, SIDE // 2)
    net(x_t, sigma, {"label": label})
    assert ran  # nothing is left of the shortcut


@pytest.mark.parametrize("head", ["mean", "conv"])
def test_each_side_feels_its_own_part(head):
    net = denoiser()
    settings = AdversarialConfig(weight=0.5, head=head, start=3)
    term = AdversarialTerm(
        settings, DivergenceConfig(), net, LabelledReal(real_pictures(), net.shape, CLASSES), lambda u: 0.2 + u
    )
    if head == "conv":
        nn.init.normal_(term.head.last.weight)
        assert any(name.startswith("discriminator.") for name, _ in net.named_parameters())  # trained and saved with it
    told = {"label": torch.eye(CLASSES)}
    batch = Batch(term.draw(Draws(0, 0, torch.arange(3))), told, told)
    x0 = torch.randn(3, 3, SIDE, SIDE, requires_grad=True)
    assert term.generator(x0, batch, 2) is None
    term.generator(x0, batch, 3).backward()
    assert x0.grad.abs().sum() > 0
    assert all(p.grad is None for p in net.parameters())
    assert any(p.requires_grad for p in net.parameters())
    loss = term.online(x0.detach(), batch)
    loss.backward()
    assert sum(p.grad is not None for p in net.parameters()) > 5
    eps, sigma = batch.latents["adversarial_eps_online"], 0.2 + batch.latents["adversarial_u_online"]
    real = term.real.pictures.images[batch.latents["adversarial_rows"]].float() / 127.5 - 1
    labels = torch.eye(CLASSES)[term.real.pictures.labels[batch.latents["adversarial_rows"]]]
    logit = [
        term.logits(x + sigma[:, None, None, None] * eps, sigma, {"label": label})
        for x, label in ((real, labels), (x0.detach(), torch.eye(CLASSES)))
    ]
    wanted = (nn.functional.softplus(-logit[0]) + nn.functional.softplus(logit[1])).mean() / 2
    torch.testing.assert_close(loss, wanted)


def trained(terms=None, iterations=3, **loss):
    teacher = denoiser()
    torch.manual_seed(2)
    student = denoiser(seed=3).requires_grad_(True)
    labels = lambda draws: ({"label": torch.eye(CLASSES)[draws.integers("label", CLASSES, 1)[:, 0]]},) * 2  # noqa: E731
    generator = OneStepGenerator(student, teacher.shape, 2.5, labels)
    score = full_copy(teacher)
    player = PlayerConfig(learning_rate=1e-3)
    config = TrainingConfig(
        iterations=iterations, batch=4, device="cpu", generator=player, online=player, sigma_data=0.5
    )
    if terms is not None:
        generator = build_terms(terms, generator, score, config, "cpu")
    trainer = Trainer(config, teacher, score, generator, losses.build(loss.pop("loss", "diff_instruct"), **loss))
    for k in range(iterations):
        trainer.iteration(k)
    return plain(generator), trainer.figures(iterations)


def npz(tmp_path):
    import numpy as np

    real = real_pictures()
    np.savez(tmp_path / "real.npz", images=real.images.numpy(), labels=real.labels.numpy())
    return str(tmp_path / "real.npz")


def test_off_by_default_and_all_at_once(tmp_path):
    usual, _ = trained()
    same, _ = trained(TermsConfig())
    assert type(same) is OneStepGenerator
    assert all(torch.equal(a, b) for a, b in zip(usual.parameters(), same.parameters(), strict=True))
    terms = TermsConfig(
        AdversarialConfig(weight=0.1, data=npz(tmp_path)), DivergenceConfig("forward_kl"), AnchorConfig(weight=0.1)
    )
    moved, figures = trained(terms)
    assert {"loss/adversarial", "loss/adversarial_online", "loss/anchor"} <= set(figures)
    assert figures["loss/adversarial_online"] == pytest.approx(math.log(2), abs=0.3)
    assert not all(torch.equal(a, b) for a, b in zip(usual.parameters(), moved.parameters(), strict=True))


def test_factors_weigh_the_losses_of_samples():
    class Weighed(WithTerms):
        def weigh(self, x_t, sigma, batch):
            return torch.zeros(len(x_t))

    class Fixed(Denoiser):
        sigma_min, sigma_max = 0.01, 50.0

        def __init__(self):
            super().__init__()
            self.scale = nn.Parameter(torch.tensor(0.5))

        def forward(self, x_t, sigma, condition):
            return self.scale * x_t

    config = TrainingConfig(iterations=1, batch=4, device="cpu")
    inner: Generator = OneStepGenerator(Fixed(), (3, 4, 4), 1.0)
    trainer = Trainer(config, Fixed(), Fixed(), Weighed(inner, []), losses.build("diff_instruct"))
    trainer.iteration(0)
    assert trainer.figures(1)["grad_norm/generator"] == 0


# ---------------------------------------------------------------------- the anchor


def test_an_anchor_measures_the_way_from_the_start():
    student = denoiser().requires_grad_(True)
    told = {"label": torch.eye(CLASSES)}
    generator = OneStepGenerator(student, student.shape)
    batch = Batch({"z": torch.randn(3, 3, SIDE, SIDE)}, told, told)
    term = AnchorTerm(2.0, generator, squared)
    start = generator(batch)
    assert float(term.generator(start, batch, 0).detach()) == 0
    with torch.no_grad():
        for p in student.parameters():
            p.add_(torch.randn_like(p) * 0.02)
    now = generator(batch)
    assert float(term.generator(now, batch, 0).detach()) == pytest.approx(
        2 * float((now - start).square().mean()), rel=1e-5
    )
    assert not [name for name, _ in WithTerms(generator, [term]).named_parameters() if "start" in name]


def test_lpips_with_a_trunk_from_a_file(tmp_path):
    lpips = pytest.importorskip("lpips")
    from torchvision.models import alexnet

    torch.manual_seed(5)
    features = alexnet(weights=None).features
    torch.save({f"features.{name}": p for name, p in features.state_dict().items()}, tmp_path / "alexnet.pth")
    distance = build_distance(AnchorConfig(1.0, "lpips", trunk=str(tmp_path / "alexnet.pth")), "cpu")
    a, b = torch.rand(2, 3, 64, 64) * 2 - 1, torch.rand(2, 3, 64, 64) * 2 - 1
    direct = lpips.LPIPS(net="alex", pnet_rand=True, verbose=False)
    x, y = direct.scaling_layer(a), direct.scaling_layer(b)
    wanted = torch.zeros(2)
    taps = (1, 4, 7, 9, 11)  # after each ReLU
    for place, part in enumerate(features):
        x, y = part(x), part(y)
        if place in taps:
            unit = [v / (v.square().sum(1, keepdim=True).sqrt() + 1e-10) for v in (x, y)]
            wanted = wanted + direct.lins[taps.index(place)]((unit[0] - unit[1]) ** 2).mean((1, 2, 3))
    torch.testing.assert_close(distance(a, b), wanted.detach(), rtol=1e-4, atol=1e-6)
    moved = a.clone().requires_grad_(True)
    distance(moved, b).sum().backward()
    assert moved.grad.abs().sum() > 0
    torch.save({"features.0.weight": torch.zeros(1)}, tmp_path / "other.pth")
    with pytest.raises(UserError, match=r"features\.0\.bias is missing"):
        build_distance(AnchorConfig(1.0, "lpips", trunk=str(tmp_path / "other.pth")), "cpu")


@pytest.mark.parametrize(
    ("terms", "loss", "message"),
    [
        (TermsConfig(AdversarialConfig(weight=1.0)), "sim", "terms.adversarial.data"),
        (TermsConfig(AdversarialConfig(weight=1.0, data="nowhere")), "sim", "does not exist"),
        (TermsConfig(AdversarialConfig(weight=1.0, data="toybox")), "sds", "this loss has none"),
        (TermsConfig(AdversarialConfig(data="toybox"), DivergenceConfig("forward_kl")), "sim", "diff_instruct"),
        (TermsConfig(anchor=AnchorConfig(1.0, "lpips")), "sim", "terms.anchor.trunk"),
        (TermsConfig(anchor=AnchorConfig(1.0, "lpips", trunk="nowhere")), "sim", "nowhere"),
    ],
)
def test_what_is_missing_is_said_before_anything_starts(terms, loss, message):
    with pytest.raises(UserError, match=message):
        terms.check(losses.build(loss))


def test_pictures_and_classes_must_fit():
    real = real_pictures()
    with pytest.raises(UserError, match="3 classes, the teacher 5"):
        LabelledReal(real, (3, SIDE, SIDE), 5)
    real.images = real.images[:, :, :4, :4]
    with pytest.raises(UserError, match=r"\[3, 4, 4\]"):
        LabelledReal(real, (3, SIDE, SIDE), CLASSES)
