"""Run folders at URLs: copied while the run goes on, brought back where the machine is gone."""

import shutil
import uuid

import fsspec
import pytest
import torch
from safetensors.torch import load_file

from scorefield import mirror
from scorefield.cli import main
from scorefield.errors import UserError
from scorefield.training import checkpoint, shards
from tests.teachers import families


@pytest.fixture(autouse=True)
def elsewhere(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(mirror, "KNOWN", {})


@pytest.fixture(params=["memory", "file"])
def url(request, tmp_path):
    return f"{request.param}://{tmp_path if request.param == 'file' else ''}/bucket-{uuid.uuid4().hex[:6]}/a run"


def listed(url):
    files, root = fsspec.core.url_to_fs(url)
    return sorted(name[len(root) :].lstrip("/") for name in files.find(root))


@pytest.mark.parametrize("url", ["memory", pytest.param("file", marks=pytest.mark.slow)], indirect=True)
def test_a_machine_is_lost_and_another_goes_on(url, tmp_path, capsys):
    folder = families.write("pixart_sigma", tmp_path / "teacher")
    (tmp_path / "prompts.txt").write_text("\n".join(f"a red thing number {k}" for k in range(20)))
    settings = {
        "teacher.path": folder,
        "teacher.max_tokens": families.TOKENS,
        "prompts.path": tmp_path / "prompts.txt",
        "training.iterations": 6,
        "training.batch": 4,
        "training.device": "cpu",
        "checkpoints.every": 2,
        "evaluation.samples": 2,
        "evaluation.teacher_steps": 2,
        "evaluation.preview": 2,
        "evaluation.judge": "none",
        "monitors.enabled": "[]",
    }
    words = ["run", "text_to_image", "--out", url, *(f"{key}={value}" for key, value in settings.items())]
    assert main(words) == 0
    local = mirror.place(url)
    here = sorted(path.relative_to(local).as_posix() for path in local.rglob("*") if path.is_file())
    assert listed(url) == [name for name in here if mirror.copied(name)]
    assert {"report.html", "summary.json", "checkpoints/iteration-000006/ema.safetensors"} <= set(listed(url))
    assert not [
        name for name in listed(url) if "iteration-000002" in name and "checkpoints" in name
    ]  # pruned there too
    assert not [name for name in listed(url) if name.startswith("cache/")]
    ends = load_file(local / "checkpoints" / "iteration-000006" / "ema.safetensors")
    assert main(words) == 2
    assert f"{url} already holds a run" in capsys.readouterr().err

    files, root = fsspec.core.url_to_fs(url)
    files.rm_file(f"{root}/checkpoints/iteration-000006/checkpoint.json")  # as if the machine died while copying
    shutil.rmtree(local)
    mirror.KNOWN.clear()
    assert main(words) == 2  # refused without a local trace of it
    mirror.KNOWN.clear()
    assert main([*words, "--resume"]) == 0
    assert "resuming from iteration-000004" in capsys.readouterr().err
    again = load_file(local / "checkpoints" / "iteration-000006" / "ema.safetensors")
    assert all(torch.equal(value, again[key]) for key, value in ends.items())

    shutil.rmtree("runs")
    mirror.KNOWN.clear()
    assert main(["sample", url, "a boat", "--out", str(tmp_path / "p"), "--device", "cpu"]) == 0
    assert len(list((tmp_path / "p").iterdir())) == 1
    assert main(["export", url]) == 0
    assert "export/model_index.json" in listed(url)


def made(url, files):
    """A mirror with some local files, copied."""
    one = mirror.Mirror(url, mirror.place(url))
    for name, text in files.items():
        (one.local / name).parent.mkdir(parents=True, exist_ok=True)
        (one.local / name).write_text(text)
    one.push()
    assert one.wait() == ""
    return one


def test_what_is_newer_there_comes_here_and_not_the_other_way(url):
    files = {"config.yaml": "a", "checkpoints/iteration-000002/x": "x", "checkpoints/latest.txt": "iteration-000002\n"}
    one = made(url, files | {".lock": "me", "cache/text/big": "big", "samples/.half.png.part": "half"})
    assert listed(url) == sorted(files)
    (one.local / "config.yaml").write_text("mine")
    one.pull()
    assert (one.local / "config.yaml").read_text() == "mine"
    store, root = fsspec.core.url_to_fs(url)
    store.pipe_file(f"{root}/checkpoints/latest.txt", b"iteration-000010\n")
    one.pull()
    assert (one.local / "config.yaml").read_text() == "a"
    assert mirror.newest(one.local) == 10


def test_a_sharded_checkpoint_comes_back_whole(url, tmp_path):
    """torch's index of the shares is a hidden file: without it the checkpoint counts as damaged."""
    one = made(url, {"config.yaml": "a"})
    given = {"ema": {"weight": torch.arange(6.0).view(2, 3)}}
    shards.save(one.local / "checkpoints", 2, given, {"images": 8})
    (one.local / "checkpoints" / "latest.txt").write_text("iteration-000002\n")
    one.push()
    assert one.wait() == ""
    shutil.rmtree(one.local)
    mirror.Mirror(url, one.local).pull()
    found = checkpoint.load(one.local / "checkpoints" / "iteration-000002")
    assert found.state == {"images": 8}
    assert torch.equal(found.weights["ema"]["weight"], given["ema"]["weight"])


def test_of_a_pruned_checkpoint_nothing_is_left(url):
    names = [f"checkpoints/iteration-00000{k}/{file}" for k in (2, 4) for file in ("checkpoint.json", "shards/x")]
    one = made(url, dict.fromkeys(["config.yaml", *names], "x"))
    shutil.rmtree(one.local / "checkpoints" / "iteration-000002")
    one.push()
    assert one.wait() == ""
    files, root = fsspec.core.url_to_fs(url)
    assert [path.rstrip("/").rpartition("/")[2] for path in files.ls(f"{root}/checkpoints", detail=False)] == [
        "iteration-000004"
    ]
    assert listed(url) == ["checkpoints/iteration-000004/checkpoint.json", names[3], "config.yaml"]


def test_checksums_and_pointers_go_last_and_only_what_changed(url, monkeypatch):
    one = made(url, {"config.yaml": "a"})
    put, seen = one._files.put_file, []
    monkeypatch.setattr(one._files, "put_file", lambda *given: seen.append(given[1]) or put(*given))
    folder = one.local / "checkpoints" / "iteration-000002"
    folder.mkdir(parents=True)
    for name in ("checkpoint.json", "ema.safetensors", "state.pt"):
        (folder / name).write_text(name)
    (one.local / "checkpoints" / "latest.txt").write_text("iteration-000002")
    one.push()
    assert one.wait() == ""
    names = [name.rpartition("/")[2] for name in seen]
    assert names == ["ema.safetensors", "state.pt", "checkpoint.json", "latest.txt"]
    shutil.rmtree(folder)
    one.push()
    assert one.wait() == ""
    assert listed(url) == ["checkpoints/latest.txt", "config.yaml"]


def test_a_copy_that_fails_is_told_and_tried_again(tmp_path, monkeypatch, capsys):
    one = made("memory://somewhere/run", {"config.yaml": "a"})
    mirror.KNOWN[one.local] = one
    put = one._files.put_file

    def refuse(*given):
        raise OSError("the network is away")

    monkeypatch.setattr(one._files, "put_file", refuse)
    (one.local / "summary.json").write_text("{}")
    one.push()
    one._running.exception()
    one.push()
    assert "could not copy to memory://somewhere/run: the network is away; tried again" in capsys.readouterr().err
    assert not mirror.finish()
    assert "cannot copy" in capsys.readouterr().err
    monkeypatch.setattr(one._files, "put_file", put)
    one.push()
    assert mirror.finish()
    assert "summary.json" in listed(one.url)


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        ("s3://bucket/run", "needs the package s3fs: pip install s3fs"),
        ("nothing://x/y", "Protocol not known: nothing"),
        ("s3://", "no URL of a folder"),
    ],
)
def test_what_cannot_be_opened_is_said_before_anything_starts(url, expected, monkeypatch, capsys, tmp_path):
    monkeypatch.setitem(__import__("sys").modules, "s3fs", None)
    assert main(["run", "text_to_image", "--out", url, "--dry-run"]) == 2
    said = capsys.readouterr().err
    assert expected in said
    assert len(said.strip().splitlines()) == 1
    assert not (tmp_path / "runs").exists()


def test_verbs_that_take_no_url_say_so(capsys):
    assert main(["train-teacher", "--out", "s3://bucket/teacher"]) == 2
    assert "is a URL" in capsys.readouterr().err
    assert main(["sample", "memory://nothing/here", "a boat"]) == 2
    assert "run folder memory://nothing/here does not exist" in capsys.readouterr().err


def test_a_plain_path_stays_one():
    assert mirror.of(mirror.place("runs/some")) is None
    one = mirror.Mirror("file:///nowhere", mirror.place("x"))
    with pytest.raises(UserError, match="cannot read"):
        one._ask("cat_file", "/nowhere/at/all")
