"""EDM's layers, U-Nets and preconditioners against torch, closed forms and the names of the checkpoints."""

import math

import pytest
import torch
import torch.nn.functional as F

from scorefield import networks
from scorefield.errors import UserError
from scorefield.networks.unet_layers import (
    Conv2d,
    FourierEmbedding,
    GroupNorm,
    Linear,
    PositionalEmbedding,
    UNetBlock,
)

F64 = torch.float64
SMALL = {"model_channels": 16, "num_blocks": 1, "channel_mult": [1, 2], "attn_resolutions": [4], "dropout": 0.2}
VARIANTS = {
    "ddpmpp": {"model_type": "SongUNet", "augment_dim": 9, **SMALL},
    "ncsnpp": {
        "model_type": "SongUNet",
        "augment_dim": 9,
        "embedding_type": "fourier",
        "encoder_type": "residual",
        "channel_mult_noise": 2,
        "resample_filter": [1, 3, 3, 1],
        **SMALL,
    },
    "skips": {"model_type": "SongUNet", "encoder_type": "skip", "decoder_type": "skip", **SMALL},
    "adm": {"model_type": "DhariwalUNet", **SMALL, "model_channels": 64},
}


def precond(variant="ddpmpp", kind="EDMPrecond", label_dim=0, seed=0, **options):
    torch.manual_seed(seed)
    base = {"img_resolution": 8, "img_channels": 3, "label_dim": label_dim, **VARIANTS[variant], **options}
    network = networks.build(kind, base)
    with torch.no_grad():  # away from the zeros that residual branches start at
        for p in network.parameters():
            p.add_(torch.randn_like(p) * 0.05)
    return network.eval()


# ---------------------------------------------------------------------- layers


def filter_of(taps):
    line = torch.tensor(taps, dtype=F64)
    return torch.outer(line, line)[None, None] / line.sum() ** 2


@pytest.mark.parametrize("taps", [[1, 1], [1, 3, 3, 1], [1, 2, 4, 3, 1, 2]])
@pytest.mark.parametrize("fused", [False, True])
@pytest.mark.parametrize("kernel", [0, 1, 3])
def test_resampling_convolutions(taps, fused, kernel):
    """Doubling is a transposed convolution with four times the filter, halving a strided one."""
    x = torch.randn(2, 3, 6, 6, dtype=F64)
    out = 5 if kernel else 3
    reach, margin = (len(taps) - 1) // 2, kernel // 2
    kernel_f = filter_of(taps).expand(3, 1, len(taps), len(taps))
    for up in (True, False):
        layer = Conv2d(3, out, kernel, up=up, down=not up, resample_filter=taps, fused_resample=fused).double()
        if kernel:
            torch.nn.init.normal_(layer.bias)
        joined = fused and kernel > 0
        if up:
            pad = max(reach - margin, 0) if joined else reach
            wanted = F.conv_transpose2d(x, 4 * kernel_f, stride=2, padding=pad, groups=3)
            if kernel:
                wanted = F.conv2d(wanted, layer.weight, padding=max(margin - reach, 0) if joined else margin)
        elif joined:
            wanted = F.conv2d(x, layer.weight, padding=margin + reach)
            wanted = F.conv2d(wanted, filter_of(taps).expand(5, 1, -1, -1), stride=2, groups=5)
        else:
            wanted = F.conv2d(x, kernel_f, stride=2, padding=reach, groups=3)
            wanted = F.conv2d(wanted, layer.weight, padding=margin) if kernel else wanted
        if kernel:
            wanted = wanted + layer.bias[:, None, None]
        got = layer(x)
        assert got.shape[-1] == (12 if up else 3) or len(taps) == 6
        torch.testing.assert_close(got, wanted, rtol=1e-6, atol=1e-6)  # filters are float32 buffers


def test_group_norm_is_torchs():
    x = torch.randn(2, 48, 5, 5)
    ours, theirs = GroupNorm(48, eps=1e-6), torch.nn.GroupNorm(12, 48, eps=1e-6)
    torch.nn.init.normal_(ours.weight)
    torch.nn.init.normal_(ours.bias)
    theirs.load_state_dict(ours.state_dict())
    torch.testing.assert_close(ours(x), theirs(x))
    assert GroupNorm(256).num_groups == 32


