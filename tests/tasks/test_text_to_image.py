"""The main job on the embedded teacher, a few iterations long, as its user would run it."""

import json
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from scorefield.cli import main
from scorefield.errors import UserError
from scorefield.training import checkpoint
from tests.evaluation.clips import write_clip

SHORT = [
    "training.iterations=6",
    "training.batch=4",
    "training.log_every=2",
    "checkpoints.every=3",
    "evaluation.samples=8",
    "evaluation.teacher_steps=2",
    "evaluation.preview=4",
    "prompts.count=32",
    "training.device=cpu",
]
ROOT = Path(__file__).resolve().parents[2]


def command(out: Path, *more: str) -> list[str]:
    return [
        sys.executable,
        "-m",
        "scorefield",
        "run",
        "tasks/text_to_image",
        "--out",
        str(out),
        *SHORT,
        *more,
    ]


def spawn(*words: str, **options):
    return subprocess.run(words, cwd=ROOT, capture_output=True, text=True, env=os.environ, **options)


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    out = tmp_path_factory.mktemp("runs") / "short"
    clip = write_clip(out.parent / "clip-small")
    scores = [f"evaluation.score_options.{name}.path={clip}" for name in ("clip", "pickscore")]
    assert main(["run", "text_to_image", "--out", str(out), *SHORT, "evaluation.scores=[clip,pickscore]", *scores]) == 0
    return out


def test_the_run_folder_holds_what_its_contract_says(run):
    summary = json.loads((run / "summary.json").read_text())
    keys = (
        "task seed device loss wall_seconds peak_memory_bytes iterations images_generated nan_samples feature_network"
    )
    assert set(keys.split()) <= set(summary)
    for who in ("real", "teacher", "student"):
        row = summary[who]
        assert {
            "steps",
            "prompt_accuracy",
            "frechet",
            "precision",
            "recall",
            "diversity",
            "seconds_per_image",
        } <= set(row)
    assert summary["images_generated"] == 24
    assert summary["overhead_ratio"] == summary["step_seconds"] / summary["bare_seconds"] > 0
    assert summary["real"]["prompt_accuracy"] > 0.9
    assert summary["student"]["steps"] == 1
    for name in ("config.yaml", "environment.json", "metrics.jsonl", "report.html", "samples/teacher.png"):
        assert (run / name).exists(), name
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    logged = [line for line in lines if "loss/generator" in line]
    assert [line["iteration"] for line in logged] == [2, 4, 6]
    assert {"x0_gap/rms", "grad_norm/generator", "images_per_sec", "memory_bytes", "nan_samples"} <= set(logged[0])
    assert (run / "checkpoints" / "latest.txt").read_text().strip() == "iteration-000006"
    looks = [line for line in lines if "eval/prompt_accuracy" in line]
    assert [line["iteration"] for line in looks] == [0, 3, 6]
    figures = {"eval/frechet", "eval/precision", "eval/recall", "eval/diversity"}
    assert figures <= set(looks[0])
    assert summary["running"]["pictures"] == 8
    for who in ("real", "teacher"):
        assert {f"eval/{key}" for key in summary["running"][who]} == figures | {"eval/prompt_accuracy"}


def test_running_figures_rest_on_pairs_and_need_a_judge(tmp_path):
    from scorefield.commands.common import build_config
    from scorefield.runfolder import RunFolder
    from tasks.text_to_image import TextToImage
    from tasks.text_to_image.evaluate import Running

    def task_of(*words):
        task = TextToImage(build_config(TextToImage, None, [*SHORT, *words]), RunFolder(tmp_path), "cpu")
        task.check()
        return task

    assert not Running.wanted(task_of("evaluation.judge=none").config)
    assert not Running.wanted(task_of("evaluation.running=0").config)
    task = task_of("evaluation.samples=30", "evaluation.running=13")
    assert Running.wanted(task.config)
    running = Running(task)
    assert len(running.prompts) == 12
    assert running.prompts[::2] == running.prompts[1::2]
    assert len(set(running.prompts)) == 6
    real = running.figures(running.real(0, 64))
    assert real["prompt_accuracy"] > 0.9
    same = running.real(0, 64)
    same[1::2] = same[::2]  # two equal pictures of every prompt
    assert running.figures(same)["diversity"] == 0 < real["diversity"]
    assert running.figures(-same)["frechet"] > 10 * real["frechet"]


