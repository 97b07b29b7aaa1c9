"""Random damage: a file either loads as sound data or is refused for a reason that was foreseen."""

import math

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from scorefield.importer import Imported, ImportRefused, load

from . import assembler, builders
from .writers import dump

PLAIN = (type(None), bool, int, float, str)
NUMBERS = (torch.float32, torch.float16, torch.float64, torch.bfloat16)
DTYPES = (*NUMBERS, torch.int64, torch.int32, torch.int16, torch.int8, torch.uint8, torch.bool)


def check_sound(path):
    """Load ``path``: plain settings and tensors no larger than the file, or a refusal that the reader itself chose."""
    try:
        imported = load(path)
    except ImportRefused as error:
        cause = error.__cause__
    else:
        cause = None
    if cause is not None:
        assert isinstance(cause, ImportRefused), repr(cause)
        return None
    assert type(imported) is Imported
    seen = {id(t): t for t in imported.state.values()}
    assert sum(t.nbytes for t in seen.values()) <= path.stat().st_size
    for name, tensor in imported.state.items():
        assert type(name) is str
        assert type(tensor) is torch.Tensor
        assert tensor.dtype in DTYPES
        assert tensor.untyped_storage().nbytes() >= math.prod(tensor.shape) * tensor.itemsize
        float(tensor.double().sum())
    waiting = [imported.args, imported.kwargs]
    waiting += [part for m in imported.modules.values() for part in (m.args, m.kwargs, m.attributes, m.class_name)]
    while waiting:
        value = waiting.pop()
        assert type(value) in (*PLAIN, list, dict)
        waiting += value if type(value) is list else value.values() if type(value) is dict else []
    return imported


def originals(folder):
    """Small files of each layout; the whole is a few kilobytes, so that damage hits structure."""
    small = builders.edm(inner=builders.module("SongUNet", parameters={"w": (2, 2)}, buffers={"b": (3,)}))
    type(small).text = type(small.model).text = "pass"
    return [
        dump(folder / "three.pkl", {"ema": small}, 3).read_bytes(),
        dump(folder / "four.pkl", {"ema": small, "loss_fn": builders.plain_object("L", x=1.5)}, 4).read_bytes(),
        dump(folder / "zip.pkl", {"ema": small}, 4, zipped=True).read_bytes(),
        assembler.file(assembler.denoiser(_init_kwargs=assembler.mapping(x=assembler.array()))),
    ]


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    return originals(tmp_path_factory.mktemp("originals"))


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    return tmp_path_factory.mktemp("fuzz") / "net.pkl"


quiet = [HealthCheck.too_slow, HealthCheck.function_scoped_fixture]
OPCODES = b"\x80\x81\x85\x86\x87\x88\x89\x8a\x8c\x8e\x8f\x90\x93\x94\x95()]}.BCGJKMNQRXabcehjqrstu012IFLVSiopdlg"


@settings(max_examples=300, deadline=None, suppress_health_check=quiet)
@given(which=st.integers(0, 3), hits=st.lists(st.tuples(st.floats(0, 1), st.integers(0, 255)), min_size=1, max_size=6))
def test_changed_bytes(files, place, which, hits):
    raw = bytearray(files[which])
    for at, byte in hits:
        raw[min(int(at * len(raw)), len(raw) - 1)] = byte
    place.write_bytes(raw)
    found = check_sound(place)
    if bytes(raw) == files[which]:
        assert found is not None


@settings(max_examples=200, deadline=None, suppress_health_check=quiet)
@given(
    which=st.integers(0, 3),
    at=st.floats(0, 1),
    cut=st.integers(0, 40),
    put=st.lists(st.sampled_from(OPCODES), max_size=8),
)
def test_spliced_instructions(files, place, which, at, cut, put):
    raw = files[which]
    start = int(at * len(raw))
    place.write_bytes(raw[:start] + bytes(put) + raw[start + cut :])
    check_sound(place)


@settings(max_examples=100, deadline=None, suppress_health_check=quiet)
@given(noise=st.binary(max_size=200))
def test_noise_after_a_sound_beginning(place, noise):
    place.write_bytes(b"\x80\x04" + noise)
    check_sound(place)


def test_undamaged(files, place):
    for raw in files:
        place.write_bytes(raw)
        assert check_sound(place).class_name == "EDMPrecond"
