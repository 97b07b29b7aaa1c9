"""Export the generator as a diffusers folder that stock PixArtAlphaPipeline runs in one step."""

from pathlib import Path

import torch

from scorefield.errors import UserError
from scorefield.files import write_folder, write_text
from scorefield.generators.one_step import OneStepGenerator
from scorefield.teachers.pixart import PixArt

USAGE = """# One-step generator

```python
import torch
from diffusers import PixArtAlphaPipeline

pipe = PixArtAlphaPipeline.from_pretrained("{name}")
image = pipe("{prompt}", num_inference_steps=1, guidance_scale=1.0, use_resolution_binning=False).images[0]
```

The scheduler's training range ends at the generator's own noise level, so that stock diffusers' single Euler step
from there is x0 = D(sigma z, sigma): keep `num_inference_steps=1` and `guidance_scale=1.0`.
"""


def one_step_scheduler(pipeline: PixArt, init_sigma: float) -> dict:
    """Settings of an Euler scheduler whose one step starts at ``init_sigma`` and returns x0.

    Trailing spacing of one step asks the last training timestep; the betas are cut off after the timestep whose
    sigma is ``init_sigma``, so that this last one is the generator's.
    """
    process = pipeline.process
    last = int(process.nearest(torch.tensor([init_sigma])).item())
    cumulative = process.alphas_cumprod().double()[: last + 1]
    alphas = torch.cat([cumulative[:1], cumulative[1:] / cumulative[:-1]])
    form = {"eps": "epsilon", "v": "v_prediction", "x0": "sample"}[pipeline.prediction]
    return {
        "num_train_timesteps": last + 1,
        "trained_betas": (1 - alphas).tolist(),
        "prediction_type": form,
        "timestep_spacing": "trailing",
    }


def write_pipeline(pipeline: PixArt, generator: OneStepGenerator, out: Path) -> Path:
    """Write the folder, whole or not at all; raises UserError if ``out`` is there and holds something else."""
    from diffusers import EulerDiscreteScheduler, PixArtAlphaPipeline

    if out.exists() and any(out.iterdir()) and not (out / "model_index.json").exists():
        raise UserError(f"{out} exists and is no pipeline folder: name another with --out")
    pipeline.encode(["a"])  # loads the text encoder
    scheduler = EulerDiscreteScheduler(**one_step_scheduler(pipeline, generator.init_sigma))
    stock = PixArtAlphaPipeline(
        tokenizer=pipeline.tokenizer,
        text_encoder=pipeline._text_encoder,
        vae=pipeline.vae,
        transformer=generator.denoiser.network,
        scheduler=scheduler,
    )

    def write(part: Path) -> None:
        stock.save_pretrained(part)
        write_text(part / "README.md", USAGE.format(name=out.name, prompt="a blue robot, front view"))

    write_folder(out, write)
    return out