def test_sample_export_and_report(run, tmp_path):
    prompt = "a blue robot, front view"
    assert main(["sample", str(run), prompt, "--out", str(tmp_path / "p"), "--device", "cpu"]) == 0
    assert main(["export", str(run), "--out", str(tmp_path / "export")]) == 0
    assert main(["report", str(run)]) == 0
    ours = next((tmp_path / "p").glob("*.png"))

    from diffusers import PixArtAlphaPipeline

    from scorefield.images import load_image
    from scorefield.random import Draws

    stock = PixArtAlphaPipeline.from_pretrained(tmp_path / "export")
    stock.set_progress_bar_config(disable=True)
    z = Draws(0, -1, torch.arange(1)).normal("z", *load_latent_shape(stock))
    options = {"num_inference_steps": 1, "guidance_scale": 1.0, "use_resolution_binning": False}
    # handing latents over leaves scaling by the scheduler's init_noise_sigma to the pipeline, as for drawn ones
    picture = stock(prompt, latents=z, output_type="pt", **options).images[0] * 2 - 1
    assert (picture - load_image(ours)).abs().max() < 2 / 255 + 1e-3


def load_latent_shape(stock):
    size = stock.transformer.config.sample_size
    return stock.transformer.config.in_channels, size, size


def test_our_sampler_equals_the_stock_pipeline():
    from diffusers import PixArtAlphaPipeline

    from scorefield.resources import asset
    from scorefield.teachers.pixart import PixArt
    from scorefield.teachers.sampling import sample

    folder = asset("toybox") / "pipeline"
    ours = PixArt(str(folder), max_tokens=64)
    prompts = ["a red chair, side view", "an orange boat on navy, front view"]
    z = torch.randn(2, *ours.latent_shape, generator=torch.Generator().manual_seed(0))
    scheduler = ours.make_scheduler()
    x = sample(ours.denoiser(), scheduler, ours.encode(prompts), z, steps=5, guidance_scale=2.0)
    stock = PixArtAlphaPipeline.from_pretrained(folder, torch_dtype=torch.float32)
    stock.set_progress_bar_config(disable=True)
    stock.text_encoder.float()
    options = {"num_inference_steps": 5, "guidance_scale": 2.0, "use_resolution_binning": False}
    theirs = stock(prompts, latents=z, output_type="latent", max_sequence_length=64, **options).images
    assert (x - theirs).abs().max() < 2e-3 * theirs.abs().max()


def weights(run: Path) -> dict[str, torch.Tensor]:
    newest = checkpoint.listed(run / "checkpoints")[0]
    found = {}
    for name in ("generator", "ema", "online"):
        found |= {f"{name}.{k}": v for k, v in load_file(newest / f"{name}.safetensors").items()}
    return found


def kill_after(iteration: int, out: Path, *words: str) -> int:
    """Kill a run soon after it has logged ``iteration``; returns its newest checkpoint's iteration, 0 for none."""
    process = subprocess.Popen(command(out, *words), cwd=ROOT, stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL)
    metrics, deadline = out / "metrics.jsonl", time.monotonic() + 240
    try:
        while not (metrics.exists() and f'"iteration": {iteration}, "images": {8 * iteration},' in metrics.read_text()):
            assert process.poll() is None
            assert time.monotonic() < deadline
            time.sleep(0.01)
        time.sleep(0.1 * random.random())
        assert process.poll() is None
    finally:
        process.kill()
    assert process.wait() == -signal.SIGKILL
    newest = checkpoint.listed(out / "checkpoints")
    return int(newest[0].name.removeprefix("iteration-")) if newest else 0


def test_a_killed_run_goes_on_bit_for_bit(tmp_path):
    more = ["training.iterations=10", "checkpoints.every=3", "training.log_every=1", "training.batch=8"]
    more.append("evaluation.judge=none")
    straight, killed = tmp_path / "straight", tmp_path / "killed"
    assert spawn(*command(straight, *more)).returncode == 0
    assert kill_after(1, killed, *more) == 0  # nothing was saved yet: --resume starts afresh
    place = random.randrange(4, 9)
    assert kill_after(place, killed, *more, "--resume") in (3, 6, 9), place
    done = spawn(*command(killed, *more), "--resume")
    assert done.returncode == 0, done.stderr
    a, b = weights(straight), weights(killed)
    assert a.keys() == b.keys()
    for name in a:
        assert torch.equal(a[name], b[name]), name


