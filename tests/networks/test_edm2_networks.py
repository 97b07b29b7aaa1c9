"""EDM2's layers preserve magnitude; its U-Net and preconditioner have the published names and behaviour."""

import math

import pytest
import torch
import torch.nn.functional as F

from scorefield import networks
from scorefield.errors import UserError
from scorefield.networks.edm2_layers import (
    Block,
    MPConv,
    MPFourier,
    mp_cat,
    mp_silu,
    mp_sum,
    normalize,
    resample,
)

F64 = torch.float64


def precond(label_dim=0, seed=0, **options):
    torch.manual_seed(seed)
    base = {"img_resolution": 8, "img_channels": 3, "label_dim": label_dim, "model_channels": 32}
    shape = {"channel_mult": [1, 2], "num_blocks": 1, "attn_resolutions": [4], "channels_per_head": 16}
    network = networks.build("Precond", {**base, **shape, **options})
    with torch.no_grad():  # gains start at zero, which would hide everything behind them
        for name, p in network.named_parameters():
            if name.endswith("gain"):
                p.fill_(0.7)
    return network.eval()


def rms(x):
    return x.float().square().mean().sqrt().item()


# ---------------------------------------------------------------------- layers


def test_normalize():
    x = torch.randn(3, 5, 4, 4) * 7
    for dim in (None, 1):
        axes = (1, 2, 3) if dim is None else dim
        torch.testing.assert_close(normalize(x, dim), x / (x.square().mean(axes, keepdim=True).sqrt() + 1e-4))


def test_sums_and_joins_keep_magnitude():
    torch.manual_seed(0)
    a, b = torch.randn(4, 300, 16, 16), torch.randn(4, 100, 16, 16)
    for t in (0.0, 0.3, 0.5, 1.0):
        assert rms(mp_sum(a, torch.randn_like(a), t)) == pytest.approx(1, abs=0.01)
        joined = mp_cat(a, b, t=t)
        assert rms(joined) == pytest.approx(1, abs=0.01)
        shares = joined[:, :300].square().sum(), joined[:, 300:].square().sum()
        assert (shares[1] / (shares[0] + shares[1])).item() == pytest.approx(t**2 / ((1 - t) ** 2 + t**2), abs=0.01)
    assert rms(mp_silu(torch.randn(200_000))) == pytest.approx(1, abs=0.01)


@pytest.mark.parametrize("kernel", [[], [1, 1], [3, 3]])
def test_convolutions_keep_magnitude(kernel):
    torch.manual_seed(0)
    layer = MPConv(64, 96, kernel)
    with torch.no_grad():
        layer.weight.mul_(13)  # the stored scale must not matter
    x = torch.randn(8, 64, 24, 24) if kernel else torch.randn(4000, 64)
    out = layer(x)
    inside = out[:, :, 1:-1, 1:-1] if kernel else out
    assert rms(inside) == pytest.approx(1, abs=0.03)
    torch.testing.assert_close(layer(x, gain=0.25), 0.25 * out)


def test_convolution_in_formulae():
    layer = MPConv(4, 6, [3, 3]).eval()
    x = torch.randn(2, 4, 5, 5)
    rows = layer.weight.flatten(1)
    scaled = rows / (rows.square().mean(1, keepdim=True).sqrt() + 1e-4) / 6
    torch.testing.assert_close(layer(x), F.conv2d(x, scaled.view_as(layer.weight), padding=1))


def test_forced_weight_normalisation():
    """In training the stored weight is replaced by its normalised self; in evaluation nothing is written."""
    layer = MPConv(8, 6, [3, 3])
    with torch.no_grad():
        layer.weight.mul_(5)
    before, x = layer.weight.detach().clone(), torch.randn(2, 8, 4, 4)
    kept = layer.eval()(x)
    assert torch.equal(layer.weight, before)
    trained = layer.train()(x)
    torch.testing.assert_close(layer.weight.detach(), normalize(before))
    torch.testing.assert_close(trained, kept, rtol=1e-3, atol=1e-4)  # eps: normalising twice
    twice = layer(x) + layer(x)
    twice.sum().backward()  # two forwards in one graph are no error
    assert (layer.weight * layer.weight.grad).flatten(1).sum(1).abs().max() < 1e-3 * layer.weight.grad.norm() * 9


def test_fourier_features():
    torch.manual_seed(0)
    features = MPFourier(4000)
    x = torch.linspace(-2, 2, 5)
    wanted = math.sqrt(2) * (features.freqs * x[:, None] + features.phases).cos()
    torch.testing.assert_close(features(x), wanted)
    assert rms(features(x)) == pytest.approx(1, abs=0.02)
    assert features.freqs.std().item() == pytest.approx(2 * math.pi, rel=0.05)
    assert 0 <= features.phases.min() < 0.1 < 6.2 < features.phases.max() <= 2 * math.pi


