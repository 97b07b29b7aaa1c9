"""The teacher's pairs in a run of text_to_image: drawn once, kept with a checksum, refused where they do not fit."""

import json
import re

import pytest
import torch

from scorefield.cli import main
from scorefield.commands.common import build_config, check_task
from scorefield.errors import UserError
from scorefield.runfolder import RunFolder
from tasks.particles import ParticlesTask
from tasks.text_to_image import TextToImage

WORDS = [
    "loss.name=regression",
    "training.device=cpu",
    "training.iterations=2",
    "training.batch=4",
    "evaluation.samples=2",
    "evaluation.preview=2",
    "evaluation.judge=none",
    "evaluation.teacher_steps=2",
    "prompts.count=5",
    "pairs.count=6",
    "pairs.steps=2",
]


def task_of(folder, *words):
    return TextToImage(build_config(TextToImage, None, [*WORDS, *words]), RunFolder(folder), "cpu")


def test_pairs_are_drawn_once_and_used_again(tmp_path, capsys):
    kept = f"pairs.path={tmp_path / 'pairs'}"
    assert main(["run", "text_to_image", "--out", str(tmp_path / "run"), *WORDS, kept]) == 0
    assert json.loads((tmp_path / "run" / "summary.json").read_text())["loss"] == "regression"
    assert "drawing 6 pairs of the teacher in 2 steps" in capsys.readouterr().err
    task = task_of(tmp_path / "other", kept)
    check_task(task)
    players = task.build()
    assert "drawing" not in capsys.readouterr().err
    generator = players.generator
    told = torch.arange(6) % len(task.prompts.train)
    stock = task.pipeline.encode([task.prompts.train[n] for n in told])
    wanted = task.pipeline.sample(players.teacher, stock, generator.z, steps=2, guidance_scale=1.75)
    torch.testing.assert_close(generator.x0, wanted, atol=1e-4, rtol=1e-4)  # the pairs are the teacher's own pictures

    with pytest.raises(UserError, match=r"drawn otherwise: steps \(2 → 3\); name another folder"):
        check_task(task_of(tmp_path / "other", kept, "pairs.steps=3"))
    with pytest.raises(UserError, match="drawn otherwise: prompts"):
        check_task(task_of(tmp_path / "other", kept, "prompts.count=2"))
    file = tmp_path / "pairs" / "pairs.safetensors"
    file.write_bytes(file.read_bytes()[:-1] + b"\x7f")
    with pytest.raises(UserError, match="not what was written; remove"):
        check_task(task_of(tmp_path / "other", kept))


def test_lpips_is_taken_of_decoded_pictures(tmp_path):
    pytest.importorskip("lpips")
    task = task_of(tmp_path, "loss.distance=lpips", "loss.trunk=random")
    check_task(task)
    loss, shape = task.make_loss(), (2, *task.pipeline.latent_shape)
    x0 = torch.randn(shape, generator=torch.Generator().manual_seed(0)).requires_grad_()
    y = torch.randn(shape, generator=torch.Generator().manual_seed(1))
    unused = {"x_t": x0, "sigma": torch.ones(2), "teacher_x0": torch.zeros_like(x0)}
    values = loss(x0=x0, paired_x0=y, **unused)
    assert values.shape == (2,)
    assert (torch.autograd.grad(values.sum(), x0)[0] != 0).float().mean() > 0.9
    assert loss(x0=x0, paired_x0=x0.detach(), **unused).abs().max() < 1e-6


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["loss.distance=lpips"], "needs trunk"),
        (["loss.distance=lpips", "loss.trunk=none.pth"], 'loss.trunk "none.pth" does not exist'),
        (["pairs.count=0"], "pairs.count must be at least 1"),
        (["teacher.options.scheduler=EulerAncestralDiscreteScheduler"], "adds no noise"),
    ],
)
def test_what_is_refused(words, said, tmp_path):
    with pytest.raises(UserError, match=re.escape(said)):
        check_task(task_of(tmp_path, *words))


def test_other_tasks_draw_none(tmp_path):
    config = build_config(ParticlesTask, None, ["loss.name=regression", "evaluation.judge=none"])
    with pytest.raises(UserError, match="particles does not draw: use it with text_to_image"):
        check_task(ParticlesTask(config, RunFolder(tmp_path), "cpu"))
