"""StyleGAN2 against explicit per-sample arithmetic, its identities, and the tensor names of the checkpoints."""

import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from scipy.signal import convolve2d

from scorefield import networks
from scorefield.errors import UserError
from scorefield.networks.resample import make_filter
from scorefield.networks.style_layers import Conv2dLayer, FullyConnectedLayer, modulated_conv2d
from scorefield.networks.stylegan2_discriminator import MinibatchStdLayer

F64 = torch.float64
FIR = make_filter([1, 3, 3, 1]).double()


def generator(resolution=16, c_dim=0, architecture="skip", seed=0, dialect=networks.ADA, **options):
    """A small generator with every parameter away from its start."""
    torch.manual_seed(seed)
    synthesis = {"channel_base": 256, "channel_max": 24, "architecture": architecture, **options}
    nested = {"synthesis_kwargs": synthesis} if dialect == networks.ADA else synthesis
    base = {"z_dim": 20, "c_dim": c_dim, "w_dim": 16, "img_resolution": resolution, "img_channels": 3}
    network = networks.build("Generator", {**base, "mapping_kwargs": {"num_layers": 2}, **nested}, dialect=dialect)
    with torch.no_grad():
        for name, p in network.named_parameters():
            p.add_(torch.randn_like(p) * (0.3 if "noise_strength" not in name else 1.0))
        network.mapping.w_avg.normal_()
    return network.eval()


def near(got, wanted, tolerance=1e-5):
    assert got.shape == wanted.shape
    assert (got - wanted).abs().max() <= tolerance * wanted.abs().max()


# ---------------------------------------------------------------------- modulated convolution


@pytest.mark.parametrize("fused", [True, False])
@pytest.mark.parametrize("up", [1, 2])
@pytest.mark.parametrize("demodulate", [True, False])
def test_modulated_convolution_sample_by_sample(fused, up, demodulate):
    x = torch.randn(3, 4, 5, 5, dtype=F64)
    weight, styles = torch.randn(6, 4, 3, 3, dtype=F64), torch.randn(3, 4, dtype=F64)
    noise = torch.randn(3, 1, 5 * up, 5 * up, dtype=F64)
    got = modulated_conv2d(
        x, weight, styles, noise, up=up, padding=1, kernel=FIR, demodulate=demodulate, fused_modconv=fused
    )
    for b in range(3):
        own = weight * styles[b].view(1, 4, 1, 1)
        if demodulate:
            own = own / (own.square().sum((1, 2, 3), keepdim=True) + 1e-8).sqrt()
        for o in range(6):
            plane = np.zeros((5 * up, 5 * up))
            for i in range(4):
                if up == 1:
                    plane += F.conv2d(x[b : b + 1, i : i + 1], own[o : o + 1, i : i + 1], padding=1)[0, 0].numpy()
                else:
                    stuffed = np.zeros((10, 10))
                    stuffed[::2, ::2] = x[b, i].numpy()
                    full = 4 * convolve2d(convolve2d(stuffed, own[o, i].numpy()), FIR.numpy())
                    plane += full[2:12, 2:12]
            np.testing.assert_allclose(got[b, o].numpy(), plane + noise[b, 0].numpy(), atol=1e-10)


@pytest.mark.parametrize("fused", [True, False])
def test_modulated_convolution_gradients(fused):
    x = torch.randn(2, 2, 3, 3, dtype=F64, requires_grad=True)
    weight = torch.randn(3, 2, 3, 3, dtype=F64, requires_grad=True)
    styles = torch.randn(2, 2, dtype=F64, requires_grad=True)

    def run(x, weight, styles):
        return modulated_conv2d(x, weight, styles, up=2, padding=1, kernel=FIR, fused_modconv=fused)

    assert torch.autograd.gradcheck(run, (x, weight, styles))
    assert torch.autograd.gradgradcheck(run, (x, weight, styles))


