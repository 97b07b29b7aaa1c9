"""What the brightness monitor says of sound pictures and of planted shifts: where its line comes from.

    python scripts/brightness_line.py [--noises 10]

A student starts as Toybox's teacher; in the place of what it becomes stand the teacher's own pictures of the same
prompts, of other start noises. Prints, a start noise each: how far the mean of the watched pictures moved, the
monitor's figure, and the figure with every picture shifted by 0.3. A minute of one CPU core.
"""

import argparse
import tempfile
from pathlib import Path

import torch

from scorefield.commands.common import build_config
from scorefield.monitors import Probe
from scorefield.monitors.brightness import Brightness
from scorefield.runfolder import RunFolder
from tasks.text_to_image import TextToImage, evaluate


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--noises", type=int, default=10)
    arguments = parser.parse_args()
    words = ["training.device=cpu", "evaluation.preview=8", "evaluation.judge=none"]
    with tempfile.TemporaryDirectory() as work:
        task = TextToImage(build_config(TextToImage, None, words), RunFolder(Path(work)), "cpu")
        task.check()
        task._prepare_previews()
        denoiser = task.pipeline.denoiser()
        start = task.probe(task.make_generator(denoiser))
        assert task.watched is not None
        text, monitor, seed = task.watched[1], Brightness(), 21
        monitor.figure(start)
        deviation = start.seen.transpose(0, 1).flatten(1).std(1)
        print("start noise  mean of all  figure  shifted by 0.3  by -0.3")
        for noise in range(seed, seed + arguments.noises):
            z = evaluate.start_noise(task.pipeline, len(start.seen), noise, "cpu")
            made = task.pipeline.decode(task.pipeline.sample(denoiser, text, z, steps=16, guidance_scale=1.75))
            moved = ((made - start.seen).mean((0, 2, 3)).abs() / deviation).max()
            shown = [(made + shift).clamp(-1, 1).unflatten(0, start.x0.shape[:2]) for shift in (0.0, 0.3, -0.3)]
            plain, up, down = (monitor.figure(Probe(x, x)) for x in shown)
            print(f"{noise:11}  {moved:11.2f}  {plain:6.2f}  {up:14.2f}  {down:7.2f}", flush=True)


if __name__ == "__main__":
    torch.set_grad_enabled(False)
    main()
