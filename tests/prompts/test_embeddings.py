"""Embeddings of prompts: on disk, on the device, read ahead and streamed, a batch is told what the encoder says."""

import json
import shutil
import threading

import pytest
import torch
from safetensors.torch import load_file

from scorefield.cli import main
from scorefield.errors import UserError
from scorefield.prompts import fingerprint, shards, sources
from scorefield.random import Draws
from tests.teachers import families

TEXTS = [f"a {'very ' * (k % 4)}red thing number {k}" for k in range(22)]
BATCH = 6


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    root = tmp_path_factory.mktemp("teachers")
    return {name: families.write(name, root / name) for name in ("pixart_sigma", "sdxl")}


@pytest.fixture
def small(monkeypatch):
    monkeypatch.setattr(shards, "SHARD", 8)
    monkeypatch.setattr(shards, "ENCODED", 8)


def draws(iteration, first=0, salt=""):
    return Draws(3, iteration, torch.arange(first, first + BATCH), salt)


def same(one, other, **tolerance):
    assert one.keys() == other.keys()
    for key, value in one.items():
        torch.testing.assert_close(
            value, other[key], **(tolerance or {"rtol": 0, "atol": 0}), msg=lambda m, k=key: k + m
        )


@pytest.mark.parametrize("name", ["pixart_sigma", "sdxl"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_batch_is_told_what_the_encoder_says_wherever_it_lies(name, dtype, folders, tmp_path, small):
    teacher = families.teacher(name, folders[name])
    kept = shards.prepare(tmp_path, teacher, TEXTS, dtype, own=True)
    assert [len(kept.texts(k)) for k in range(len(kept))] == [8, 8, 6]
    resident = sources.from_shards(kept, "cpu", 9, 1e9)
    ahead = sources.from_shards(kept, "cpu", 9, 0)
    streamed = sources.streamed(teacher, TEXTS, dtype, "cpu", 9)
    assert [type(each) for each in (resident, ahead, streamed)] == [sources.Resident, sources.Ahead, sources.Ahead]

    first = resident.rows(torch.arange(8))
    direct = sources.rounded(teacher.encode(TEXTS[:8]), dtype, first["text"].shape[1])
    same(first, direct)  # as it was encoded, to the last bit
    loose = {"rtol": 2**-7, "atol": 1e-2} if dtype == torch.bfloat16 else {"rtol": 1e-5, "atol": 2e-5}
    for iteration, start in [(0, 0), (0, BATCH), (1, 0), (1, BATCH), (2, 0), (7, 0), (2, BATCH), (8, 0)]:
        wanted, told = resident(draws(iteration, start))
        assert wanted is told
        same(wanted, ahead(draws(iteration, start))[0])
        found = dict(streamed(draws(iteration, start))[0])
        longest = wanted["text"].shape[1]  # streamed batches are as long as a prompt may be
        assert found["text_mask"][:, longest:].sum() == 0
        found |= {"text": found["text"][:, :longest], "text_mask": found["text_mask"][:, :longest]}
        same(wanted, found, **loose)
    ahead.close()
    streamed.close()


def test_integers_are_kept_as_they_are(tmp_path):
    class Classes:
        def encode(self, prompts):
            return {"label": torch.tensor([int(text) for text in prompts])}

        def text_key(self):
            return ["Classes"]

    kept = shards.prepare(tmp_path, Classes(), [str(k) for k in range(10)], torch.bfloat16, own=True)
    for resident_bytes in (0, 1e9):
        told = sources.from_shards(kept, "cpu", 3, resident_bytes)(draws(0))[0]
        assert told["label"].dtype == torch.int64
        assert torch.equal(told["label"], draws(0).integers("prompt", 10))


def counted(teacher, monkeypatch, stop_after=99):
    """The batches that ``teacher`` encodes; it is killed after some of them."""
    seen, encode = [], teacher.encode

    def noted(prompts):
        if len(seen) == stop_after:
            raise KeyboardInterrupt
        seen.append(list(prompts))
        return encode(prompts)

    monkeypatch.setattr(teacher, "encode", noted)
    return seen


def test_a_killed_process_goes_on_at_its_shard_and_damage_is_made_good(folders, tmp_path, small, monkeypatch):
    teacher = families.teacher("pixart_sigma", folders["pixart_sigma"])
    whole = shards.prepare(tmp_path / "whole", teacher, TEXTS, torch.bfloat16, own=True).load()
    with monkeypatch.context() as patch:
        counted(teacher, patch, stop_after=2)
        with pytest.raises(KeyboardInterrupt):
            shards.prepare(tmp_path / "killed", teacher, TEXTS, torch.bfloat16, own=True)
    assert not list((tmp_path / "killed").glob(".*"))
    seen = counted(teacher, monkeypatch)
    kept = shards.prepare(tmp_path / "killed", teacher, TEXTS, torch.bfloat16, own=True)
    assert seen == [TEXTS[16:]]
    same(whole, kept.load())

    file = kept.file(1)
    content = bytearray(file.read_bytes())
    content[-3] ^= 1
    file.write_bytes(content)
    kept.file(2).with_suffix(".json").write_text("{")
    (tmp_path / "killed" / "cache.json").unlink()
    again = shards.prepare(tmp_path / "killed", teacher, TEXTS, torch.bfloat16, own=True)
    assert seen[1:] == [TEXTS[8:16], TEXTS[16:]]
    same(whole, again.load())
    # other prompts in the run's own folder: what agrees stays
    shards.prepare(tmp_path / "killed", teacher, TEXTS[:18], torch.bfloat16, own=True)
    assert seen[3:] == [TEXTS[16:18]]


def test_only_valid_tokens_are_stored_and_the_empty_prompt_once(folders, tmp_path, small, monkeypatch):
    teacher = families.teacher("pixart_sigma", folders["pixart_sigma"])
    kept = shards.prepare(tmp_path, teacher, TEXTS, torch.bfloat16, own=True)
    stored = load_file(kept.file(0))
    assert stored["states"].dtype == torch.bfloat16
    assert len(stored["states"]) == teacher.encode(TEXTS[:8])["text_mask"].sum() == stored["lengths"].sum()
    empty = teacher.null()["text"].to(torch.bfloat16).float()
    with monkeypatch.context() as patch:
        seen = counted(teacher, patch)
        shards.keep_empty_prompt(tmp_path, teacher, torch.bfloat16)
        assert seen == [[""]]
    assert torch.equal(load_file(tmp_path / "empty.safetensors")["text"], empty)
    for other in (teacher, families.teacher("pixart_sigma", folders["pixart_sigma"])):
        seen = counted(other, monkeypatch)
        shards.keep_empty_prompt(tmp_path, other, torch.bfloat16)
        for _ in range(2):
            assert torch.equal(other.denoiser().null_text, empty)
        assert seen == []


def test_embeddings_of_another_encoder_are_refused_by_name(folders, tmp_path, small):
    teacher = families.teacher("pixart_sigma", folders["pixart_sigma"])
    shards.prepare(tmp_path / "cache", teacher, TEXTS, torch.float32, own=False)
    moved = shutil.copytree(folders["pixart_sigma"], tmp_path / "moved")
    shards.prepare(tmp_path / "cache", families.teacher("pixart", moved), TEXTS, torch.float32, own=False)
    changed = families.teacher("pixart", moved)
    with torch.no_grad():
        next(changed.part("text_encoder").parameters()).flatten()[77] += 1e-3
    for other in (changed, families.teacher("sdxl", folders["sdxl"])):
        for own in (True, False):
            with pytest.raises(UserError) as caught:
                shards.prepare(tmp_path / "cache", other, TEXTS, torch.float32, own=own)
            for each in (teacher, other):
                assert fingerprint.of_module(each.part("text_encoder")) in str(caught.value)
            assert type(other.part("text_encoder")).__name__ in str(caught.value)
            assert "prompts.cache" in str(caught.value)
    with pytest.raises(UserError, match="22 prompts in float32, and this run has 21 prompts in float32"):
        shards.prepare(tmp_path / "cache", teacher, TEXTS[1:], torch.float32, own=False)
    with pytest.raises(UserError, match="22 prompts in float32, but other ones"):
        shards.prepare(tmp_path / "cache", teacher, TEXTS[::-1], torch.float32, own=False)


def test_a_fingerprint_is_of_what_is_held():
    one, other = families.clip_tokenizer(), families.clip_tokenizer()
    other(
        ["a", "some longer text"], padding=True, truncation=True, max_length=7
    )  # leaves its marks in a fast tokenizer
    assert fingerprint.of_tokenizer(one) == fingerprint.of_tokenizer(other)
    assert fingerprint.of_tokenizer(families.clip_tokenizer(13)) != fingerprint.of_tokenizer(one)
    layer = torch.nn.Linear(3, 4)
    before = fingerprint.of_module(layer)
    with torch.no_grad():
        layer.weight.copy_(layer.weight.flip(0))  # the same numbers at other places
    assert fingerprint.of_module(layer) != before
    assert fingerprint.of_module(layer.bfloat16()) != fingerprint.of_module(layer.float())


def test_processes_share_the_work(folders, tmp_path, small, monkeypatch):
    here, made = threading.local(), []
    teachers = [families.teacher("pixart_sigma", folders["pixart_sigma"]) for _ in range(2)]
    for each in teachers:
        each.text_key()  # loaded: transformers does not load in two threads at once
    monkeypatch.setattr(shards.processes, "rank", lambda: getattr(here, "rank", 0))
    monkeypatch.setattr(shards.processes, "world", lambda: 2)

    def work(rank):
        here.rank = rank
        teacher = teachers[rank]
        encode = teacher.encode
        teacher.encode = lambda prompts: made.append((rank, prompts[0])) or encode(prompts)
        ends[rank] = shards.prepare(tmp_path, teacher, TEXTS, torch.float32, own=True).load()

    ends: dict = {}
    threads = [threading.Thread(target=work, args=(rank,)) for rank in (1, 0)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert sorted(made) == [(0, TEXTS[0]), (0, TEXTS[16]), (1, TEXTS[8])]
    same(ends[0], ends[1])
    monkeypatch.setattr(shards, "PATIENCE", 0.3)
    here.rank = 1
    with pytest.raises(UserError, match="a disk that all machines share"):
        shards.prepare(tmp_path / "local", families.teacher("sdxl", folders["sdxl"]), TEXTS, torch.float32, own=True)


def test_what_is_made_ahead_is_made_once_and_errors_arrive():
    asked = []

    def read(rows):
        asked.append(rows)
        assert not torch.is_autocast_enabled("cpu")
        assert not torch.is_grad_enabled()
        if len(asked) > 8:
            raise UserError("the disk is gone")
        return {"x": torch.tensor(rows)}

    source = sources.Ahead(100, read, "cpu", iterations=5)
    with torch.autocast("cpu", torch.bfloat16):
        found = [source(draws(k))[0]["x"] for k in range(5)]
    assert len(asked) == 5  # nothing twice, nothing beyond the last iteration
    for k, value in enumerate(found):
        assert torch.equal(value, draws(k).integers("prompt", 100))
    assert torch.equal(source(draws(1))[0]["x"], found[1])  # gone back
    assert len(asked) == 8
    source(draws(2))
    with pytest.raises(UserError, match="the disk is gone"):
        source(draws(4))
    source.close()


def test_a_streamed_run_goes_on_bit_for_bit(folders, tmp_path, capsys):
    (tmp_path / "prompts.txt").write_text("\n".join(TEXTS))
    settings = {
        "teacher.path": folders["pixart_sigma"],
        "teacher.max_tokens": families.TOKENS,
        "prompts.path": tmp_path / "prompts.txt",
        "training.iterations": 4,
        "checkpoints.every": 2,
        "training.batch": 4,
        "training.accumulation": 2,
        "training.device": "cpu",
        "training.guidance_scale": 3.0,
        "evaluation.samples": 2,
        "evaluation.teacher_steps": 2,
        "evaluation.preview": 2,
        "evaluation.judge": "none",
        "monitors.enabled": "[]",
    }

    def run(out, *more):
        words = [f"{key}={value}" for key, value in settings.items()]
        status = main(["run", "text_to_image", "--out", str(tmp_path / out), *words, *more])
        return status, capsys.readouterr().err

    streamed = "prompts.embeddings=streamed"
    assert run("straight", streamed)[0] == 0
    shutil.copytree(tmp_path / "straight", tmp_path / "halves")
    shutil.rmtree(tmp_path / "halves" / "checkpoints" / "iteration-000004")
    assert run("halves", streamed, "--resume")[0] == 0
    assert not (tmp_path / "straight" / "cache").exists()
    ends = [
        load_file(tmp_path / out / "checkpoints/iteration-000004/ema.safetensors") for out in ("straight", "halves")
    ]
    same(*ends)
    shared = f"prompts.cache={tmp_path / 'shared'}"
    assert run("cached", shared, "prompts.resident_gb=0")[0] == 0
    same(load_file(tmp_path / "cached/checkpoints/iteration-000004/ema.safetensors"), ends[0], rtol=1e-4, atol=1e-5)
    assert json.loads((tmp_path / "shared" / "cache.json").read_text())["encoder"][0] == "PixArt"
    settings["teacher.path"] = folders["sdxl"]
    status, said = run("other", shared)
    assert status == 2
    assert "CLIPTextModel" in said.splitlines()[-1]
    assert "T5EncoderModel" in said.splitlines()[-1]


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["prompts.embeddings=steamed"], 'did you mean "streamed"'),
        (["prompts.stored=int8"], "bfloat16"),
        (["prompts.embeddings=streamed", "prompts.cache=x"], "nothing is kept of streamed ones"),
        (["prompts.resident_gb=-1"], "resident_gb must be at least 0"),
    ],
)
def test_wrong_words(words, expected, capsys):
    assert main(["run", "text_to_image", "--dry-run", *words]) == 2
    assert expected in capsys.readouterr().err


@pytest.mark.gpu
def test_conditions_wait_on_the_device(folders, tmp_path, small):
    teacher = families.teacher("pixart_sigma", folders["pixart_sigma"])
    kept = shards.prepare(tmp_path, teacher, TEXTS, torch.bfloat16, own=True)
    resident, ahead = (sources.from_shards(kept, "cuda", 9, size) for size in (1e9, 0))
    places = [torch.arange(BATCH, device="cuda") for _ in range(9)]
    told = []
    torch.cuda.set_sync_debug_mode("error")
    try:
        for k, indices in enumerate(places):
            where = Draws(3, k, indices, host=torch.arange(BATCH))
            told.append((resident(where)[0], ahead(where)[0]))
    finally:
        torch.cuda.set_sync_debug_mode("default")
    for one, other in told:
        same(one, other)
    ahead.close()
