"""The half-precision paths, made to run on the CPU: same pictures up to rounding, float32 at both ends."""

import pytest
import torch

from scorefield import networks
from scorefield.networks import edm2_unet, edm_precond, stylegan2, stylegan2_discriminator


@pytest.fixture(autouse=True)
def half_everywhere(monkeypatch):
    for module in (edm2_unet, edm_precond, stylegan2, stylegan2_discriminator):
        monkeypatch.setattr(module, "half_allowed", lambda x: True)


def dtypes_of(network):
    """Names of the modules whose output was in half precision, filled while the network runs."""
    seen = set()
    for name, module in network.named_modules():
        module.register_forward_hook(
            lambda _, __, out, name=name: seen.add(name) if getattr(out, "dtype", None) == torch.float16 else None
        )
    return seen


def compare(network, *inputs, tolerance, **options):
    seen = dtypes_of(network)
    half = network(*inputs, **options)
    assert seen
    assert half.dtype == torch.float32
    seen.clear()
    full = network(*inputs, force_fp32=True, **options)
    assert not seen
    assert not torch.equal(half, full)
    assert (half - full).abs().max() < tolerance * full.abs().max()


@pytest.mark.parametrize("architecture", ["skip", "resnet"])
@pytest.mark.parametrize("training", [True, False])
def test_stylegan2(architecture, training):
    torch.manual_seed(0)
    base = {"z_dim": 16, "c_dim": 0, "w_dim": 16, "img_resolution": 16, "img_channels": 3}
    options = {"channel_base": 256, "channel_max": 32, "architecture": architecture}
    network = networks.build("Generator", {**base, **options}, dialect=networks.STYLEGAN3).train(training)
    compare(network, torch.randn(2, 16), noise_mode="const", tolerance=0.02)
    shape = {k: v for k, v in base.items() if k not in ("z_dim", "w_dim")}
    judge = networks.build("Discriminator", {**shape, **options}, dialect=networks.STYLEGAN3).train(training)
    compare(judge, torch.randn(4, 3, 16, 16), tolerance=0.05)


SHAPE = {"model_channels": 32, "num_blocks": 1, "channel_mult": [1, 2], "attn_resolutions": [4]}
PIXELS = {"img_resolution": 8, "img_channels": 3, "label_dim": 3, "use_fp16": True, **SHAPE}


@pytest.mark.parametrize(
    ("kind", "options"),
    [
        ("EDMPrecond", {"model_type": "SongUNet"}),
        ("VPPrecond", {"embedding_type": "fourier", "encoder_type": "residual", "resample_filter": [1, 3, 3, 1]}),
        ("EDMPrecond", {"model_type": "DhariwalUNet", "model_channels": 64}),
        ("Precond", {"channels_per_head": 16}),
    ],
)
def test_denoisers(kind, options):
    torch.manual_seed(0)
    network = networks.build(kind, {**PIXELS, **options}).eval()
    with torch.no_grad():
        for p in network.parameters():
            p.add_(torch.randn_like(p) * 0.05)
    compare(network, torch.randn(2, 3, 8, 8), torch.tensor([0.5, 4.0]), torch.eye(3)[:2], tolerance=0.02)
