"""A compiled field is the same field; where no compiler works that is said in one sentence."""

import copy

import pytest
import torch

from scorefield.errors import UserError
from scorefield.generators.nerf import make_field
from scorefield.three_d import compiled as module
from scorefield.three_d.settings import FieldConfig

SMALL = {"grid": "hash", "levels": 2, "log2_size": 6, "base": 3, "smoothstep": True}


def make(compile):
    torch.manual_seed(0)
    return make_field(FieldConfig(**SMALL, compile=compile), learned_background=False)


def test_it_is_off_by_default(monkeypatch):
    monkeypatch.setattr(torch, "compile", lambda *given, **named: pytest.fail("compiled"))
    make(False).density(torch.rand(4, 3))
    assert not FieldConfig().compile


@pytest.mark.slow  # two minutes of a C++ compiler on a busy core
def test_a_compiled_field_gives_the_same_values_and_gradients():
    plain, fast = make(False), make(True)
    for count in (50, 91):  # any number of points
        points = 2 * torch.rand(count, 3) - 1
        wanted, found = plain.both(points), fast.both(points)
        for one, other in zip(wanted, found, strict=True):
            torch.testing.assert_close(other, one)
        for density, colour in (wanted, found):
            (density.sum() + colour.square().sum()).backward()
    assert fast.fast  # it was compiled
    for (name, one), other in zip(plain.named_parameters(), fast.parameters(), strict=True):
        torch.testing.assert_close(other.grad, one.grad, msg=name)
    assert plain.state_dict().keys() == fast.state_dict().keys()
    twin = copy.deepcopy(fast)
    with torch.no_grad():
        twin.head.bias.add_(1.0)
    assert (twin.raw(points)[0] - fast.raw(points)[0]).mean().item() == pytest.approx(1, abs=1e-4)


def test_where_no_compiler_works_one_sentence_says_so(monkeypatch):
    def broken(ask, **options):
        def call(points):
            raise RuntimeError("\nNo working C++ compiler found in torch._inductor.config.cpp.cxx: (None, 'g++')\nmore")

        return call

    monkeypatch.setattr(module.torch, "compile", broken)
    with pytest.raises(UserError, match=r"field.compile=true does not work on cpu here \(No working C\+\+ compiler"):
        make(True).density(torch.rand(4, 3))