def test_sigterm_saves_and_says_how_to_resume(tmp_path):
    more = ["training.iterations=2000", "checkpoints.every=1000", "evaluation.judge=none"]
    process = subprocess.Popen(command(tmp_path / "r", *more), cwd=ROOT, stderr=subprocess.PIPE, text=True)
    deadline = time.monotonic() + 120
    while not (tmp_path / "r" / "metrics.jsonl").exists() and time.monotonic() < deadline:
        time.sleep(0.1)
    process.send_signal(signal.SIGTERM)
    _, said = process.communicate(timeout=120)
    assert process.returncode == 128 + signal.SIGTERM
    assert "--resume" in said
    assert checkpoint.newest_whole(tmp_path / "r" / "checkpoints") is not None


def one_line(capsys) -> str:
    said = capsys.readouterr().err.strip().splitlines()
    assert len(said) == 1, said
    return said[0]


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["training.iteratons=5"], 'did you mean "training.iterations"'),
        (["loss.name=simm"], "sim"),
        (["loss.distanc=l2"], "distance"),
        (["prompts.path=nowhere.txt"], "nowhere.txt does not exist"),
        (["training.iterations=many"], "training.iterations"),
        (["training.device=tpu"], "tpu"),
        (["generator.init=nowhere"], "nowhere"),
        (["teacher.path=toybux"], "toybox"),
    ],
)
def test_mistakes_get_one_clear_line(words, expected, tmp_path, capsys):
    assert main(["run", "text_to_image", "--out", str(tmp_path / "r"), *words]) == 2
    assert expected in one_line(capsys)
    assert not (tmp_path / "r").exists()


def test_an_empty_prompt_file_and_a_long_prompt(tmp_path, capsys):
    empty = tmp_path / "empty.txt"
    empty.write_text("\n \n")
    assert main(["run", "text_to_image", "--out", str(tmp_path / "r"), f"prompts.path={empty}"]) == 2
    assert "holds no prompt" in one_line(capsys)

    from scorefield.resources import asset
    from scorefield.teachers.pixart import PixArt

    pipeline = PixArt(str(asset("toybox") / "pipeline"), max_tokens=64)
    long = "a red chair, side view, on a grey background with a very long tail of words"
    assert pipeline.cut(long) == long[63:]
    assert pipeline.cut("a red chair") == ""


def test_a_truncated_checkpoint_is_passed_over(run, tmp_path, capsys):

    copy = tmp_path / "copy"
    shutil.copytree(run, copy)
    path = copy / "checkpoints" / "iteration-000006" / "ema.safetensors"
    path.write_bytes(path.read_bytes()[:-100])
    said = []
    newest = checkpoint.newest_whole(copy / "checkpoints", said.append)
    assert newest.name == "iteration-000003"
    assert "ema.safetensors is truncated" in said[0]


def test_a_changed_configuration_and_a_used_folder_are_refused(run, capsys):
    again = ["run", "text_to_image", "--out", str(run), *SHORT]
    assert main(again) == 2
    assert "--resume" in one_line(capsys)
    assert main([*again, "--resume", "loss.name=sid"]) == 2
    assert "loss.name" in one_line(capsys)


def test_a_folder_in_use_is_refused(run, capsys):
    from scorefield.runfolder import RunFolder

    holder = RunFolder(run)
    holder.lock()
    try:
        assert main(["run", "text_to_image", "--out", str(run), *SHORT, "--resume"]) == 2
        assert "in use by another process" in one_line(capsys)
    finally:
        holder.release()


def test_a_full_disk_keeps_the_old_checkpoint(tmp_path, monkeypatch):

    checkpoint.save(tmp_path, 1, {"ema": {"w": torch.ones(2)}}, {"a": 1})

    def full(*_, **__):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(checkpoint, "save_file", full)
    with pytest.raises(UserError, match="No space left"):
        checkpoint.save(tmp_path, 2, {"ema": {"w": torch.ones(2)}}, {"a": 1})
    assert checkpoint.newest_whole(tmp_path).name == "iteration-000001"
    assert [p.name for p in tmp_path.iterdir()] == ["iteration-000001"]