def test_half_precision_scaling_cancels():
    """Weights and styles far from one overflow half precision unless they are scaled first."""
    torch.manual_seed(0)
    x = torch.randn(2, 64, 8, 8)
    weight, styles = torch.randn(16, 64, 3, 3) * 300, torch.randn(2, 64) * 200
    wanted = modulated_conv2d(x, weight, styles, padding=1)
    for fused in (True, False):
        got = modulated_conv2d(x.half(), weight, styles, padding=1, fused_modconv=fused)
        assert got.dtype == torch.float16
        near(got.float(), wanted, 5e-3)


# ---------------------------------------------------------------------- layers and mapping


def test_fully_connected_layer_in_formulae():
    layer = FullyConnectedLayer(6, 4, activation="lrelu", lr_multiplier=0.01, bias_init=0.5)
    x = torch.randn(3, 6)
    pre = x @ (layer.weight * 0.01 / math.sqrt(6)).T + layer.bias * 0.01
    torch.testing.assert_close(layer(x), math.sqrt(2) * torch.where(pre > 0, pre, 0.2 * pre))
    big = FullyConnectedLayer(400, 300, lr_multiplier=0.01)
    assert big.weight.std().item() == pytest.approx(100, rel=0.02)


def test_conv_layer_clamps_by_its_gain():
    layer = Conv2dLayer(2, 3, 3, activation="relu", conv_clamp=0.5)
    x = torch.randn(2, 2, 6, 6) * 10
    pre = F.conv2d(x, layer.weight / math.sqrt(18), padding=1).relu() * math.sqrt(2)
    torch.testing.assert_close(layer(x), pre.clamp(-0.5, 0.5))
    torch.testing.assert_close(layer(x, gain=0.3), (pre * 0.3).clamp(-0.15, 0.15))


def test_mapping_in_formulae():
    network = generator(c_dim=5)
    mapping = network.mapping
    z, c = torch.randn(4, 20), torch.eye(5)[torch.tensor([0, 3, 3, 1])]
    label = c @ mapping.embed.weight.T / math.sqrt(5) + mapping.embed.bias
    x = torch.cat([v / (v.square().mean(1, keepdim=True) + 1e-8).sqrt() for v in (z, label)], 1)
    for layer in (mapping.fc0, mapping.fc1):
        pre = x @ layer.weight.T * (0.01 / math.sqrt(x.shape[1])) + layer.bias * 0.01
        x = math.sqrt(2) * torch.where(pre > 0, pre, 0.2 * pre)
    ws = mapping(z, c)
    assert ws.shape == (4, network.num_ws, 16)
    near(ws, x[:, None].expand_as(ws))
    near(mapping(z * 7.5, c), ws)  # only the direction of z matters


def test_truncation():
    network = generator()
    z = torch.randn(3, 20)
    ws, average = network.mapping(z), network.mapping.w_avg
    near(network.mapping(z, truncation_psi=0.7), average + 0.7 * (ws - average))
    cut = network.mapping(z, truncation_psi=0.7, truncation_cutoff=2)
    near(cut[:, :2], (average + 0.7 * (ws - average))[:, :2])
    assert torch.equal(cut[:, 2:], ws[:, 2:])
    mean_picture = network.synthesis(average.expand(3, network.num_ws, -1), noise_mode="const")
    near(network(z, truncation_psi=0, noise_mode="const"), mean_picture)


def test_mean_latent_moves_only_as_the_dialect_says():
    z = torch.randn(50, 20)
    ada = generator()
    before = ada.mapping.w_avg.clone()
    ada(z)
    assert torch.equal(ada.mapping.w_avg, before)
    ada.train()(z, update_w_avg=False)
    assert torch.equal(ada.mapping.w_avg, before)
    ada(z)
    near(ada.mapping.w_avg, 0.995 * before + 0.005 * ada.mapping(z)[:, 0].mean(0))
    flat = generator(dialect=networks.STYLEGAN3).train()
    before = flat.mapping.w_avg.clone()
    flat(z)
    assert torch.equal(flat.mapping.w_avg, before)
    flat(z, update_w_avg=True)
    near(flat.mapping.w_avg, 0.998 * before + 0.002 * flat.mapping(z)[:, 0].mean(0))


