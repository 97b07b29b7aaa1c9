"""The main job with a teacher of PixArt-alpha's real size (610M parameters, random weights): the same code, no change.

About 16 GB of memory and ten minutes on two cores: pytest -m slow tests/tasks/test_pixart_full_size.py
"""

import json

import pytest
import torch

from scorefield.cli import main


def write_pipeline(folder) -> int:
    """A pipeline folder with PixArt-XL-2-512x512's transformer, schedule and text width; returns its parameters.

    Text encoder (one layer of T5-XXL's width) and autoencoder (few channels) are small: they are not trained.
    """
    from diffusers import AutoencoderKL, DPMSolverMultistepScheduler, PixArtAlphaPipeline, PixArtTransformer2DModel
    from transformers import ByT5Tokenizer, T5Config, T5EncoderModel

    transformer = PixArtTransformer2DModel(
        num_attention_heads=16,
        attention_head_dim=72,
        in_channels=4,
        out_channels=8,
        num_layers=28,
        cross_attention_dim=1152,
        sample_size=64,
        patch_size=2,
        caption_channels=4096,
        use_additional_conditions=False,
    ).bfloat16()
    encoder = T5EncoderModel(T5Config(vocab_size=384, d_model=4096, d_kv=64, d_ff=256, num_layers=1, num_heads=4))
    blocks = 4
    vae = AutoencoderKL(
        down_block_types=("DownEncoderBlock2D",) * blocks,
        up_block_types=("UpDecoderBlock2D",) * blocks,
        block_out_channels=(8,) * blocks,
        layers_per_block=1,
        latent_channels=4,
        norm_num_groups=4,
        sample_size=512,
        scaling_factor=0.18215,
    )
    schedule = {"num_train_timesteps": 1000, "beta_schedule": "linear", "beta_start": 1e-4, "beta_end": 0.02}
    PixArtAlphaPipeline(
        tokenizer=ByT5Tokenizer(model_max_length=120),
        text_encoder=encoder,
        vae=vae,
        transformer=transformer,
        scheduler=DPMSolverMultistepScheduler(**schedule),
    ).save_pretrained(folder)
    return sum(p.numel() for p in transformer.parameters())


@pytest.mark.slow
def test_the_pixart_preset_runs_at_full_size(tmp_path):
    torch.manual_seed(0)
    assert 600e6 < write_pipeline(tmp_path / "pipeline") < 620e6
    (tmp_path / "prompts.txt").write_text("\n".join(f"a photo of thing number {k} on a table" for k in range(40)))
    out = tmp_path / "run"
    words = ["run", "text_to_image", "--config", "pixart_512", "--out", str(out)]
    settings = {
        "teacher.path": tmp_path / "pipeline",
        "prompts.path": tmp_path / "prompts.txt",
        "online.kind": "lora",
        "training.device": "cpu",
        "training.iterations": 1,
        "training.batch": 1,
        "training.accumulation": 1,
        "checkpoints.every": 1,
        "evaluation.samples": 2,
        "evaluation.teacher_steps": 1,
        "evaluation.preview": 1,
    }
    assert main([*words, *(f"{key}={value}" for key, value in settings.items())]) == 0
    summary = json.loads((out / "summary.json").read_text())
    assert summary["iterations"] == 1
    assert summary["nan_samples"] == 0
    assert summary["trained_parameters"] > 600e6
    print(f"peak memory {summary['peak_memory_bytes'] / 1e9:.1f} GB, {summary['wall_seconds']:.0f} s")
