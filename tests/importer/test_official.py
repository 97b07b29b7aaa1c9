"""Files of every official dialect give back names, order, dtypes, values and settings, and nothing in them runs."""

import sys

import numpy as np
import pytest
import torch

from scorefield.importer import ImportRefused, load

from . import builders
from .writers import SOURCE, PersistentModule, dump, module


def check_same(imported, network):
    """Weights and settings equal those of the module that was written."""
    wanted = network.state_dict()
    assert list(imported.state) == list(wanted)
    for name, tensor in wanted.items():
        got = imported.state[name]
        assert got.dtype == tensor.dtype
        assert got.is_contiguous()
        assert torch.equal(got, tensor), name
    kept = {name for name, _ in network.named_buffers()} & set(wanted)
    assert imported.buffers == kept
    assert imported.class_name == type(network).__name__
    assert imported.kwargs == network._init_kwargs
    written = {n: type(m).__name__ for n, m in network.named_modules() if isinstance(m, PersistentModule)}
    assert {n: m.class_name for n, m in imported.modules.items() if m.class_name != "ModuleDict"} == written


@pytest.mark.parametrize("zipped", [False, True], ids=["legacy", "zip"])
@pytest.mark.parametrize("protocol", [3, 4])
@pytest.mark.parametrize("dialect", ["stylegan2-ada-pytorch", "stylegan3"])
@pytest.mark.parametrize("key", ["G", "G_ema", "D"])
def test_stylegan2(tmp_path, dialect, protocol, zipped, key):
    file = builders.gan_file(dialect, c_dim=3)
    imported = load(dump(tmp_path / "net.pkl", file, protocol, zipped), key)
    check_same(imported, file[key])
    assert imported.provenance.dialect == dialect
    assert imported.role == ("discriminator" if key == "D" else "generator")


@pytest.mark.parametrize("zipped", [False, True], ids=["legacy", "zip"])
@pytest.mark.parametrize("protocol", [3, 4])
@pytest.mark.parametrize("name", ["EDMPrecond", "VPPrecond", "VEPrecond", "iDDPMPrecond"])
def test_edm(tmp_path, name, protocol, zipped):
    file = builders.edm_file(builders.edm(name))
    imported = load(dump(tmp_path / "net.pkl", file, protocol, zipped))
    check_same(imported, file["ema"])
    assert (imported.provenance.dialect, imported.provenance.network, imported.role) == ("edm", "ema", "denoiser")
    assert imported.modules["model"].class_name == "SongUNet"
    assert imported.modules["model"].kwargs["channel_mult"] == [1, 2]
    assert imported.modules[""].attributes["sigma_max"] == float("inf")


@pytest.mark.parametrize("protocol", [3, 4])
def test_edm2_keeps_half_precision(tmp_path, protocol):
    file = builders.edm2_file()
    imported = load(dump(tmp_path / "net.pkl", file, protocol))
    check_same(imported, file["ema"])
    assert {t.dtype for t in imported.state.values()} == {torch.float16}
    assert imported.provenance.dialect == "edm2"
    assert imported.modules["unet"].class_name == "UNet"


def test_a_generator_of_defaults_alone_is_told_apart(tmp_path):
    for dialect in ("stylegan2-ada-pytorch", "stylegan3"):
        path = dump(tmp_path / f"{dialect}.pkl", builders.gan_file(dialect, defaults=True))
        assert load(path, "G_ema").provenance.dialect == dialect
        assert load(path, "D").provenance.dialect == dialect


def test_the_key_is_chosen_in_a_fixed_order(tmp_path):
    file = builders.gan_file()
    assert load(dump(tmp_path / "a.pkl", file)).provenance.network == "G_ema"
    del file["G_ema"]
    assert load(dump(tmp_path / "b.pkl", file)).provenance.network == "G"


def test_numpy_settings_become_plain_numbers(tmp_path):
    network = builders.edm()
    network.gain, network.flag, network.table = (
        np.float64(0.1),
        np.bool_(True),
        np.asfortranarray([[1, 2, 3], [4, 5, 6]]),
    )
    network.cube, network.whole = np.arange(24).reshape(2, 3, 4), np.int64(-7)
    for protocol in (3, 4):
        path = dump(tmp_path / "net.pkl", {"ema": network}, protocol)
        found = load(path).modules[""].attributes
        assert found["gain"] == 0.1
        assert found["flag"] is True
        assert found["whole"] == -7
        assert found["table"] == [[1, 2, 3], [4, 5, 6]]
        assert found["cube"] == network.cube.tolist()
    old = path.read_bytes()
    path.write_bytes(
        dump(tmp_path / "net.pkl", {"ema": network}, 3).read_bytes().replace(b"numpy._core", b"numpy.core")
    )
    assert path.read_bytes() != old
    assert load(path).modules[""].attributes["gain"] == 0.1


def test_fortran_arrays_fold_back():
    from scorefield.importer.structure import _folded

    for shape in [(2, 3, 4), (5,), (2, 0, 3), ()]:
        array = np.arange(np.prod(shape, dtype=int)).reshape(shape)
        for order in "CF":
            flat = array.flatten(order).tolist()
            assert _folded(flat, shape, order == "F") == array.tolist()


