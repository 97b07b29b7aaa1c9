"""Measure a Toybox teacher at many steps and guidance scales and store the result with the weights' hash.

    python scripts/sweep_teacher.py assets/toybox --prompts 500 --out assets/toybox/sweep.json

Prompts of a seed that is neither trained nor measured on, start noise of one seed; prompt accuracy by the judge,
Fréchet distance against real pictures that show what the same prompts say. A run measures only the best setting anew.
"""

import argparse
import hashlib
from pathlib import Path

import torch

from scorefield.data import toybox as world
from scorefield.evaluation import toybox
from scorefield.evaluation.judge import Judge
from scorefield.files import write_json
from scorefield.random import Draws
from scorefield.teachers.pixart import PixArt
from scorefield.teachers.sampling import sample


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("asset", type=Path, help="folder with pipeline/ and judge/")
    parser.add_argument("--prompts", type=int, default=500)
    parser.add_argument("--seed", type=int, default=7, help="of the prompts")
    parser.add_argument("--steps", type=int, nargs="+", default=[8, 16, 32, 64])
    parser.add_argument("--guidance", type=float, nargs="+", default=[1.0, 2.0, 3.0, 4.5])
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--out", type=Path, required=True)
    arguments = parser.parse_args()

    from diffusers import DPMSolverMultistepScheduler

    device, count = arguments.device, arguments.prompts
    judge = Judge.load(arguments.asset / "judge", device)
    pipeline = PixArt(str(arguments.asset / "pipeline"), device, max_tokens=64)
    denoiser = pipeline.denoiser()
    prompts = world.prompts(count, arguments.seed)
    text = pipeline.encode(prompts)
    z = Draws(arguments.seed, -1, torch.arange(count, device=device)).normal("z", *pipeline.latent_shape)
    reference = judge.read(toybox.real_pictures(prompts, arguments.seed, 20_000_000, device)).features
    rows = []
    for steps in arguments.steps:
        for guidance in arguments.guidance:
            scheduler = DPMSolverMultistepScheduler.from_config(pipeline.scheduler_settings)
            latents = sample(denoiser, scheduler, text, z, steps=steps, guidance_scale=guidance)
            verdict = toybox.judge_pictures(judge, pipeline.decode(latents), prompts)
            rows.append({"steps": steps, "guidance": guidance} | toybox.figures(verdict, reference))
            print("  ".join(f"{key} {value:.4g}" for key, value in rows[-1].items()), flush=True)
    best = max(rows, key=lambda row: (round(row["prompt_accuracy"], 2), -row["frechet"]))
    weights = arguments.asset / "pipeline" / "transformer" / "diffusion_pytorch_model.safetensors"
    digest = hashlib.sha256(weights.read_bytes()).hexdigest()
    write_json(
        arguments.out,
        {"transformer_sha256": digest, "prompts": count, "seed": arguments.seed, "best": best, "settings": rows},
    )


if __name__ == "__main__":
    main()
