"""Building from recorded keyword arguments, parameter counts, strict loading, saving."""

import json

import numpy as np
import pytest
import torch

from scorefield import networks
from scorefield.errors import UserError

COUNTS = {
    "edm-cifar10-uncond-vp": 55_733_891,
    "edm-cifar10-cond-vp": 55_735_299,
    "edm-cifar10-uncond-ve": 56_397_827,
    "edm-cifar10-cond-ve": 56_400_643,
    "stylegan2-cifar10-uncond": 19_947_539,
    "stylegan2-cifar10-cond": 20_215_315,
    "stylegan2-cifar10-uncond-discriminator": 20_720_641,
    "stylegan2-cifar10-cond-discriminator": 23_089_664,
}
MILLIONS = {  # as printed in the papers and model cards
    "edm-ffhq64-uncond-vp": 61.8,
    "edm-imagenet64-cond-adm": 295.9,
    "edm2-img64-s": 280.2,
    "edm2-img512-xs": 124.7,
    "edm2-img512-s": 280.2,
    "edm2-img512-m": 497.8,
    "edm2-img512-l": 777.5,
    "edm2-img512-xl": 1119.3,
    "edm2-img512-xxl": 1523.2,
    "stylegan2-paper256": 24.77,
    "stylegan2-paper512": 30.28,
    "stylegan2-1024": 30.37,
}
SMALL_GAN = {
    "z_dim": 8,
    "c_dim": 0,
    "w_dim": 8,
    "img_resolution": 8,
    "img_channels": 3,
    "synthesis_kwargs": {"channel_base": 64, "channel_max": 8},
}
SMALL_UNET = {"model_channels": 16, "num_blocks": 1, "channel_mult": [1, 1], "attn_resolutions": [4]}
SMALL_EDM = {"img_resolution": 8, "img_channels": 3, "label_dim": 2, "model_type": "SongUNet", **SMALL_UNET}


def on_meta(name):
    with torch.device("meta"):
        return networks.build(*networks.official(name))


@pytest.mark.parametrize("name", [*COUNTS, *MILLIONS])
def test_parameter_counts(name):
    count = sum(p.numel() for p in on_meta(name).parameters())
    if name in COUNTS:
        assert count == COUNTS[name]
    else:
        digits = len(str(MILLIONS[name]).split(".")[1])
        assert round(count / 1e6, digits) == MILLIONS[name]


def test_tensor_counts():
    assert len(on_meta("edm-cifar10-uncond-vp").state_dict()) == 425
    assert len(on_meta("edm-cifar10-cond-vp").state_dict()) == 427
    assert len(on_meta("stylegan2-cifar10-uncond").state_dict()) == 75
    assert len(on_meta("stylegan2-cifar10-cond").state_dict()) == 77


@pytest.mark.parametrize("name", networks.OFFICIAL)
def test_official_configurations_build(name):
    network = on_meta(name)
    assert network.recipe["class_name"] == networks.official(name)[0]


@pytest.mark.parametrize(
    ("class_name", "kwargs", "near"),
    [
        ("EDMPrecond", {**SMALL_EDM, "sigma_dta": 0.5}, "sigma_data"),
        ("EDMPrecond", {**SMALL_EDM, "model_chanels": 16}, "model_channels"),
        ("EDMPrecond", {**SMALL_EDM, "model_type": "SongUnet"}, "SongUNet"),
        ("EDMPrecond", {**SMALL_EDM, "encoder_type": "residuals"}, "residual"),
        ("EDMPrecond", {**SMALL_EDM, "in_channels": 3}, "img_channels"),
        ("Precond", {"img_resolution": 8, "img_channels": 3, "label_dim": 0, "clip_acts": 1}, "clip_act"),
        ("Generator", {**SMALL_GAN, "synthesis_kwargs": {"chanel_base": 1}}, "channel_base"),
        ("Generator", {**SMALL_GAN, "mapping_kwargs": {"num_layer": 1}}, "num_layers"),
        ("Generator", {**SMALL_GAN, "synthesis_kwarg": {}}, "synthesis_kwargs"),
        ("Generator", {**SMALL_GAN, "synthesis_kwargs": {"architecture": "skips"}}, "skip"),
        ("Discriminator", {"c_dim": 0, "img_resolution": 8, "img_channels": 3, "cmap_dims": 3}, "cmap_dim"),
        ("Generatr", {}, "Generator"),
    ],
)
def test_mistakes_name_the_nearest(class_name, kwargs, near):
    with pytest.raises(UserError, match=f'did you mean "{near}"'):
        networks.build(class_name, kwargs)


def test_other_mistakes_are_user_errors():
    with pytest.raises(UserError, match="power of two"):
        networks.build("Generator", {**SMALL_GAN, "img_resolution": 12})
    with pytest.raises(UserError, match="img_channels"):
        networks.build("EDMPrecond", {"img_resolution": 8})
    with pytest.raises(UserError, match="cannot be built"):
        networks.build("EDMPrecond", {**SMALL_EDM, "channel_mult": 3})
    with pytest.raises(UserError, match="dialect"):
        networks.build("Generator", SMALL_GAN, dialect="stylegan4")
    with pytest.raises(UserError, match="once"):
        networks.build("Generator", SMALL_GAN, args=[8])
    with pytest.raises(UserError, match="unknown configuration"):
        networks.official("edm-cifar10")


