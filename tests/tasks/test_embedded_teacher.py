"""The weights that come along are as good as the project says: judge, teacher, and what the default run makes of it."""

import json
import os
import subprocess
import sys
from itertools import islice
from pathlib import Path

import pytest
import torch

from scorefield.data import toybox as world
from scorefield.evaluation import toybox
from scorefield.evaluation.judge import Judge
from scorefield.random import Draws
from scorefield.resources import asset
from scorefield.teachers.pixart import PixArt

ROOT = Path(__file__).resolve().parents[2]
STEPS, GUIDANCE = 16, 2.0  # the best of assets/toybox/sweep.json
COUNT = 150


@pytest.fixture(scope="module")
def judge() -> Judge:
    return Judge.load(asset("toybox") / "judge", "cpu")


@pytest.fixture(scope="module")
def prompts() -> list[str]:
    """Held-out ones that name object, colour and view."""
    stream = (p for p in world.prompt_stream(world.TEST_SEED) if all(t >= 0 for t in toybox.told_by([p]).values()))
    return list(islice(stream, COUNT))


def all_three_right(judge: Judge, images: torch.Tensor, prompts: list[str]) -> float:
    return toybox.judge_pictures(judge, images, prompts).all_right.float().mean().item()


def test_the_judge_reads_real_pictures_and_nothing_into_them(judge, prompts):
    images = toybox.real_pictures(prompts, world.TEST_SEED, 60_000_000, "cpu")
    assert all_three_right(judge, images, prompts) >= 0.97
    assert all_three_right(judge, images, prompts[1:] + prompts[:1]) < 0.1  # other prompts are not fulfilled


def test_the_teacher_draws_what_its_prompts_say(judge, prompts):
    teacher = PixArt(str(asset("toybox") / "pipeline"), max_tokens=64)
    z = Draws(30, -1, torch.arange(COUNT)).normal("z", *teacher.latent_shape)
    condition = teacher.encode(prompts)
    latents = teacher.sample(teacher.denoiser(), condition, z, steps=STEPS, guidance_scale=GUIDANCE, batch=COUNT)
    images = teacher.decode(latents)
    assert all_three_right(judge, images, prompts) >= 0.85
    assert all_three_right(judge, images, prompts[1:] + prompts[:1]) < 0.1


@pytest.mark.slow
def test_the_default_run_reaches_its_teacher_in_one_step(tmp_path):
    """The README's first command, whole: ten minutes on two idle cores."""
    out = tmp_path / "run"
    words = [sys.executable, "-m", "scorefield", "run", "tasks/text_to_image", "--out", str(out)]
    with open(tmp_path / "said.txt", "w+") as said:
        environment = os.environ | {"CUDA_VISIBLE_DEVICES": "", "HF_HUB_OFFLINE": "1"}
        process = subprocess.Popen(words, cwd=ROOT, env=environment, stdout=said, stderr=said)
        _, status, used = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
        said.seek(0)
        assert process.returncode == 0, said.read()[-3000:]
    check(json.loads((out / "summary.json").read_text()))
    kilobytes = used.ru_maxrss if sys.platform != "darwin" else used.ru_maxrss / 1024
    assert kilobytes * 1024 < 6e9
    assert (out / "report.html").stat().st_size > 100_000


def check(summary: dict) -> None:
    """What issue and README promise of the default run."""
    teacher, student = summary["teacher"], summary["student"]
    assert summary["evaluated_prompts"] >= 500
    assert summary["images_generated"] >= 50_000
    assert student["steps"] == 1
    assert teacher["steps"] == STEPS
    assert student["prompt_accuracy"] >= 0.95 * teacher["prompt_accuracy"]
    assert student["frechet"] <= 1.5 * teacher["frechet"]
    assert summary["real"]["prompt_accuracy"] >= 0.97
    assert teacher["prompt_accuracy"] >= 0.85
    assert summary["peak_memory_bytes"] < 6e9
