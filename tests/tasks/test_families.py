"""Teachers of every family under the main job: trained, sampled, exported, and loaded back by stock diffusers."""

import json

import pytest
import torch

from scorefield.cli import main
from scorefield.generators.base import Batch
from scorefield.generators.one_step import OneStepGenerator
from scorefield.images import load_image
from scorefield.random import Draws
from scorefield.runfolder import RunFolder
from scorefield.training import checkpoint
from tasks.text_to_image import export
from tests.teachers import families

PROMPTS = ["a red chair", "a boat"]


def stock_of(folder):
    from diffusers import DiffusionPipeline

    absent = {"text_encoder_3": None, "tokenizer_3": None} if "without" in str(folder) else {}
    stock = DiffusionPipeline.from_pretrained(folder, safety_checker=None, **absent)
    stock.set_progress_bar_config(disable=True)
    return stock


def one_step(stock, name: str, prompts: list[str], z: torch.Tensor, options: dict) -> torch.Tensor:
    """Pictures in [-1, 1] of the exported pipeline, called as its README says."""
    options = {"num_inference_steps": 1, "output_type": "pt", **options}
    if name == "dit":
        seeded = torch.Generator().manual_seed(families.SEED)
        return stock(stock.get_label_ids(prompts), generator=seeded, **options).images * 2 - 1
    z = stock._pack_latents(z, *z.shape) if name.startswith("flux") else z
    return stock(prompts, latents=z, **options).images * 2 - 1


@pytest.mark.parametrize("name", families.MAKERS)
def test_stock_diffusers_runs_the_exported_generator_in_one_step(name, tmp_path):
    ours = families.teacher(name, families.write(name, tmp_path / name))
    generator = OneStepGenerator(ours.denoiser(), ours.latent_shape, ours.nearest_sigma(2.5))
    prompts = ["thing 7", "item 3"] if name == "dit" else PROMPTS
    before = generator.denoiser.network.get_submodule(ours.input_layer).weight.detach().clone()
    scaling = ours.part("vae").config.scaling_factor
    (tmp_path / "config.yaml").write_text("task: text_to_image\n")
    out = export.write(ours, generator, RunFolder(tmp_path), tmp_path / "export" / name, export.Wanted())
    assert torch.equal(generator.denoiser.network.get_submodule(ours.input_layer).weight, before)
    assert ours.part("vae").config.scaling_factor == scaling
    z, condition = families.start(ours.latent_shape), ours.encode(prompts)
    with torch.no_grad():
        expected = ours.decode(generator(Batch({"z": z}, condition, condition)))
    found = one_step(stock_of(out), name, prompts, z, ours.stock_options())
    assert (found - expected).abs().max() < 2e-4
    assert expected.std() > 0.02
    assert "num_inference_steps=1" in (out / "README.md").read_text()


@pytest.mark.parametrize(("name", "kind"), [("sd_eps", "full"), ("sd3", "full"), ("dit", "full"), ("sdxl", "lora")])
def test_a_run_from_a_folder_to_an_exported_pipeline(name, kind, tmp_path):
    folder, out = families.write(name, tmp_path / name), tmp_path / "run"
    prompts = [f"thing {k}" for k in range(20)] if name == "dit" else [f"a red thing number {k}" for k in range(20)]
    (tmp_path / "prompts.txt").write_text("\n".join(prompts))
    settings = {
        "teacher.path": folder,
        "teacher.max_tokens": families.TOKENS,
        "prompts.path": tmp_path / "prompts.txt",
        "training.iterations": 2,
        "training.batch": 4,
        "training.device": "cpu",
        "training.guidance_scale": 3.0,
        "evaluation.samples": 2,
        "evaluation.teacher_steps": 2,
        "evaluation.preview": 2,
        "evaluation.judge": "none",
        "generator.kind": kind,
        "online.kind": kind,
    }
    words = [f"{key}={value}" for key, value in settings.items()]
    assert main(["run", "text_to_image", "--out", str(out), *words]) == 0
    summary = json.loads((out / "summary.json").read_text())
    assert summary["iterations"] == 2
    assert summary["nan_samples"] == 0
    newest = checkpoint.newest_whole(out / "checkpoints")
    trained = checkpoint.load(newest, ["generator", "online"]).weights
    for role in ("generator", "online"):
        assert all("lora_" in key and f"/{role}/" in key for key in trained[role]) is (kind == "lora")
        if kind == "lora":  # second factors begin at zero
            assert all(value.abs().sum() > 0 for key, value in trained[role].items() if "lora_B" in key)
    assert main(["sample", str(out), prompts[3], "--out", str(tmp_path / "p"), "--device", "cpu"]) == 0
    assert main(["export", str(out), "--out", str(tmp_path / "export")]) == 0
    ours = load_image(next((tmp_path / "p").glob("*.png")))
    if name == "dit":
        return  # its pipeline takes no start noise from outside; the test above compares it
    shape = families.teacher(name, folder).latent_shape
    z = Draws(0, -1, torch.arange(1)).normal("z", *shape)
    options = families.teacher(name, folder).stock_options()
    picture = one_step(stock_of(tmp_path / "export"), name, [prompts[3]], z, options)[0]
    assert (picture - ours).abs().max() < 2 / 255 + 1e-3