# ---------------------------------------------------------------------- synthesis


def written_out(network, ws, clamp=None):
    """The whole synthesis, one sample at a time in float64, with stored noise."""
    state = {k: v.double() for k, v in network.synthesis.state_dict().items()}
    architecture, pictures = network.synthesis.b4.architecture, []

    def limit(value, gain=1.0):
        return value if clamp is None else value.clamp(-clamp * gain, clamp * gain)

    def doubled(plane):
        return F.interpolate(F.pad(plane, (1, 1, 1, 1)), scale_factor=2, mode="bilinear")[:, :, 2:-2, 2:-2]

    def layer(x, w, name, up, gain):
        weight = state[f"{name}.weight"]
        style = state[f"{name}.affine.weight"] @ w / math.sqrt(len(w)) + state[f"{name}.affine.bias"]
        own = weight * style[:, None, None]
        own = own / (own.square().sum((1, 2, 3), keepdim=True) + 1e-8).sqrt()
        if up:
            stuffed = torch.zeros(1, x.shape[1], 2 * x.shape[2], 2 * x.shape[2], dtype=F64)
            stuffed[:, :, ::2, ::2] = x
            x = F.conv2d(stuffed, own.flip(2, 3), padding=2)  # flipped: a true convolution
            x = 4 * F.conv2d(F.pad(x, (1, 1, 1, 1)), FIR.expand(x.shape[1], 1, 4, 4), groups=x.shape[1])
            x = x[:, :, :-1, :-1]
        else:
            x = F.conv2d(x, own, padding=1)
        x = x + state[f"{name}.noise_const"] * state[f"{name}.noise_strength"]
        x = x + state[f"{name}.bias"][:, None, None]
        return limit(torch.where(x > 0, x, 0.2 * x) * math.sqrt(2) * gain, gain)

    for sample in ws.double():
        x = img = None
        count = 0
        for side in network.synthesis.block_resolutions:
            name, last = f"b{side}", side == network.synthesis.block_resolutions[-1]
            if side == 4:
                x = layer(state["b4.const"][None], sample[0], "b4.conv1", False, 1.0)
                count = 1
            else:
                gain = math.sqrt(0.5) if architecture == "resnet" else 1.0
                if architecture == "resnet":
                    thin = F.conv2d(x, state[f"{name}.skip.weight"] / math.sqrt(x.shape[1]))
                    bypass = doubled(thin) * gain
                x = layer(x, sample[count], f"{name}.conv0", True, 1.0)
                x = layer(x, sample[count + 1], f"{name}.conv1", False, gain)
                x = x + bypass if architecture == "resnet" else x
                count += 2
            img = None if img is None else doubled(img)
            if last or architecture == "skip":
                rgb = f"{name}.torgb"
                w = sample[count]
                style = state[f"{rgb}.affine.weight"] @ w / math.sqrt(len(w)) + state[f"{rgb}.affine.bias"]
                weight = state[f"{rgb}.weight"] * (style / math.sqrt(len(style)))[:, None, None]
                y = limit(F.conv2d(x, weight) + state[f"{rgb}.bias"][:, None, None])
                img = y if img is None else img + y
        pictures.append(img)
    return torch.cat(pictures)


@pytest.mark.parametrize("architecture", ["orig", "skip", "resnet"])
@pytest.mark.parametrize("fused", [True, False])
@pytest.mark.parametrize("clamp", [None, 1.5])
def test_synthesis_written_out(architecture, fused, clamp):
    network = generator(architecture=architecture, conv_clamp=clamp)
    ws = torch.randn(2, network.num_ws, 16)  # every layer its own w
    with torch.no_grad():
        got = network.synthesis(ws, noise_mode="const", fused_modconv=fused)
        near(got.double(), written_out(network, ws, clamp), 2e-5)


def test_number_of_latents():
    assert generator(32).num_ws == 2 * 5 - 2
    assert networks.build(*networks.official("stylegan2-cifar10-uncond")).num_ws == 8