def test_light_verbs_answer_at_once():
    for words in (["--help"], ["list"], ["run", "--help"]):
        start = time.monotonic()
        assert spawn(sys.executable, "-m", "scorefield", *words).returncode == 0
        assert time.monotonic() - start < 4  # 2 s on an idle machine


def test_lora_online_score_shares_the_teachers_weights(tmp_path):
    from scorefield.resources import asset
    from scorefield.teachers.online import with_lora
    from scorefield.teachers.pixart import PixArt

    pipeline = PixArt(str(asset("toybox") / "pipeline"), max_tokens=64)
    plain = pipeline.denoiser()
    online, teacher = with_lora(pipeline.denoiser(), 4, ("to_q", "to_v"))
    text = pipeline.encode(["a red chair", "a blue robot"])
    x, sigma = torch.randn(2, *pipeline.latent_shape), torch.tensor([0.5, 3.0])
    for name, parameter in online.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter, std=0.1)
    assert torch.equal(teacher(x, sigma, text), plain(x, sigma, text))
    assert not torch.allclose(online(x, sigma, text), plain(x, sigma, text))
    online(x, sigma, text).sum().backward()
    for name, parameter in online.named_parameters():
        assert (parameter.grad is not None) == ("lora_" in name), name


def test_a_task_folder_outside_the_repository_runs(tmp_path, capsys):
    folder = tmp_path / "elsewhere" / "my_task"
    folder.mkdir(parents=True)
    (folder / "__init__.py").write_text(
        "from scorefield.task import Task\n\nclass Mine(Task):\n    name = 'my_task'\n"
        "    def plan(self):\n        return ['it is me']\n"
    )
    assert main(["run", str(folder), "--dry-run", "training.device=cpu"]) == 0
    assert "it is me" in capsys.readouterr().out
    assert main(["run", "text_to_imag"]) == 2
    assert "text_to_image" in one_line(capsys)


def test_scores_by_pretrained_models_join_summary_and_page(run):
    summary = json.loads((run / "summary.json").read_text())
    for who in ("real", "teacher", "student"):
        low, high = summary[who]["clip_score_interval"]
        assert low <= summary[who]["clip_score"] <= high
        assert ("pickscore_probability" in summary[who]) is (who != "real")
    assert summary["scores"]["clip_score"]["model"].startswith("clip-small (")
    page = (run / "report.html").read_text()
    assert "<th>CLIP score</th>" in page
    assert re.search(r"<b>CLIP score</b>: mean of 100 max\(.*Read by clip-small \(", page)
    assert "<th>… probability</th>" in page


def test_evaluate_takes_scores_beyond_the_configured(run, tmp_path, capsys):
    from scorefield.commands.common import open_run
    from scorefield.commands.evaluate import adapt_scores

    task = open_run(run, "cpu")[0]
    other = str(write_clip(tmp_path / "other"))
    adapt_scores(task, "clip, r_precision", [f"clip.path={other}", f"r_precision.path={other}"])
    settings = task.config.evaluation
    assert settings.scores == ["clip", "r_precision"]
    assert settings.options_of("clip") == settings.options_of("r_precision") == {"path": other}
    assert settings.options_of("pickscore")["path"].endswith("clip-small")  # as configured
    adapt_scores(task, "none", [])
    assert settings.scores == []
    words = ["evaluate", str(run), "--device", "cpu"]
    for flags, expected in (
        (["--scores", "clap"], 'unknown score "clap": did you mean "clip"'),
        (["--scores", "aesthetic", "--score-option", f"aesthetic.path={other}"], "aesthetic.head is missing"),
        (["--score-option", "clip"], "must read NAME.KEY=VALUE"),
    ):
        assert main([*words, *flags]) == 2
        assert expected in capsys.readouterr().err
    assert main(["run", "text_to_image", "evaluation.scores=[clip]", *SHORT, "--dry-run"]) == 2
    assert "evaluation.score_options.clip.path=openai/clip-vit-large-patch14" in capsys.readouterr().err
