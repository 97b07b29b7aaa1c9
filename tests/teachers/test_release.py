"""Text encoders leave memory once all prompts are encoded, and come back when there is something to encode."""

import gc
import weakref

import pytest
import torch

from scorefield.cli import main
from scorefield.commands.common import build_config
from scorefield.runfolder import RunFolder
from scorefield.teachers.pipeline import PipelineTeacher
from scorefield.training.trainer import Trainer
from tasks.text_to_image import TextToImage

from . import families

PROMPTS = ["a red chair", "a boat"]


def alive(references) -> int:
    gc.collect()
    return sum(reference() is not None for reference in references)


@pytest.mark.parametrize(("name", "encoders"), [("pixart_sigma", 1), ("sdxl", 2), ("sd3", 3)])
def test_all_encoders_of_a_family_go_and_come_back_the_same(name, encoders, tmp_path):
    teacher = families.teacher(name, families.write(name, tmp_path / "pipeline"))
    before = teacher.encode(PROMPTS)
    names = [part for part in teacher.index if part.startswith("text_encoder")]
    references = [weakref.ref(teacher.part(part)) for part in names]
    vae, tokenizer = teacher.part("vae"), teacher.part("tokenizer")
    assert alive(references) == encoders
    teacher.release_text_encoder()
    assert alive(references) == 0
    assert teacher.part("vae") is vae  # which pictures still need
    assert teacher.part("tokenizer") is tokenizer
    after = teacher.encode(PROMPTS)
    assert after.keys() == before.keys()
    assert all(torch.equal(after[key], before[key]) for key in before)


@pytest.mark.parametrize(("embeddings", "left"), [("cached", 0), ("streamed", 1)])
def test_nothing_of_a_built_run_holds_the_encoder(embeddings, left, tmp_path, monkeypatch):
    real, references = PipelineTeacher.part, {}

    def part(self, name):
        found = real(self, name)
        if name.startswith("text_encoder"):
            references[id(found)] = weakref.ref(found)
        return found

    monkeypatch.setattr(PipelineTeacher, "part", part)
    (tmp_path / "prompts.txt").write_text("\n".join(f"a red thing number {k}" for k in range(20)))
    settings = {
        "teacher.path": families.write("pixart_sigma", tmp_path / "teacher"),
        "teacher.max_tokens": families.TOKENS,
        "prompts.path": tmp_path / "prompts.txt",
        "prompts.embeddings": embeddings,
        "training.batch": 2,
        "training.iterations": 2,
        "evaluation.judge": "none",
        "evaluation.preview": 2,
        "evaluation.samples": 2,
    }
    config = build_config(TextToImage, None, [f"{key}={value}" for key, value in settings.items()])
    task = TextToImage(config, RunFolder(tmp_path / "run"), "cpu")
    task.check()
    players = task.build()
    assert references  # it was there
    assert alive(references.values()) == left
    for source in task.opened:
        source.close()
    del players


def test_the_autoencoder_rests_on_the_host_and_comes_back_when_asked_for(tmp_path, monkeypatch):
    """A device that is not here stands for the GPU; the weights move by one call."""
    teacher = families.teacher("sd3", families.write("sd3", tmp_path / "pipeline"))
    vae, moved = teacher.part("vae"), []
    monkeypatch.setattr(vae, "to", lambda device: moved.append(device))
    teacher.part("vae")
    assert moved == []  # it is there
    teacher.rest_decoder()
    assert moved == ["cpu"]
    teacher.device = "cuda:0"
    assert teacher.part("vae") is vae
    assert moved == ["cpu", "cuda:0"]


@pytest.mark.gpu
def test_a_resting_autoencoder_takes_no_memory_of_the_gpu(tmp_path):
    teacher = families.teacher("sd3", families.write("sd3", tmp_path / "pipeline"))
    teacher.device = "cuda"
    latents = families.start(teacher.latent_shape).cuda()
    teacher.decode(latents)  # the libraries' own workspaces, which stay
    teacher.rest_decoder()
    before = torch.cuda.memory_allocated()
    teacher.decode(latents)
    teacher.rest_decoder()
    assert torch.cuda.memory_allocated() == before
    assert torch.isfinite(teacher.decode(latents)).all()


def test_a_look_at_the_pictures_ends_with_the_autoencoder_at_rest(tmp_path, monkeypatch):
    events = []
    real, rest = PipelineTeacher.decode_with_graph, PipelineTeacher.rest_decoder
    monkeypatch.setattr(PipelineTeacher, "decode_with_graph", lambda self, x: events.append("decode") or real(self, x))
    monkeypatch.setattr(PipelineTeacher, "rest_decoder", lambda self: events.append("rest") or rest(self))
    words = [f"teacher.path={families.write('pixart_sigma', tmp_path / 'teacher')}", "evaluation.judge=none"]
    words += [
        f"teacher.max_tokens={families.TOKENS}",
        "training.batch=2",
        "training.iterations=2",
        "checkpoints.every=1",
    ]
    words += ["evaluation.preview=2", "evaluation.samples=2", "evaluation.teacher_steps=2", "prompts.count=8"]
    words += ["training.device=cpu", "generator.init=teacher", "training.guidance_scale=1"]
    seen = []

    original = Trainer.iteration

    def iteration(self, k):
        seen.append(list(events))
        return original(self, k)

    monkeypatch.setattr(Trainer, "iteration", iteration)
    assert main(["run", "text_to_image", "--out", str(tmp_path / "run"), *words]) == 0
    assert len(seen) == 2
    for before in seen:
        assert "decode" in before
        assert before[-1] == "rest"  # whatever was decoded, training finds the device free of it