def test_noise_modes():
    network = generator()
    ws = network.mapping(torch.randn(2, 20))
    const, again = (network.synthesis(ws, noise_mode="const") for _ in range(2))
    assert torch.equal(const, again)
    sides = network.synthesis.noise_resolutions
    assert sides == [4, 8, 8, 16, 16]
    layers = [
        network.synthesis.get_submodule(n) for n in ("b4.conv1", "b8.conv0", "b8.conv1", "b16.conv0", "b16.conv1")
    ]
    stored = [layer.noise_const.expand(2, 1, -1, -1) for layer in layers]
    near(network.synthesis(ws, noise_mode="random", noise=stored), const)
    zero = [torch.zeros(2, 1, side, side) for side in sides]
    near(network.synthesis(ws, noise=zero), network.synthesis(ws, noise_mode="none"))
    torch.manual_seed(3)
    first = network.synthesis(ws)
    assert not torch.equal(first, network.synthesis(ws))
    torch.manual_seed(3)
    assert torch.equal(first, network.synthesis(ws))
    assert not generator(use_noise=False).synthesis.noise_resolutions


def test_training_and_evaluation_draw_the_same_picture():
    network = generator(architecture="resnet", dialect=networks.STYLEGAN3)
    z = torch.randn(3, 20)
    near(network.train()(z, noise_mode="const"), network.eval()(z, noise_mode="const"))
    assert torch.equal(network(z, noise_mode="const"), network(z, noise_mode="const"))


def test_every_parameter_gets_a_gradient():
    for architecture in ("orig", "skip", "resnet"):
        network = generator(c_dim=3, architecture=architecture).train()
        network(torch.randn(2, 20), torch.eye(3)[:2]).square().sum().backward()
        dead = [n for n, p in network.named_parameters() if p.grad is None or not p.grad.abs().sum() > 0]
        assert not dead


def test_half_precision_blocks():
    network = networks.build(*networks.official("stylegan2-cifar10-uncond"))
    assert [block.use_fp16 for block in network.synthesis.blocks] == [False, True, True, True]
    assert not any(block.use_fp16 for block in generator().synthesis.blocks)


# ---------------------------------------------------------------------- names, dialects, discriminator


def test_tensor_names_and_order():
    names = list(generator(8, architecture="resnet", c_dim=2).state_dict())
    layer = ["weight", "noise_strength", "bias", "resample_filter", "noise_const", "affine.weight", "affine.bias"]
    rgb = ["weight", "bias", "affine.weight", "affine.bias"]
    wanted = ["b4.const", "b4.resample_filter", *(f"b4.conv1.{n}" for n in layer)]
    wanted += ["b8.resample_filter", *(f"b8.conv0.{n}" for n in layer), *(f"b8.conv1.{n}" for n in layer)]
    wanted += [*(f"b8.torgb.{n}" for n in rgb), "b8.skip.weight", "b8.skip.resample_filter"]
    mapping = ["w_avg", "embed.weight", "embed.bias", "fc0.weight", "fc0.bias", "fc1.weight", "fc1.bias"]
    assert names == [f"synthesis.{n}" for n in wanted] + [f"mapping.{n}" for n in mapping]


def test_dialects_differ_in_their_defaults():
    flat = {"z_dim": 8, "c_dim": 0, "w_dim": 8, "img_resolution": 64, "img_channels": 3, "channel_base": 512}
    modern = networks.build("Generator", flat)
    assert modern.recipe["dialect"] == networks.STYLEGAN3
    assert modern.synthesis.b64.conv1.conv_clamp == 256
    assert [block.use_fp16 for block in modern.synthesis.blocks] == [False, True, True, True, True]
    assert modern.mapping.w_avg_beta == 0.998
    nested = {k: v for k, v in flat.items() if k != "channel_base"} | {"synthesis_kwargs": {"channel_base": 512}}
    old = networks.build("Generator", nested)
    assert old.recipe["dialect"] == networks.ADA
    assert old.synthesis.b64.conv1.conv_clamp is None
    assert not any(block.use_fp16 for block in old.synthesis.blocks)
    assert old.mapping.w_avg_beta == 0.995
    with pytest.raises(UserError, match="belongs inside synthesis_kwargs"):
        networks.build("Generator", flat, dialect=networks.ADA)


