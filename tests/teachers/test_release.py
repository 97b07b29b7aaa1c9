"""Text encoders leave memory once all prompts are encoded, and come back when there is something to encode."""

import gc
import weakref

import pytest
import torch

from scorefield.commands.common import build_config
from scorefield.runfolder import RunFolder
from scorefield.teachers.pipeline import PipelineTeacher
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