@pytest.mark.parametrize("taps", [[1, 1], [1, 3, 3, 1]])
def test_resampling(taps):
    x = torch.randn(2, 3, 6, 6, dtype=F64)
    line = torch.tensor(taps, dtype=F64)
    kernel = (torch.outer(line, line) / line.sum() ** 2).expand(3, 1, -1, -1)
    pad = (len(taps) - 1) // 2
    down = F.conv2d(x, kernel, stride=2, padding=pad, groups=3)
    up = F.conv_transpose2d(x, 4 * kernel, stride=2, padding=pad, groups=3)
    torch.testing.assert_close(resample(x, taps, "down"), down, rtol=1e-6, atol=1e-7)
    torch.testing.assert_close(resample(x, taps, "up"), up, rtol=1e-6, atol=1e-7)
    assert resample(x, taps, "keep") is x


@pytest.mark.parametrize("flavor", ["enc", "dec"])
def test_block_in_formulae(flavor):
    torch.manual_seed(0)
    block = Block(6, 8, 5, flavor, "down", attention=True, channels_per_head=4, clip_act=1.1).eval()
    with torch.no_grad():
        block.emb_gain.fill_(0.5)
    x, emb = torch.randn(2, 6, 4, 4), torch.randn(2, 5)
    h = F.avg_pool2d(x, 2)
    if flavor == "enc":
        h = block.conv_skip(h)
        h = h / (h.square().mean(1, keepdim=True).sqrt() + 1e-4)
    y = block.conv_res0(F.silu(h) / 0.596)
    y = y * (1 + 0.5 * block.emb_linear(emb))[:, :, None, None]
    y = block.conv_res1(F.silu(y) / 0.596)
    h = h if flavor == "enc" else block.conv_skip(h)
    h = (0.7 * h + 0.3 * y) / math.sqrt(0.58)
    qkv = block.attn_qkv(h).view(2, 2, 4, 3, 4)  # head, channel, part, pixel
    q, k, v = (p / (p.square().mean(2, keepdim=True).sqrt() + 1e-4) for p in qkv.unbind(3))
    weights = torch.einsum("bhcq,bhck->bhqk", q, k).div(2).softmax(-1)
    a = block.attn_proj(torch.einsum("bhqk,bhck->bhcq", weights, v).reshape(2, 8, 2, 2))
    wanted = ((0.7 * h + 0.3 * a) / math.sqrt(0.58)).clamp(-1.1, 1.1)
    torch.testing.assert_close(block(x, emb), wanted, rtol=1e-4, atol=1e-5)
    assert bool((wanted.abs() == 1.1).any())


def test_block_gradients():
    torch.manual_seed(0)
    for flavor, mode in (("enc", "down"), ("dec", "up")):
        block = Block(4, 6, 3, flavor, mode, resample_filter=[1, 3, 3, 1], attention=True, channels_per_head=3)
        block = block.double().eval()
        torch.nn.init.constant_(block.emb_gain, 0.4)
        x = torch.randn(1, 4, 4, 4, dtype=F64, requires_grad=True)
        emb = torch.randn(1, 3, dtype=F64, requires_grad=True)
        assert torch.autograd.gradcheck(block, (x, emb))
    with pytest.raises(UserError, match="enc"):
        Block(4, 4, 3, "encoder")


# ---------------------------------------------------------------------- network


def test_activations_keep_unit_magnitude_through_the_network():
    """Random weights, unit-variance input: every block's output has a root mean square near one."""
    network = precond(model_channels=64, channel_mult=[1, 2, 2], img_resolution=16, channels_per_head=32).unet
    with torch.no_grad():
        network.out_gain.fill_(1)
        for part in network.modules():
            if isinstance(part, Block):
                part.emb_gain.zero_()
    seen = {}
    for name, part in [*network.enc.items(), *network.dec.items()]:
        part.register_forward_hook(lambda _, __, out, name=name: seen.__setitem__(name, rms(out)))
    out = network(torch.randn(8, 3, 16, 16), torch.randn(8), None)
    assert len(seen) == len(network.enc) + len(network.dec) - len(set(network.enc) & set(network.dec))
    assert all(0.6 < value < 1.4 for value in seen.values()), seen
    assert rms(out) == pytest.approx(1, abs=0.35)