def discriminator(**options):
    torch.manual_seed(1)
    base = {"c_dim": 0, "img_resolution": 16, "img_channels": 3, "channel_base": 256, "channel_max": 24}
    return networks.build("Discriminator", {**base, **options}).eval()


def test_minibatch_deviation_by_hand():
    x = torch.randn(6, 4, 3, 3)
    got = MinibatchStdLayer(group_size=3, num_channels=2)(x)
    assert got.shape == (6, 6, 3, 3)
    for i in range(6):
        members = x[[j for j in range(6) if j % 2 == i % 2]]
        for f in range(2):
            part = members[:, 2 * f : 2 * f + 2]
            wanted = (part.var(0, unbiased=False) + 1e-8).sqrt().mean()
            torch.testing.assert_close(got[i, 4 + f], wanted.expand(3, 3))
    with pytest.raises(UserError, match="divide"):
        MinibatchStdLayer(4)(x)


def test_original_discriminator_written_out():
    network = discriminator(architecture="orig")
    state = {k: v.double() for k, v in network.state_dict().items()}
    img = torch.randn(4, 3, 16, 16)

    def conv(x, name, down=False):
        weight = state[f"{name}.weight"]
        weight = weight / math.sqrt(weight[0].numel())
        if down:
            x = F.conv2d(F.pad(x, (2, 2, 2, 2)), FIR.expand(x.shape[1], 1, 4, 4), groups=x.shape[1])
            x = F.conv2d(x, weight, stride=2)
        else:
            x = F.conv2d(x, weight, padding=weight.shape[-1] // 2)
        x = x + state[f"{name}.bias"][:, None, None]
        return torch.where(x > 0, x, 0.2 * x) * math.sqrt(2)

    x = conv(img.double(), "b16.fromrgb")
    for side in (16, 8):
        x = conv(conv(x, f"b{side}.conv0"), f"b{side}.conv1", down=True)
    spread = (x.var(0, unbiased=False) + 1e-8).sqrt().mean()
    x = conv(torch.cat([x, spread.expand(4, 1, 4, 4)], 1), "b4.conv").flatten(1)
    x = x @ state["b4.fc.weight"].T / math.sqrt(x.shape[1]) + state["b4.fc.bias"]
    x = torch.where(x > 0, x, 0.2 * x) * math.sqrt(2)
    x = x @ state["b4.out.weight"].T / math.sqrt(x.shape[1]) + state["b4.out.bias"]
    with torch.no_grad():
        near(network(img).double(), x)


@pytest.mark.parametrize("architecture", ["orig", "skip", "resnet"])
def test_discriminators_train(architecture):
    network = discriminator(architecture=architecture, c_dim=3, mapping_kwargs={"num_layers": 2}).train()
    img = torch.randn(4, 3, 16, 16, requires_grad=True)
    logits = network(img, torch.eye(3)[torch.tensor([0, 1, 2, 0])])
    assert logits.shape == (4, 1)
    (grad,) = torch.autograd.grad(logits.sum(), img, create_graph=True)
    (torch.nn.functional.softplus(logits).sum() + grad.square().sum()).backward()  # logistic loss with R1
    assert all(p.grad is not None and p.grad.isfinite().all() for p in network.parameters())
    with pytest.raises(UserError, match="was made for pictures"):
        network(torch.randn(1, 3, 8, 8), torch.eye(3)[:1])


def test_frozen_discriminator_layers_are_buffers():
    network = discriminator(block_kwargs={"freeze_layers": 3})
    trainable = {name for name, _ in network.named_parameters()}
    assert not any(name.startswith(("b16.fromrgb", "b16.conv0", "b16.conv1")) for name in trainable)
    assert "b16.skip.weight" in trainable
    assert set(network.state_dict()) == set(discriminator().state_dict())
    assert [network.b16.num_layers, network.b8.num_layers] == [4, 3]
