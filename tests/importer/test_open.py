"""``open_network``: a module with the stored tensors and the settings that were in force, from every kind of store."""

import pytest
import torch
from torch import nn

from scorefield import networks
from scorefield.errors import UserError
from scorefield.importer import folder, load
from scorefield.importer.open import open_network
from scorefield.networks.store import build_around

from . import builders
from .writers import dump, module


@pytest.mark.parametrize("dialect", ["stylegan2-ada-pytorch", "stylegan3"])
def test_a_pickled_generator(tmp_path, dialect):
    path = dump(tmp_path / "net.pkl", builders.gan_file(dialect, c_dim=3))
    network = open_network(path)
    stored = load(path, "G_ema")
    assert network.state_dict().keys() == stored.state.keys()
    for name, value in network.state_dict().items():
        assert torch.equal(value, stored.state[name].float()), name
    # the repositories' defaults differ, and the file's own records say which held
    assert network.mapping.w_avg_beta == (0.995 if dialect == "stylegan2-ada-pytorch" else 0.998)
    picture = network(torch.randn(2, 8), torch.eye(3)[:2], noise_mode="const")
    assert picture.shape == (2, 3, 16, 16)


def test_pickle_folder_and_own_files_give_the_same_network(tmp_path):
    path = dump(tmp_path / "net.pkl", builders.gan_file())
    folder.write(load(path), tmp_path / "converted")
    first = open_network(path)
    networks.save(first, tmp_path / "own")
    z = torch.randn(2, 8)
    expected = first(z, None, noise_mode="const")
    for place in ("converted", "own"):
        assert torch.equal(open_network(tmp_path / place)(z, None, noise_mode="const"), expected), place


def as_pickled(network, kwargs=None):
    """A live network as the objects that official code would pickle."""
    if isinstance(network, nn.ModuleDict):
        return nn.ModuleDict({name: as_pickled(child) for name, child in network.items()})
    plain = {k: v for k, v in vars(network).items() if k[0] != "_" and isinstance(v, (bool, int, float, str))}
    left_out = {key: value for key, value in network._buffers.items() if key in network._non_persistent_buffers_set}
    return module(
        type(network).__name__,
        (),
        kwargs,
        network._parameters,
        {k: v for k, v in network._buffers.items() if v is not None and k not in left_out},
        left_out,
        {name: as_pickled(child) for name, child in network.named_children()},
        **plain,
    )


SMALL = {"img_resolution": 16, "img_channels": 3, "label_dim": 4, "model_channels": 32, "num_blocks": 1}
SONG = {**SMALL, "model_type": "SongUNet", "channel_mult": [1, 2], "attn_resolutions": [8]}
DENOISERS = {
    "ddpm++": ("EDMPrecond", {**SONG, "augment_dim": 9, "dropout": 0.13}),
    "ncsn++": (
        "EDMPrecond",
        {
            **SONG,
            "embedding_type": "fourier",
            "encoder_type": "residual",
            "decoder_type": "standard",
            "channel_mult_noise": 2,
            "resample_filter": [1, 3, 3, 1],
        },
    ),
    "adm": ("EDMPrecond", {**SMALL, "model_type": "DhariwalUNet", "channel_mult": [1, 2], "attn_resolutions": [8]}),
    "vp": ("VPPrecond", SONG),
    "ve": ("VEPrecond", SONG),
    "iddpm": ("iDDPMPrecond", {**SMALL, "model_type": "DhariwalUNet", "channel_mult": [1, 2], "attn_resolutions": [8]}),
}


@pytest.mark.parametrize("name", DENOISERS)
def test_a_pickled_denoiser_answers_as_the_one_that_was_written(tmp_path, name):
    torch.manual_seed(0)
    class_name, kwargs = DENOISERS[name]
    written = networks.build(class_name, kwargs).eval()
    for parameter in written.parameters():  # zero-initialised layers would hide a mistake
        parameter.data.add_(0.05 * torch.randn_like(parameter))
    path = dump(tmp_path / "edm.pkl", builders.edm_file(as_pickled(written, kwargs)))
    opened = open_network(path).eval()
    x, sigma, label = torch.randn(2, 3, 16, 16), torch.tensor([0.5, 3.0]), torch.eye(4)[:2]
    torch.testing.assert_close(opened(x, sigma, label), written(x, sigma, label), rtol=0, atol=0)
    assert (opened(x, sigma, label) - opened(x, sigma, label.flip(0))).abs().max() > 1e-4


def test_two_names_of_one_tensor_become_two_parameters():
    """A file may show one tensor under two names; training one must not move the other."""
    state = dict(networks.build("EDMPrecond", SONG).state_dict())
    one, other = (f"model.enc.16x16_block0.{name}.bias" for name in ("conv0", "conv1"))
    state[other] = state[one]
    opened = dict(build_around(state, "EDMPrecond", SONG).named_parameters())
    assert torch.equal(opened[one], opened[other])
    with torch.no_grad():
        opened[one].add_(1)
    assert not torch.equal(opened[one], opened[other])


def test_half_precision_is_widened_and_every_tensor_has_memory(tmp_path):
    written = networks.build("EDMPrecond", SONG)
    opened = open_network(dump(tmp_path / "edm.pkl", builders.edm_file(as_pickled(written.half(), SONG))))
    for name, value in opened.state_dict().items():
        assert (value.dtype, value.device.type) == (torch.float32, "cpu"), name
        assert torch.equal(value, written.state_dict()[name].float()), name
    assert all(p.requires_grad for p in opened.parameters())


def test_what_is_not_there(tmp_path):
    with pytest.raises(UserError, match="no network at"):
        open_network(tmp_path / "nothing")
    path = dump(tmp_path / "edm.pkl", builders.edm_file())
    with pytest.raises(UserError, match="G_ema"):
        open_network(path, "G_ema")


def test_a_misspelt_embedded_network_is_told_the_right_one(monkeypatch):
    """OWNER/NAME reads like a hub id, too: what is said must not be the hub's answer alone."""
    monkeypatch.setattr("scorefield.teachers.hub.reachable", lambda: False)
    monkeypatch.setattr("scorefield.teachers.pixel_unet.reachable", lambda: False)
    with pytest.raises(UserError, match=r'no network at "toybox32/gann" \(did you mean "toybox32/gan"\?\)'):
        open_network("toybox32/gann")
    with pytest.raises(UserError, match=r"^somebody/something is neither a local folder nor a hub repository"):
        open_network("somebody/something")
