"""Hostile, damaged and foreign files end in the one exception, at once, with nothing run and little memory used."""

import gc
import os
import resource
import subprocess
import sys
import time

import pytest

from scorefield.importer import ImportRefused, folder, load

from . import assembler, builders, hostile
from .writers import dump

ALARMING = (
    "compile",
    "exec",
    "import",
    "os.system",
    "os.exec",
    "os.posix_spawn",
    "subprocess.Popen",
    "pickle.find_class",
)
heard: list[str] | None = None


def listen(event, _):
    if heard is not None and event.startswith(ALARMING):
        heard.append(event)


@pytest.fixture(scope="module", autouse=True)
def ready(tmp_path_factory):
    """Imports made while reading are made beforehand, so that later ones are alarming.

    What other tests left is frozen: Python's collector would pass over it again and again, on the reader's time.
    """
    ready = tmp_path_factory.mktemp("ready")
    load(folder.write(load(dump(ready / "net.pkl", builders.edm_file())), ready / "net"))
    sys.addaudithook(listen)
    gc.collect()
    gc.freeze()
    yield
    gc.unfreeze()


def refuse(path, network=None):
    """Load ``path``, which must be refused in a second, without running, importing or allocating much."""
    global heard
    before, start = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, time.process_time()
    heard = []
    try:
        with pytest.raises(ImportRefused) as caught:
            load(path, network)
        events = list(heard)
    finally:
        heard = None
    assert time.process_time() - start < 1
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 200 << 10
    assert events == []
    text = str(caught.value)
    assert str(path) in text
    assert "\n" not in text
    assert len(text) < 700
    return text


def test_the_frame_of_these_files_is_sound(tmp_path):
    """What the hostile files change is all that is wrong with them."""
    path = tmp_path / "net.pkl"
    extra = {
        "zip": hostile.file(assembler.denoiser(assembler.tensor(assembler.zipped()))),
        "legacy": assembler.file(),
        "several views": assembler.file(
            assembler.denoiser(_buffers=hostile.one_storage(assembler.legacy(b"\0" * 40), 10, 1))
        ),
        "dictionary": hostile.code(assembler.name("torch.nn.modules.container", "ModuleDict") + b")\x81}b"),
    }
    extra["plain"] = hostile.setting(assembler.sequence(b"N", assembler.array()))
    for content in extra.values():
        path.write_bytes(content)
        assert load(path).class_name == "EDMPrecond"
    assert load(path).kwargs == {"x": [None, [0.0, 0.0]]}


@pytest.mark.parametrize("kind", hostile.RUNNING)
def test_files_that_would_run_something(tmp_path, kind):
    canary, path = tmp_path / "canary", tmp_path / "net.pkl"
    path.write_bytes(hostile.RUNNING[kind](canary))
    refuse(path)
    assert not canary.exists()


def test_the_payload_would_run(tmp_path):
    """The canary is a real one: Python's own unpickler would create it."""
    import pickle

    canary = tmp_path / "canary"
    pickle.loads(hostile.RUNNING["python's own pickle"](canary))
    assert canary.exists()


@pytest.mark.parametrize(("group", "kind"), [(g, k) for g, kinds in hostile.GROUPS.items() for k in kinds])
def test_refused(tmp_path, group, kind):
    path = tmp_path / "net.pkl"
    path.write_bytes(hostile.GROUPS[group][kind])
    text = refuse(path)
    assert "Error:" not in text, "the refusal was foreseen, not caught at the end"


def test_tensorflow_files_are_named(tmp_path):
    path = tmp_path / "net.pkl"
    path.write_bytes(hostile.RECORDS["TensorFlow"])
    assert "legacy.py" in refuse(path)


def test_no_ordinary_file(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "loop").symlink_to(tmp_path / "loop")
    for path in (tmp_path / "absent", tmp_path, tmp_path / "pipe", tmp_path / "loop", "/dev/zero", "/dev/null", "a\0b"):
        refuse(path)


def test_a_file_beyond_the_limit(tmp_path):
    path = tmp_path / "net.pkl"
    path.write_bytes(assembler.PROTO)
    os.truncate(path, 1 << 40)
    assert "limit" in refuse(path)


def test_more_tensors_than_memory(tmp_path, monkeypatch):
    from scorefield.importer import tensors

    monkeypatch.setattr(tensors, "free_memory", lambda: 23)
    path = tmp_path / "net.pkl"
    path.write_bytes(assembler.file())
    assert "need 24 bytes of memory" in refuse(path)
    monkeypatch.setattr(tensors, "free_memory", lambda: 24)
    assert load(path)


def test_truncated_anywhere(tmp_path):
    whole = dump(tmp_path / "whole.pkl", {"ema": builders.edm(width=4, mult=(1,))}).read_bytes()
    path = tmp_path / "net.pkl"
    for place in {*range(0, 1200, 7), *range(0, len(whole), len(whole) // 150), *range(len(whole) - 40, len(whole))}:
        path.write_bytes(whole[:place])
        with pytest.raises(ImportRefused):
            load(path)
    path.write_bytes(whole[: len(whole) // 2])  # a download that broke off is told as such
    with pytest.raises(ImportRefused, match="cut short"):
        load(path)


def test_a_file_that_grows_while_it_is_read(tmp_path, monkeypatch):
    from scorefield.importer import source

    path = tmp_path / "net.pkl"
    path.write_bytes(assembler.file())
    digest = source.Source.digest

    def grow(self, *arguments):
        with open(path, "ab") as file:
            file.write(b"x")
        return digest(self, *arguments)

    monkeypatch.setattr(source.Source, "digest", grow)
    assert "changed while it was read" in refuse(path)


def test_errors_nobody_foresaw_are_refusals_too(tmp_path, monkeypatch):
    from scorefield.importer import tensors

    path = tmp_path / "net.pkl"
    path.write_bytes(assembler.file())
    for error in (MemoryError, RecursionError, RuntimeError, KeyError):

        def fail(*_, error=error):
            raise error("unforeseen")

        monkeypatch.setattr(tensors, "read", fail)
        assert error.__name__ in refuse(path)


def test_nothing_leaks_from_one_load_to_the_next(tmp_path):
    """State of a container, an array or a dtype belongs to one file."""
    path = tmp_path / "net.pkl"
    path.write_bytes(hostile.setting(assembler.array()))
    first = load(path)
    path.write_bytes(hostile.MUTATION["BUILD twice"])
    refuse(path)
    path.write_bytes(hostile.setting(assembler.array()))
    assert load(path).kwargs == first.kwargs
    assert load(path).kwargs is not first.kwargs


def test_importing_the_reader_imports_no_unpickler(tmp_path):
    """Nothing of the reader's own text calls pickle or torch.load."""
    from pathlib import Path

    import scorefield.importer

    for file in Path(scorefield.importer.__file__).parent.glob("*.py"):
        code = file.read_text()
        assert "import pickle" not in code
        assert "torch.load" not in code.replace("``torch.load``", "")
    path = dump(tmp_path / "net.pkl", builders.gan_file())
    script = (
        "import sys, pickle, torch\n"
        "def trap(*a, **k): raise SystemExit('an unpickler was used')\n"
        "pickle.load = pickle.loads = pickle.Unpickler = torch.load = torch.storage._load_from_bytes = trap\n"
        "from scorefield.importer import load\n"
        f"print(len(load({str(path)!r}).state))\n"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) > 20
