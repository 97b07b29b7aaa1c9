"""Where nerfacc's extension cannot be built, one sentence names what is missing, once, and rendering goes on."""

import shutil
import warnings
from types import SimpleNamespace

import pytest
import torch

from scorefield import cli
from scorefield.errors import Notice
from scorefield.three_d import render, toolchain
from scorefield.three_d.cameras import orbit
from scorefield.three_d.occupancy import Occupancy
from tests.three_d.fields import Bump


@pytest.fixture
def machine(tmp_path, monkeypatch):
    """A machine that has all of it; each test takes something away."""
    home = tmp_path / "cuda"
    for place in ("bin/nvcc", "include/cublas_v2.h"):
        (home / place).parent.mkdir(parents=True, exist_ok=True)
        (home / place).write_text("")
    programs = {"nvcc": str(home / "bin" / "nvcc"), "ninja": "/bin/ninja", "c++": "/bin/c++"}
    for name in ("CUDA_HOME", "CUDA_PATH", "CPATH", "CPLUS_INCLUDE_PATH", "CXX"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(shutil, "which", programs.get)
    monkeypatch.setattr(torch.version, "cuda", "13.0")
    return SimpleNamespace(home=home, programs=programs, set=monkeypatch.setenv)


def test_a_whole_machine_lacks_nothing(machine):
    assert toolchain.lacking() == []
    machine.set("CUDA_HOME", str(machine.home))
    assert toolchain.lacking() == []


@pytest.mark.parametrize("name", ["nvcc", "ninja", "c++"])
def test_the_absent_program_is_named(machine, name):
    del machine.programs[name]
    (said,) = toolchain.lacking()
    assert name in said


def test_a_wrong_cuda_home_and_absent_headers_are_named(machine, monkeypatch, tmp_path):
    (machine.home / "include" / "cublas_v2.h").unlink()
    (said,) = toolchain.lacking()
    assert said.startswith("cublas_v2.h")
    (tmp_path / "cublas_v2.h").write_text("")
    machine.set("CPATH", f"/nowhere:{tmp_path}")
    assert toolchain.lacking() == []
    machine.set("CUDA_PATH", "/nowhere")
    (said,) = toolchain.lacking()
    assert "CUDA_PATH=/nowhere (there is no bin/nvcc in it)" in said
    monkeypatch.setattr(torch.version, "cuda", None)
    assert toolchain.lacking() == ["a torch that is built for CUDA"]


class Broken:
    """nerfacc as it is without its extension."""

    def __init__(self, error):
        self.error, self.asked = error, 0

    def OccGridEstimator(self, *given):
        self.asked += 1
        raise self.error


@pytest.fixture
def march(monkeypatch):
    render.can_march.cache_clear()
    yield lambda broken: monkeypatch.setattr(render, "need", lambda name: broken)
    render.can_march.cache_clear()


def test_it_is_said_once_in_one_sentence(machine, march):
    del machine.programs["ninja"]
    broken = Broken(AttributeError("'NoneType' object has no attribute 'exclusive_sum'"))
    march(broken)
    with pytest.warns(UserWarning, match="cannot be built, missing: ninja") as said:
        assert [render.can_march("cuda") for _ in range(3)] == [False] * 3
    assert len(said) == broken.asked == 1
    text = str(said[0].message)
    assert "NoneType" not in text
    assert text.endswith("rendering goes on in batches")
    assert "\n" not in text
    assert not render.can_march("cpu")


def test_with_all_of_it_there_the_builds_own_words_are_passed_on(machine, march):
    march(Broken(RuntimeError("error: namespace cub has no member Equality\nand much more")))
    with pytest.warns(
        UserWarning, match="nothing is missing, the build said: error: namespace cub has no member Equali"
    ):
        assert not render.can_march("cuda")


def test_what_a_build_that_was_cut_off_left_behind_is_named(machine):
    error = ImportError("/cache/nerfacc_cuda/nerfacc_cuda.so: cannot open shared object file: No such file")
    assert toolchain.reason(error) == (
        "an earlier build was cut off: remove the folder of /cache/nerfacc_cuda/nerfacc_cuda.so"
    )


def test_rendering_goes_on_in_batches(machine, monkeypatch):
    monkeypatch.setattr(render, "can_march", lambda device: False)  # what the renderer is told on such a machine
    cameras, black = orbit(0.2, 0.4, 3.0, 0.6, (8, 8)), torch.zeros(1, 3)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        grid = Occupancy(1.0, 8)
        seen = render.render(Bump((20.0, 0.1, 0.2)), cameras, background=black, occupancy=grid)
    whole = render.render(Bump((20.0, 0.1, 0.2)), cameras, background=black)
    torch.testing.assert_close(seen.image, whole.image)


def test_the_command_line_prints_the_sentence_alone(machine, march):
    del machine.programs["ninja"]
    march(Broken(RuntimeError("no")))
    with pytest.warns(Notice) as said:
        render.can_march("cuda")
    (notice,) = said
    shown = cli.one_line(notice.message, notice.category, notice.filename, notice.lineno)
    assert shown.startswith("warning: nerfacc's CUDA extension cannot be built, missing: ninja")
    assert shown.count("\n") == 1
    assert notice.filename not in shown
    assert "place.py:3: UserWarning: other" in cli.one_line("other", UserWarning, "place.py", 3)


def test_the_command_line_puts_its_own_way_of_printing_in_place(capsys, monkeypatch):
    monkeypatch.setattr(warnings, "formatwarning", cli.USUAL)
    assert cli.main(["list"]) == 0
    assert warnings.formatwarning("said", Notice, "place.py", 3) == "warning: said\n"