def test_views_of_every_layout(tmp_path):
    base = torch.randn(4, 6, 5)
    weights = {
        "whole": base,
        "transposed": base.permute(2, 0, 1),
        "stepped": base[::2, 1:, ::3],
        "offset": base[2:],
        "channels_last": torch.randn(2, 3, 4, 4).to(memory_format=torch.channels_last),
        "scalar": torch.tensor(3.0),
        "empty": torch.zeros(0, 7),
        "long": torch.arange(3),
        "flags": torch.tensor([True, False]),
        "brain": torch.randn(3).bfloat16(),
        "bytes": torch.arange(5, dtype=torch.uint8),
    }
    network = builders.edm()
    for name, value in weights.items():
        network.register_buffer(name, value)
    check_same(load(dump(tmp_path / "net.pkl", {"ema": network})), network)


def test_a_tensor_under_two_names_is_read_once(tmp_path):
    network = builders.edm()
    network.model.register_parameter("tied", network.model.map_layer0.weight)
    state = load(dump(tmp_path / "net.pkl", {"ema": network})).state
    assert state["model.tied"] is state["model.map_layer0.weight"]


def test_passing_buffers_absent_parameters_and_lost_settings(tmp_path):
    network = builders.edm()
    network.add_module(
        "odd", module("Linear", record=False, parameters={"weight": (2,), "bias": None}, passing={"p": (3,)})
    )
    imported = load(dump(tmp_path / "net.pkl", {"ema": network}))
    check_same(imported, network)
    assert imported.modules["odd"].kwargs is None
    assert "odd.p" not in imported.state


def test_embedded_source_is_only_hashed(tmp_path):
    import hashlib

    path = dump(tmp_path / "net.pkl", builders.gan_file())
    assert SOURCE.encode() in path.read_bytes()
    before = set(sys.modules)
    provenance = load(path).provenance
    assert not {name for name in set(sys.modules) - before if "dnnlib" in name or "torch_utils" in name}
    assert list(provenance.sources) == [hashlib.sha256(SOURCE.encode()).hexdigest()]
    assert "SynthesisBlock" in next(iter(provenance.sources.values()))
    assert provenance.sha256 == hashlib.sha256(path.read_bytes()).hexdigest()
    assert provenance.size == path.stat().st_size


def test_other_networks_of_the_file_are_not_read(tmp_path, monkeypatch):
    from scorefield.importer import source

    file = builders.gan_file(resolution=32, channels=32)
    file["D"].register_buffer("huge", torch.zeros(1 << 22))
    path, asked = dump(tmp_path / "net.pkl", file), []
    fill = source.Source.fill
    monkeypatch.setattr(source.Source, "fill", lambda self, at, to: asked.append(len(to)) or fill(self, at, to))
    monkeypatch.setattr(source.Source, "digest", lambda *_: "")
    imported = load(path, "G_ema")
    assert sum(asked) == sum(t.nbytes for t in imported.state.values())


class TestRefusedByName:
    def test_missing_network_lists_those_there(self, tmp_path):
        path = dump(tmp_path / "net.pkl", builders.gan_file())
        with pytest.raises(ImportRefused, match=r'no network "ema".*G \(Generator\), D \(Discriminator\), G_ema'):
            load(path, "ema")

    def test_no_usual_network(self, tmp_path):
        path = dump(tmp_path / "net.pkl", {"D": builders.discriminator()})
        with pytest.raises(ImportRefused, match=r"none of G_ema, ema, G; it holds D \(Discriminator\)"):
            load(path)

    @pytest.mark.parametrize("key", ["G_ema", "ema"])
    def test_discriminator_as_generator(self, tmp_path, key):
        path = dump(tmp_path / "net.pkl", {key: builders.discriminator()})
        with pytest.raises(ImportRefused, match="holds a Discriminator where a generator"):
            load(path)

    def test_generator_as_discriminator(self, tmp_path):
        path = dump(tmp_path / "net.pkl", {"D": builders.generator()})
        with pytest.raises(ImportRefused, match="where a Discriminator is asked"):
            load(path, "D")

    def test_alias_free_synthesis(self, tmp_path):
        path = dump(tmp_path / "net.pkl", {"G_ema": builders.alias_free_generator(), "D": builders.discriminator()})
        with pytest.raises(ImportRefused, match=r"StyleGAN3 generator \(alias-free.*use a StyleGAN2 file"):
            load(path)
        assert load(path, "D").class_name == "Discriminator"

    def test_other_parts_of_the_file(self, tmp_path):
        path = dump(tmp_path / "net.pkl", builders.edm_file())
        with pytest.raises(ImportRefused, match='"loss_fn" is of class EDMLoss'):
            load(path, "loss_fn")
        with pytest.raises(ImportRefused, match='"dataset_kwargs" is no network but a dict'):
            load(path, "dataset_kwargs")

    def test_a_network_alone(self, tmp_path):
        path = dump(tmp_path / "net.pkl", module("InceptionV3Features", parameters={"weight": (2,)}))
        with pytest.raises(ImportRefused, match="single InceptionV3Features"):
            load(path)

    def test_an_unknown_inner_network(self, tmp_path):
        path = dump(tmp_path / "net.pkl", {"ema": builders.edm(inner=module("MyUNet"))})
        with pytest.raises(ImportRefused, match=r"has a MyUNet as .model., where DhariwalUNet or SongUNet"):
            load(path)