def test_tensor_names():
    names = list(precond(label_dim=4).state_dict())
    assert names[:6] == [
        "unet.out_gain",
        "unet.emb_fourier.freqs",
        "unet.emb_fourier.phases",
        "unet.emb_noise.weight",
        "unet.emb_label.weight",
        "unet.enc.8x8_conv.weight",
    ]
    assert names[-4:] == [
        "unet.out_conv.weight",
        "logvar_fourier.freqs",
        "logvar_fourier.phases",
        "logvar_linear.weight",
    ]
    parts = ["emb_gain", *(f"{n}.weight" for n in ("conv_res0", "emb_linear", "conv_res1", "conv_skip"))]
    wanted = [*parts, "attn_qkv.weight", "attn_proj.weight"]
    assert [n.removeprefix("unet.enc.4x4_block0.") for n in names if "enc.4x4_block0" in n] == wanted
    assert not any(name.endswith("bias") for name in names)


def test_fresh_network_is_the_skip_of_the_preconditioner():
    network = networks.build("Precond", {"img_resolution": 8, "img_channels": 3, "label_dim": 0, "model_channels": 16})
    x = torch.randn(2, 3, 8, 8)
    torch.testing.assert_close(network(x, torch.tensor([0.5, 0.5])), x / 2)  # out_gain starts at zero


def test_identity_without_noise_labels_and_log_variance():
    network = precond(label_dim=4)
    x, sigma = torch.randn(2, 3, 8, 8), torch.tensor([0.3, 2.0])
    assert (network(x, torch.full((2,), 1e-5)) - x).abs().max() < 1e-3
    out, logvar = network(x, sigma, torch.eye(4)[:2], return_logvar=True)
    assert logvar.shape == (2, 1, 1, 1)
    features = network.logvar_fourier(sigma.log() / 4)
    torch.testing.assert_close(logvar.flatten(), network.logvar_linear(features).flatten())
    assert not torch.allclose(network(x, sigma, torch.eye(4)[[2, 3]]), out)
    torch.testing.assert_close(network(x, sigma), network(x, sigma, torch.zeros(2, 4)))
    torch.testing.assert_close(network(x, torch.tensor(0.3)), network(x, torch.full((2,), 0.3)))


def test_a_raw_network_with_classes_needs_labels():
    with pytest.raises(UserError, match="give class_labels"):
        precond(label_dim=4).unet(torch.randn(1, 3, 8, 8), torch.zeros(1), None)


def test_labels_are_blended_at_unit_magnitude():
    network = precond(label_dim=4, label_balance=0.2).unet
    captured = {}
    hook = network.enc["4x4_down"].register_forward_pre_hook(lambda _, given: captured.update(emb=given[1]))
    noise, label = torch.randn(2), torch.eye(4)[:2]
    network(torch.randn(2, 3, 8, 8), noise, label)
    hook.remove()
    plain, told = network.emb_noise(network.emb_fourier(noise)), network.emb_label(2 * label)
    wanted = mp_silu((0.8 * plain + 0.2 * told) / math.sqrt(0.68))
    torch.testing.assert_close(captured["emb"], wanted)


def test_skips_are_joined_by_their_balance_and_a_channel_of_ones_enters():
    network = precond(concat_balance=0.2).unet
    seen = {}
    for name in ("8x8_conv", "4x4_block0"):
        network.enc[name].register_forward_hook(lambda _, given, out, name=name: seen.update({name: (given[0], out)}))
    for name in ("4x4_in1", "4x4_block0"):
        key = f"dec.{name}"
        network.dec[name].register_forward_hook(lambda _, given, out, key=key: seen.update({key: (given[0], out)}))
    x = torch.randn(2, 3, 8, 8)
    network(x, torch.randn(2), None)
    torch.testing.assert_close(seen["8x8_conv"][0], torch.cat([x, torch.ones(2, 1, 8, 8)], 1))
    deep, skip = seen["dec.4x4_in1"][1], seen["4x4_block0"][1]
    wanted = torch.cat([0.8 * deep, 0.2 * skip], 1) * math.sqrt(2 / 0.68)  # 64 channels each
    torch.testing.assert_close(seen["dec.4x4_block0"][0], wanted)


def test_training_changes_weights_in_place_and_evaluation_does_not():
    network = precond(dropout=0.1)
    x, sigma = torch.randn(2, 3, 8, 8), torch.tensor([0.3, 2.0])
    with torch.no_grad():
        network.unet.enc["8x8_conv"].weight.mul_(3)
    before = network.unet.enc["8x8_conv"].weight.detach().clone()
    first = network(x, sigma)
    assert torch.equal(first, network(x, sigma))
    assert torch.equal(network.unet.enc["8x8_conv"].weight, before)
    network.train()(x, sigma).sum().backward()
    assert rms(network.unet.enc["8x8_conv"].weight.detach()) == pytest.approx(1, abs=1e-3)
    assert all(p.grad is not None for n, p in network.named_parameters() if not n.startswith("logvar"))
