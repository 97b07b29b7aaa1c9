"""``scorefield import``: what is written, what is printed, what is refused, and that it reads back the same."""

import json

import pytest
import torch

from scorefield import cli
from scorefield.importer import ImportRefused, folder, load

from . import builders
from .writers import dump


def same(a, b):
    assert list(a.state) == list(b.state)
    for name, tensor in a.state.items():
        assert tensor.dtype == b.state[name].dtype
        assert torch.equal(tensor, b.state[name])
    for part in ("class_name", "args", "kwargs", "buffers", "modules", "provenance", "role"):
        assert getattr(a, part) == getattr(b, part), part


@pytest.fixture
def pickled(tmp_path):
    return dump(tmp_path / "net.pkl", builders.gan_file(c_dim=3))


@pytest.fixture
def converted(tmp_path, pickled):
    return folder.write(load(pickled), tmp_path / "converted")


@pytest.mark.parametrize("make", [builders.gan_file, builders.edm_file, builders.edm2_file])
def test_the_folder_reads_back_the_same(tmp_path, make):
    imported = load(dump(tmp_path / "net.pkl", make()))
    out = folder.write(imported, tmp_path / "deep" / "out")
    assert sorted(p.name for p in out.iterdir()) == ["network.json", "weights.safetensors"]
    same(load(out), imported)
    same(load(out, imported.provenance.network), imported)


def test_tied_and_empty_tensors_survive(tmp_path):
    network = builders.edm()
    network.model.register_parameter("tied", network.model.map_layer0.weight)
    network.register_buffer("none", torch.zeros(0, 3))
    imported = load(dump(tmp_path / "net.pkl", {"ema": network}))
    same(load(folder.write(imported, tmp_path / "out")), imported)


def test_the_verb(tmp_path, pickled, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert cli.main(["import", str(pickled), "--network", "G"]) == 0
    printed = capsys.readouterr().out
    same(load(tmp_path / "net-G"), load(pickled, "G"))
    parameters = sum(p.numel() for p in builders.generator(c_dim=3).parameters())
    for words in ("G: Generator", "stylegan2-ada-pytorch", f"{parameters:,} in", "3 x 16²", "net-G", "float32"):
        assert words in printed
    assert len(printed.splitlines()) < 12
    assert cli.main(["import", str(pickled), "--out", str(tmp_path / "there")]) == 0
    assert load(tmp_path / "there").provenance.network == "G_ema"


def test_refusals_of_the_verb(tmp_path, pickled, converted, capsys):
    (tmp_path / "bad.pkl").write_bytes(b"\x80\x04cos\nsystem\n.")
    for words in (
        [str(tmp_path / "absent.pkl")],
        [str(tmp_path / "bad.pkl")],
        [str(pickled), "--network", "ema"],
        [str(converted)],
        [str(pickled), "--out", str(converted)],
        [str(pickled), "--out", str(pickled)],
        [str(pickled), "--out", str(pickled / "below")],
    ):
        before = sorted(tmp_path.rglob("*"))
        assert cli.main(["import", *words]) == 2
        said = capsys.readouterr()
        assert said.out == ""
        assert len(said.err.splitlines()) == 1
        assert sorted(tmp_path.rglob("*")) == before


def test_a_failed_write_leaves_nothing(tmp_path, pickled, monkeypatch):
    imported = load(pickled)
    before = sorted(tmp_path.rglob("*"))

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(folder, "write_json", full)
    with pytest.raises(ImportRefused, match=r"cannot write .*No space left"):
        folder.write(imported, tmp_path / "out")
    assert sorted(tmp_path.rglob("*")) == before


def test_an_empty_folder_is_filled(tmp_path, pickled):
    (tmp_path / "out").mkdir()
    assert load(folder.write(load(pickled), tmp_path / "out"))


class TestDamagedFolders:
    def refuse(self, path, match, network=None):
        with pytest.raises(ImportRefused, match=match):
            load(path, network)

    def change(self, converted, **changes):
        record = json.loads((converted / "network.json").read_text())
        (converted / "network.json").write_text(json.dumps(record | changes))

    def test_not_one(self, tmp_path):
        self.refuse(tmp_path, "holds no network.json")

    def test_another_network(self, converted):
        self.refuse(converted, r'no network "D"; it holds G_ema \(Generator\)', "D")

    def test_weights_cut(self, converted):
        raw = (converted / "weights.safetensors").read_bytes()
        (converted / "weights.safetensors").write_bytes(raw[:-1])
        self.refuse(converted, "truncated or changed")

    def test_weights_missing(self, converted):
        (converted / "weights.safetensors").unlink()
        self.refuse(converted, "cannot read")

    def test_record_cut(self, converted):
        text = (converted / "network.json").read_text()
        (converted / "network.json").write_text(text[: len(text) // 2])
        self.refuse(converted, "not whole JSON")

    def test_record_of_much_depth(self, converted):
        (converted / "network.json").write_text("[" * 1_000_000)
        self.refuse(converted, "cannot import")

    @pytest.mark.parametrize(
        ("changes", "match"),
        [
            ({"version": 2}, "version 1"),
            ({"class_name": "os.system"}, "none of Generator"),
            ({"class_name": ["Generator"]}, "wrong kind"),
            ({"provenance": {}}, "lacks an entry"),
            ({"provenance": None}, "lacks an entry"),
            ({"kwargs": []}, "wrong kind"),
            ({"modules": []}, "lacks an entry"),
            ({"modules": {"": {"class_name": "Generator", "args": 1, "kwargs": None, "attributes": {}}}}, "wrong kind"),
            ({"tensors": []}, "same tensors"),
            ({"tensors": [{"name": 1}]}, "lacks an entry"),
        ],
    )
    def test_record_changed(self, converted, changes, match):
        self.change(converted, **changes)
        self.refuse(converted, match)

    def test_provenance_of_wrong_kinds(self, converted):
        record = json.loads((converted / "network.json").read_text())
        for key in record["provenance"]:
            self.change(converted, provenance=record["provenance"] | {key: [1]})
            self.refuse(converted, "wrong kind")