@pytest.mark.parametrize("heads", [1, 3])
def test_attention_is_torchs(heads):
    """The block's attention has the numbers of nn.MultiheadAttention once its channels are put in order."""
    torch.manual_seed(0)
    channels, head = 12, 12 // heads
    block = UNetBlock(channels, channels, 8, attention=True, num_heads=heads)
    reference = torch.nn.MultiheadAttention(channels, heads, batch_first=True)
    order = torch.arange(3 * channels).view(heads, head, 3).permute(2, 0, 1).reshape(-1)  # ours: head, channel, qkv
    with torch.no_grad():
        block.qkv.weight.normal_()
        reference.in_proj_weight.copy_(block.qkv.weight[order, :, 0, 0])
        reference.in_proj_bias.copy_(block.qkv.bias[order])
        reference.out_proj.weight.copy_(torch.eye(channels))
        reference.out_proj.bias.zero_()
    x = torch.randn(2, channels, 3, 5)
    tokens = x.flatten(2).transpose(1, 2)
    wanted = reference(tokens, tokens, tokens, need_weights=False)[0]
    torch.testing.assert_close(block._attend(x), wanted.transpose(1, 2).view_as(x))


def test_block_in_formulae():
    torch.manual_seed(0)
    x, emb = torch.randn(2, 8, 4, 4), torch.randn(2, 6)
    plain = UNetBlock(8, 12, 6, adaptive_scale=False, skip_scale=0.7, eps=1e-6, init_zero={}).eval()
    h = plain.conv0(F.silu(F.group_norm(x, 2, plain.norm0.weight, plain.norm0.bias, 1e-6)))
    h = h + (emb @ plain.affine.weight.T + plain.affine.bias)[:, :, None, None]
    h = F.conv2d(F.silu(F.group_norm(h, 3, eps=1e-6)), plain.conv1.weight, padding=1)
    torch.testing.assert_close(plain(x, emb), 0.7 * (h + F.conv2d(x, plain.skip.weight, plain.skip.bias)))

    scaled = UNetBlock(8, 8, 6, init_zero={}).eval()
    assert scaled.skip is None
    h = scaled.conv0(F.silu(F.group_norm(x, 2)))
    scale, shift = (emb @ scaled.affine.weight.T + scaled.affine.bias)[:, :, None, None].split(8, 1)
    h = F.conv2d(F.silu(F.group_norm(h, 2) * (1 + scale) + shift), scaled.conv1.weight, padding=1)
    torch.testing.assert_close(scaled(x, emb), h + x)


def test_narrow_blocks_have_no_attention():
    assert UNetBlock(32, 32, 8, attention=True).num_heads == 0
    assert UNetBlock(128, 128, 8, attention=True).num_heads == 2
    assert not hasattr(UNetBlock(32, 32, 8, attention=True), "qkv")


def test_bypass_without_projection_only_resamples():
    block = UNetBlock(8, 8, 4, down=True)
    assert [name for name in block.state_dict() if name.startswith("skip")] == ["skip.resample_filter"]
    assert "skip.weight" in UNetBlock(8, 8, 4, down=True, resample_proj=True).state_dict()


def test_embeddings_in_formulae():
    x = torch.tensor([0.3, 7.0])
    for endpoint, last in ((True, 1e-4), (False, 1e-4 ** (3 / 4))):
        got = PositionalEmbedding(8, endpoint=endpoint)(x)
        steps = torch.tensor([1e-4 ** (i / (3 if endpoint else 4)) for i in range(4)])
        assert steps[-1].item() == pytest.approx(last)
        torch.testing.assert_close(got, torch.cat([(x[:, None] * steps).cos(), (x[:, None] * steps).sin()], 1))
    fourier = FourierEmbedding(8)
    angles = x[:, None] * (2 * math.pi * fourier.freqs)  # in this order: the angles are large
    torch.testing.assert_close(fourier(x), torch.cat([angles.cos(), angles.sin()], 1))
    assert FourierEmbedding(20000).freqs.std().item() == pytest.approx(16, rel=0.05)


def test_initial_spreads():
    for mode, scale in (("xavier_uniform", math.sqrt(6 / 1000) / math.sqrt(3)), ("kaiming_normal", math.sqrt(1 / 700))):
        weight = Linear(700, 300, init_mode=mode, init_weight=2).weight
        assert weight.std().item() == pytest.approx(2 * scale, rel=0.02)
    conv = Conv2d(70, 30, 3, init_mode="kaiming_uniform", init_bias=1)
    assert conv.weight.abs().max().item() == pytest.approx(math.sqrt(3 / 630), rel=1e-2)
    assert conv.bias.abs().max().item() <= math.sqrt(3 / 630)
    with pytest.raises(UserError, match='did you mean "xavier_normal"'):
        Linear(2, 2, init_mode="xavier_norml")