def test_positional_arguments_and_foreign_numbers():
    """Checkpoints record numpy scalars, and could record positional arguments."""
    rest = {k: v for k, v in SMALL_EDM.items() if k not in ("img_resolution", "img_channels")}
    network = networks.build("EDMPrecond", {**rest, "sigma_data": np.float64(0.25)}, args=(8, np.int64(3)))
    assert network.recipe["kwargs"]["img_resolution"] == 8
    assert network(torch.zeros(1, 3, 8, 8), torch.ones(1)).shape == (1, 3, 8, 8)


def test_strict_loading():
    network = networks.build("EDMPrecond", SMALL_EDM)
    state = networks.state_of(network)
    first = next(iter(state))
    with pytest.raises(UserError, match=f"missing: {first}"):
        networks.load_state(network, {k: v for k, v in state.items() if k != first})
    with pytest.raises(UserError, match=r"unknown: model\.map_extra"):
        networks.load_state(network, {**state, "model.map_extra": torch.zeros(1)})
    with pytest.raises(UserError, match=r"another shape: model.map_layer0.bias is \[3\], not \[64\]"):
        networks.load_state(network, {**state, "model.map_layer0.bias": torch.zeros(3)})
    half = {k: (v * 3).half() for k, v in state.items()}
    networks.load_state(network, half)
    assert all(torch.equal(v, half[k].float()) for k, v in network.state_dict().items())


@pytest.mark.parametrize(
    ("class_name", "kwargs", "dialect"),
    [
        ("EDMPrecond", {**SMALL_EDM, "sigma_data": np.float64(0.3)}, None),
        ("iDDPMPrecond", {**SMALL_EDM, "M": 20}, None),
        ("Precond", {"img_resolution": 8, "img_channels": 3, "label_dim": 2, **SMALL_UNET}, None),
        ("Generator", SMALL_GAN, None),
        ("Generator", {k: v for k, v in SMALL_GAN.items() if k != "synthesis_kwargs"}, networks.STYLEGAN3),
        ("Discriminator", {"c_dim": 0, "img_resolution": 8, "img_channels": 3, "channel_base": 64}, None),
    ],
)
def test_saved_networks_come_back_whole(tmp_path, class_name, kwargs, dialect):
    torch.manual_seed(0)
    network = networks.build(class_name, kwargs, dialect=dialect).eval()
    written = networks.save(network, tmp_path / "sub" / "net")
    assert sorted(path.name for path in written.parent.iterdir()) == ["net.json", "net.safetensors"]
    again = networks.load(tmp_path / "sub" / "net").eval()
    assert list(again.state_dict()) == list(network.state_dict())
    assert all(
        torch.equal(a, b) for a, b in zip(again.state_dict().values(), network.state_dict().values(), strict=True)
    )
    assert again.recipe["dialect"] == network.recipe["dialect"]
    inputs = {
        "Generator": lambda: (torch.ones(2, 8),),
        "Discriminator": lambda: (torch.ones(2, 3, 8, 8),),
    }.get(class_name, lambda: (torch.ones(2, 3, 8, 8), torch.tensor([0.5, 2.0])))()
    options = {"noise_mode": "const"} if class_name == "Generator" else {}
    assert torch.equal(again(*inputs, **options), network(*inputs, **options))


def test_recorded_settings_overrule_and_are_saved(tmp_path):
    network = networks.build("Generator", SMALL_GAN)
    recorded = {"synthesis.b8.conv1": {"conv_clamp": 0.01, "colour": "red"}, "mapping": {"w_avg_beta": 0.9}}
    networks.apply_recorded(network, recorded)
    assert network.synthesis.b8.conv1.conv_clamp == 0.01
    assert not hasattr(network.synthesis.b8.conv1, "colour")
    networks.save(network, tmp_path / "net")
    again = networks.load(tmp_path / "net")
    assert again.synthesis.b8.conv1.conv_clamp == 0.01
    assert again.mapping.w_avg_beta == 0.9
    assert json.loads((tmp_path / "net.json").read_text())["recorded"]["mapping"] == {"w_avg_beta": 0.9}
    with pytest.raises(UserError, match="no part called"):
        networks.apply_recorded(network, {"synthesis.b16": {}})
    with pytest.raises(UserError, match="plain value"):
        networks.apply_recorded(network, {"mapping": {"w_avg_beta": [1]}})


def test_broken_files_are_user_errors(tmp_path):
    with pytest.raises(UserError, match="cannot read"):
        networks.load(tmp_path / "none")
    networks.save(networks.build("Generator", SMALL_GAN), tmp_path / "net")
    (tmp_path / "net.safetensors").write_bytes(b"no tensors")
    with pytest.raises(UserError, match="cannot read"):
        networks.load(tmp_path / "net")
    (tmp_path / "net.json").write_text("{}")
    with pytest.raises(UserError, match="does not describe"):
        networks.load(tmp_path / "net")
    with pytest.raises(UserError, match="recipe"):
        networks.save(torch.nn.Linear(2, 2), tmp_path / "linear")
