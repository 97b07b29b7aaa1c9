"""Pixel-space diffusers pipelines as teachers: the same numbers as the stock scheduler, whole runs, what is refused."""

import json
import re

import pytest
import torch

from scorefield import networks
from scorefield.cli import main
from scorefield.errors import UserError
from scorefield.importer.open import open_network
from scorefield.teachers.edm import EDMDenoiser
from scorefield.teachers.pixel_unet import is_pipeline

diffusers = pytest.importorskip("diffusers")
SIDE = 16


def pipeline(folder, classes=None, prediction="epsilon", out_channels=3, kind="DDPM"):
    torch.manual_seed(0)
    unet = diffusers.UNet2DModel(
        sample_size=SIDE,
        block_out_channels=(16, 32),
        down_block_types=("DownBlock2D", "AttnDownBlock2D"),
        up_block_types=("AttnUpBlock2D", "UpBlock2D"),
        layers_per_block=1,
        norm_num_groups=8,
        attention_head_dim=8,
        num_class_embeds=classes,
        out_channels=out_channels,
    )
    scheduler = getattr(diffusers, f"{kind}Scheduler")(prediction_type=prediction)
    getattr(diffusers, f"{kind}Pipeline")(unet, scheduler).save_pretrained(folder)
    return unet.eval(), scheduler


@pytest.mark.parametrize("prediction", ["epsilon", "v_prediction", "sample"])
@pytest.mark.parametrize("kind", ["DDPM", "DDIM"])
def test_it_denoises_as_the_stock_scheduler_does(tmp_path, prediction, kind):
    unet, scheduler = pipeline(tmp_path / "pipe", prediction=prediction, kind=kind)
    scheduler.config.clip_sample = False
    scheduler.register_to_config(clip_sample=False)
    teacher = EDMDenoiser(open_network(tmp_path / "pipe")).eval()
    assert (teacher.shape, teacher.label_dim, teacher.tells_augmentation) == ((3, SIDE, SIDE), 0, False)
    assert (teacher.sigma_min, teacher.sigma_max) == (pytest.approx(0.0100005, rel=1e-3), 80.0)
    for step in (10, 400, 800):
        bar = scheduler.alphas_cumprod[step]
        native = torch.randn(2, 3, SIDE, SIDE)
        with torch.no_grad():
            output = unet(native, step).sample
            wanted = scheduler.step(output, step, native).pred_original_sample if kind == "DDPM" else None
            if wanted is None:
                scheduler.set_timesteps(1000)
                wanted = scheduler.step(output, step, native).pred_original_sample
            sigma = ((1 - bar) / bar).sqrt().expand(2)
            found = teacher(native / bar.sqrt(), sigma, {})
        torch.testing.assert_close(found, wanted, rtol=2e-3, atol=2e-3)


def test_classes_are_told_and_there_is_no_empty_one(tmp_path):
    pipeline(tmp_path / "pipe", classes=5, out_channels=6)
    teacher = EDMDenoiser(open_network(tmp_path / "pipe")).eval()
    x, sigma = torch.randn(2, 3, SIDE, SIDE), torch.ones(2)
    label = torch.eye(5)[:2]
    assert teacher(x, sigma, {"label": label}).shape == x.shape  # learned variances are cut off
    assert not torch.allclose(teacher(x, sigma, {"label": label}), teacher(x, sigma, {"label": label.flip(0)}))
    with pytest.raises(UserError, match="no empty class"):
        teacher.null_condition({"label": label})
    with pytest.raises(UserError, match="no empty class"):
        teacher(x, sigma, {})
    assert teacher.encode(x, sigma, {"label": label}).shape == (2, 32, SIDE // 2, SIDE // 2)


SMALL = ["training.iterations=2", "training.batch=4", "training.device=cpu", "checkpoints.every=2"]
SMALL += ["evaluation.preview=2", "training.accumulation=1"]


def test_a_student_of_a_pipeline_is_exported_as_one(tmp_path):
    """The README's own lines, run on what was exported, give the pictures of the generator."""
    pipeline(tmp_path / "pipe")
    words = ["run", "class_to_image", "--out", str(tmp_path / "run"), f"teacher={tmp_path / 'pipe'}"]
    assert main([*words, *SMALL, "evaluation.teacher_steps=2"]) == 0
    assert main(["export", str(tmp_path / "run"), "--out", str(tmp_path / "out")]) == 0
    lines = re.search("```python\n(.*?)```", (tmp_path / "out" / "README.md").read_text(), re.DOTALL).group(1)
    told = {}
    torch.manual_seed(3)
    with torch.no_grad():
        exec(lines.replace("FOLDER", str(tmp_path / "out")), told)
    student = EDMDenoiser(open_network(tmp_path / "out")).eval()
    with torch.no_grad():
        wanted = student(2.5 * told["z"], torch.full((4,), 2.5), {})
    torch.testing.assert_close(told["images"], wanted, rtol=1e-3, atol=1e-3)
    start = open_network(tmp_path / "pipe").state_dict()
    assert any(not torch.equal(value, start[name]) for name, value in student.network.state_dict().items())


def test_it_refines_a_gan(tmp_path):
    pipeline(tmp_path / "pipe")
    kwargs = {"z_dim": 8, "c_dim": 3, "w_dim": 8, "img_resolution": SIDE, "img_channels": 3}
    small = {"channel_base": 8 * SIDE, "channel_max": 8}
    networks.save(networks.build("Generator", {**kwargs, "synthesis_kwargs": small}), tmp_path / "gan")
    words = ["run", "gan_refine", "--out", str(tmp_path / "run"), f"generator={tmp_path / 'gan'}"]
    assert main([*words, f"teacher={tmp_path / 'pipe'}", *SMALL, "training.online_warmup=1"]) == 0
    lines = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    assert any("loss/generator" in line for line in lines)


def test_what_reads_like_a_hub_id(tmp_path):
    assert is_pipeline(tmp_path.__class__("google/ddpm-cifar10-32"))
    for path in ("gan.pkl", "runs/gan.pkl", "a/b/c", str(tmp_path / "nothing"), str(tmp_path)):
        assert not is_pipeline(tmp_path.__class__(path)), path


def test_other_pipelines_are_refused(tmp_path, capsys):
    (tmp_path / "text").mkdir()
    index = {"_class_name": "PixArtAlphaPipeline", "transformer": ["diffusers", "PixArtTransformer2DModel"]}
    (tmp_path / "text" / "model_index.json").write_text(json.dumps(index))
    assert main(["run", "class_to_image", f"teacher={tmp_path / 'text'}", "--dry-run"]) == 2
    assert "is a PixArtAlphaPipeline" in capsys.readouterr().err
    pipeline(tmp_path / "pipe")
    (tmp_path / "pipe" / "unet" / "config.json").write_text("{")
    assert main(["run", "class_to_image", f"teacher={tmp_path / 'pipe'}", "--dry-run"]) == 2
    assert "cannot load unet" in capsys.readouterr().err