def test_layer_gradients():
    torch.manual_seed(0)
    options = {"num_heads": 1, "resample_filter": [1, 3, 3, 1], "init_zero": {}}
    for block in (
        UNetBlock(4, 8, 3, down=True, attention=True, resample_proj=True, adaptive_scale=False, **options),
        UNetBlock(8, 4, 3, up=True, attention=True, **options),
    ):
        block = block.double().eval()
        x = torch.randn(1, block.in_channels, 4, 4, dtype=F64, requires_grad=True)
        emb = torch.randn(1, 3, dtype=F64, requires_grad=True)
        assert torch.autograd.gradcheck(block, (x, emb))


# ---------------------------------------------------------------------- U-Nets


def test_tensor_names():
    names = set(precond("ncsnpp", label_dim=4).state_dict())
    assert {"model.map_noise.freqs", "model.map_label.weight", "model.map_label.bias"} <= names
    assert {"model.map_augment.weight", "model.map_layer0.weight", "model.map_layer1.bias"} <= names
    assert "model.map_augment.bias" not in names
    assert {"model.enc.8x8_conv.weight", "model.enc.4x4_aux_residual.resample_filter"} <= names
    assert {"model.dec.8x8_aux_norm.weight", "model.dec.8x8_aux_conv.bias", "model.dec.4x4_in1.conv0.weight"} <= names
    assert {"model.dec.8x8_up.skip.weight", "model.enc.4x4_down.conv0.resample_filter"} <= names
    adm = precond("adm", label_dim=4).state_dict()
    assert {"model.out_norm.weight", "model.out_conv.weight", "model.map_label.weight"} <= set(adm)
    assert "model.map_label.bias" not in adm
    assert adm["model.enc.8x8_block0.affine.weight"].shape == (128, 256)
    block = [n.removeprefix("model.enc.4x4_block0.") for n in precond().state_dict() if "enc.4x4_block0." in n]
    layers = ["norm0", "conv0", "affine", "norm1", "conv1", "skip", "norm2", "qkv", "proj"]
    assert block == [f"{layer}.{part}" for layer in layers for part in ("weight", "bias")]
    assert precond("skips").state_dict()["model.dec.8x8_aux_up.resample_filter"].shape == (1, 1, 2, 2)


def test_song_embedding_has_sines_first_and_scales_labels():
    network = precond(label_dim=4).model
    noise, label, augment = torch.randn(3), torch.eye(4)[:3], torch.randn(3, 9)
    swapped = network.map_noise(noise)
    swapped = torch.cat([swapped[:, 8:], swapped[:, :8]], 1)
    emb = swapped + 2 * (label @ network.map_label.weight.T) + network.map_label.bias
    emb = emb + augment @ network.map_augment.weight.T
    wanted = F.silu(network.map_layer1(F.silu(network.map_layer0(emb))))
    torch.testing.assert_close(network.embed(noise, label, augment), wanted)


def test_adm_embedding_adds_the_label_late():
    network = precond("adm", label_dim=4).model
    noise, label = torch.randn(3), torch.eye(4)[:3]
    told = label @ network.map_label.weight.T
    emb = network.map_layer1(F.silu(network.map_layer0(network.map_noise(noise))))
    torch.testing.assert_close(network.embed(noise, label, None), F.silu(emb + told))


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("kind", ["EDMPrecond", "VPPrecond", "VEPrecond", "iDDPMPrecond"])
def test_denoisers_run_and_train(variant, kind):
    network = precond(variant, kind, label_dim=4)
    x = torch.randn(2, 3, 8, 8, requires_grad=True)
    sigma, label = torch.tensor([0.3, 5.0]), torch.eye(4)[:2]
    out = network(x, sigma, label)
    assert out.shape == x.shape
    assert out.dtype == torch.float32
    out.square().sum().backward()
    assert x.grad.isfinite().all()
    dead = [n for n, p in network.named_parameters() if "map_augment" not in n and (p.grad is None or not p.grad.any())]
    assert not dead
    assert torch.equal(network(x, sigma, label), out)
    assert torch.equal(network(x.double(), sigma.double(), label), out)


