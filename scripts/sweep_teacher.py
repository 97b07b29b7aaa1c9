"""Measure a Toybox teacher at many steps and guidance scales and store the result with the hash of the teacher's files.

    python scripts/sweep_teacher.py assets/toybox --prompts 500 --out assets/toybox/sweep.json

Prompts of a seed that is neither trained nor measured on, start noise of one seed; prompt accuracy by the judge,
Fréchet distance against real pictures that show what the same prompts say. The file is written after every setting and
settings that it already holds are kept, so a stopped sweep goes on. A run measures only the best setting anew.
"""

import argparse
import os
from pathlib import Path

import torch

from scorefield.data import toybox as world
from scorefield.evaluation import toybox
from scorefield.evaluation.judge import Judge
from scorefield.evaluation.sweep import pipeline_digest
from scorefield.files import read_json, write_json
from scorefield.random import Draws
from scorefield.teachers.pixart import PixArt


def best_of(rows: list[dict]) -> dict:
    """Highest prompt accuracy in whole percents, then lowest Fréchet distance."""
    return max(rows, key=lambda row: (round(row["prompt_accuracy"], 2), -row["frechet"]))


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

    device, count = arguments.device, arguments.prompts
    head = {
        "pipeline_sha256": pipeline_digest(arguments.asset / "pipeline"),
        "prompts": count,
        "seed": arguments.seed,
    }
    rows: list[dict] = []
    if arguments.out.exists():
        before = read_json(arguments.out)
        if head == {key: before.get(key) for key in head}:
            rows = before["settings"]
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    judge = Judge.load(arguments.asset / "judge", device)
    pipeline = PixArt(str(arguments.asset / "pipeline"), device, max_tokens=64)
    denoiser = pipeline.denoiser()
    prompts = world.prompts(count, arguments.seed)
    text = pipeline.encode(prompts)
    z = Draws(arguments.seed, -1, torch.arange(count, device=device)).normal("z", *pipeline.latent_shape)
    reference = judge.read(toybox.real_pictures(prompts, arguments.seed, 20_000_000, device)).features
    done = {(row["steps"], row["guidance"]) for row in rows}
    for steps in arguments.steps:
        for guidance in arguments.guidance:
            if (steps, guidance) in done:
                continue
            latents = pipeline.sample(denoiser, text, z, steps=steps, guidance_scale=guidance)
            verdict = toybox.judge_pictures(judge, pipeline.decode(latents), prompts)
            rows.append({"steps": steps, "guidance": guidance} | toybox.figures(verdict, reference))
            write_json(arguments.out, head | {"best": best_of(rows), "settings": rows})
            print("  ".join(f"{key} {value:.4g}" for key, value in rows[-1].items()), flush=True)


if __name__ == "__main__":
    main()