def watch(parts):
    """First input and output of each part, by name, filled while the network runs."""
    seen = {}
    for name, part in parts.items():
        part.register_forward_hook(lambda _, given, out, name=name: seen.update({name: (given[0], out)}))
    return seen


def test_residual_encoder_adds_the_halved_picture():
    network, x = precond("ncsnpp").model, torch.randn(2, 3, 8, 8)
    enc, dec = watch(network.enc), watch(network.dec)
    network(x, torch.randn(2))
    torch.testing.assert_close(enc["4x4_aux_residual"][0], x)
    joined = (enc["4x4_down"][1] + enc["4x4_aux_residual"][1]) / math.sqrt(2)
    torch.testing.assert_close(enc["4x4_block0"][0], joined)
    kept = [enc["8x8_conv"][1], enc["8x8_block0"][1], joined, enc["4x4_block0"][1]]
    before = {"4x4_block0": "4x4_in1", "4x4_block1": "4x4_block0", "8x8_block0": "8x8_up", "8x8_block1": "8x8_block0"}
    for name, previous in before.items():
        torch.testing.assert_close(dec[name][0], torch.cat([dec[previous][1], kept.pop()], 1))


def test_skip_encoder_and_decoder_carry_a_picture():
    network, x = precond("skips").model, torch.randn(2, 3, 8, 8)
    enc, dec = watch(network.enc), watch(network.dec)
    out = network(x, torch.randn(2))
    torch.testing.assert_close(enc["4x4_aux_down"][1], F.avg_pool2d(x, 2))
    torch.testing.assert_close(enc["4x4_block0"][0], enc["4x4_down"][1] + enc["4x4_aux_skip"][1])
    torch.testing.assert_close(dec["4x4_aux_conv"][0], F.silu(dec["4x4_aux_norm"][1]))
    low = F.interpolate(dec["4x4_aux_conv"][1], scale_factor=2)
    torch.testing.assert_close(out, low + dec["8x8_aux_conv"][1])


def test_classes_matter_and_no_class_is_the_zero_label():
    network = precond(label_dim=4)
    x, sigma = torch.randn(2, 3, 8, 8), torch.tensor([1.0, 1.0])
    assert not torch.allclose(network(x, sigma, torch.eye(4)[[0, 0]]), network(x, sigma, torch.eye(4)[[1, 1]]))
    torch.testing.assert_close(network(x, sigma), network(x, sigma, torch.zeros(2, 4)))


@pytest.mark.parametrize("variant", ["ddpmpp", "adm"])
def test_raw_networks_with_classes_need_labels(variant):
    with pytest.raises(UserError, match="give class_labels"):
        precond(variant, label_dim=4).model(torch.randn(1, 3, 8, 8), torch.zeros(1))


def test_augmentation_labels_of_zero_are_none():
    network = precond()
    x, sigma = torch.randn(2, 3, 8, 8), torch.tensor([1.0, 1.0])
    plain = network(x, sigma)
    torch.testing.assert_close(network(x, sigma, augment_labels=torch.zeros(2, 9)), plain)
    assert not torch.allclose(network(x, sigma, augment_labels=torch.ones(2, 9)), plain)


def test_dropout_only_in_training():
    network = precond(label_dim=4, label_dropout=0.5)
    x, sigma = torch.randn(2, 3, 8, 8), torch.tensor([1.0, 1.0])
    label = torch.eye(4)[:2]
    assert torch.equal(network(x, sigma, label), network(x, sigma, label))
    network.train()
    assert not torch.equal(network(x, sigma, label), network(x, sigma, label))
    unet = precond(label_dim=4, label_dropout=0.5, dropout=0).model.train()
    labels = torch.eye(4)[[0] * 400]
    emb = unet.embed(torch.zeros(400), labels, None)
    free = unet.eval().embed(torch.zeros(400), labels * 0, None)
    dropped = (emb - free).abs().amax(1) < 1e-6
    assert 120 < int(dropped.sum()) < 280


# ---------------------------------------------------------------------- preconditioning


def test_edm_becomes_the_identity_without_noise():
    network, x = precond(), torch.randn(2, 3, 8, 8)
    for sigma in (1e-3, 1e-5):
        assert (network(x, torch.tensor([sigma] * 2)) - x).abs().max() < 20 * sigma


@pytest.mark.parametrize("kind", ["VPPrecond", "VEPrecond", "iDDPMPrecond"])
def test_the_others_become_the_identity_without_noise(kind):
    network, x = precond(kind=kind), torch.randn(2, 3, 8, 8)
    assert (network(x, torch.tensor([1e-6] * 2)) - x).abs().max() < 1e-4


def test_edm_coefficients():
    """Unit variance at input and target for data of deviation sigma_data (appendix B.6)."""
    network = precond(sigma_data=0.7)
    sigma = torch.tensor([0.01, 0.7, 30.0], dtype=F64)
    c_skip, c_out, c_in, c_noise = network.coefficients(sigma)
    torch.testing.assert_close(c_in**2 * (0.49 + sigma**2), torch.ones(3, dtype=F64))
    target = ((1 - c_skip) ** 2 * 0.49 + c_skip**2 * sigma**2) / c_out**2
    torch.testing.assert_close(target, torch.ones(3, dtype=F64))
    torch.testing.assert_close(c_noise, sigma.log() / 4)


def test_vp_schedule():
    """sigma^2 = 1/alpha_bar - 1 with alpha_bar from beta(t) = beta_min + beta_d t integrated numerically."""
    network = precond(kind="VPPrecond")
    for t in (0.05, 0.5, 1.0):
        grid = torch.linspace(0, t, 20_001, dtype=F64)
        integral = torch.trapezoid(0.1 + 19.9 * grid, grid).item()
        wanted = math.sqrt(math.exp(integral) - 1)
        assert float(network.sigma(t)) == pytest.approx(wanted, rel=1e-5)
        assert float(network.sigma_inv(torch.tensor(wanted, dtype=F64))) == pytest.approx(t, rel=1e-5)
    assert network.sigma_max == pytest.approx(152.17, rel=1e-3)
    assert network.sigma_min == pytest.approx(1e-3, rel=0.05)  # float32, as in the checkpoints
    c_skip, c_out, c_in, c_noise = network.coefficients(torch.tensor([3.0]))
    assert (c_skip, c_out.item(), c_in.item()) == (1.0, -3.0, pytest.approx(10**-0.5))
    assert c_noise.item() == pytest.approx(999 * float(network.sigma_inv(torch.tensor(3.0))))


def test_ve_schedule():
    network = precond(kind="VEPrecond")
    assert (network.sigma_min, network.sigma_max) == (0.02, 100.0)
    c_skip, c_out, c_in, c_noise = network.coefficients(torch.tensor([3.0]))
    assert (c_skip, c_out.item(), c_in, c_noise.item()) == (1.0, 3.0, 1.0, pytest.approx(math.log(1.5)))


def test_iddpm_schedule():
    """Levels of the capped cosine schedule; any sigma is rounded to one of them for the network."""
    network = precond(kind="iDDPMPrecond")
    u = network.u
    assert u.shape == (1001,)
    assert u[1000] == 0
    assert bool((u[:-1] > u[1:]).all())
    bar = [math.sin(0.5 * math.pi * j / 1000 / 1.008) ** 2 for j in range(1001)]
    level = 0.0
    for j in range(1000, 0, -1):
        level = math.sqrt((level**2 + 1) / max(bar[j - 1] / bar[j], 0.001) - 1)
        if level > 0.5:  # float32 in the checkpoints: relative error falls with the level
            assert u[j - 1].item() == pytest.approx(level, rel=1e-3)
    assert network.sigma_max == u[0].item()
    assert network.sigma_min == u[999].item()
    between = (u[400] * 0.6 + u[401] * 0.4).view(1, 1, 1, 1)
    assert network.round_sigma(between).item() == u[400].item()
    assert network.round_sigma(u[[0, 17, 999]], return_index=True).tolist() == [0, 17, 999]
    assert network.coefficients(between)[3].item() == 999 - 400


def test_learned_variances_are_cut_off():
    network = precond("adm", "iDDPMPrecond")
    assert network.model.out_conv.weight.shape[0] == 6
    x, sigma = torch.randn(2, 3, 8, 8), torch.tensor([1.0, 2.0])
    before = network(x, sigma)
    with torch.no_grad():
        network.model.out_conv.weight[3:].normal_()
    assert torch.equal(network(x, sigma), before)


def test_one_sigma_serves_a_batch():
    network, x = precond(label_dim=4), torch.randn(3, 3, 8, 8)
    torch.testing.assert_close(network(x, torch.tensor(0.4)), network(x, torch.full((3,), 0.4)))
