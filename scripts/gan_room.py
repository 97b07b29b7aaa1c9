"""What a refinement of the embedded GAN could gain, and what gets in its way: two tables of docs/results/gan.md.

    python scripts/gan_room.py redraw    # the GAN's pictures, noised and drawn anew by the teacher from that level on
    python scripts/gan_room.py drift     # how far a fine-tuned score moves from the teacher: a common part and noise

"drift" fine-tunes two copies of the teacher on the GAN's pictures, and two on real ones, with other seeds. What both
copies of a pair learnt alike is their common part, half the power of what they differ by their noise. On real pictures
the common part should be nothing: the teacher knows them. --teacher names another than the embedded one.
"""

import argparse
import copy
from collections.abc import Callable

import torch
from torch import Tensor, nn

from scorefield.data import toybox
from scorefield.evaluation.measure import MeasureConfig, Meter
from scorefield.images import to_float, to_uint8
from scorefield.importer.rehearsal import open_located
from scorefield.noise import spread
from scorefield.noise_laws import online_weighting
from scorefield.pretrain import gan, labelled
from scorefield.teachers.edm import EDMDenoiser
from scorefield.teachers.sampling import heun
from scorefield.training.parameters import trainable
from scorefield.training.player import MovingAverage

CLASSES, LAW = 14, (0.0, 1.6)
Drawn = Callable[[int, int], tuple[Tensor, Tensor]]  # from a count and a seed to pictures and labels


def redraw(arguments: argparse.Namespace) -> None:
    """Fréchet distance and the rest of the GAN's pictures drawn anew from several levels."""
    settings = MeasureConfig(samples=arguments.samples, data="toybox", judge="toybox32", real=5000)
    meter = Meter(settings, 32, "cpu", 0)
    network = open_located(arguments.teacher)
    pictures, labels = of_gan()(arguments.samples, 3)
    print("| sigma | Fréchet | KID | precision | recall |\n|---:|---:|---:|---:|---:|")
    for level, steps in ((0, 0), (0.2, 3), (0.4, 4), (0.8, 5), (1.5, 6), (3, 7), (6, 8)):
        shown = pictures
        if level:
            eps = torch.randn(pictures.shape, generator=torch.Generator().manual_seed(4))
            denoiser = EDMDenoiser(network, sigma_max=level)
            shown = heun(denoiser, {"label": labels}, pictures / level + eps, steps=steps, batch=250)
        found = meter.figures(meter.of_pictures(to_uint8(shown)))
        figures = " | ".join(f"{found[name]:.3f}" for name in ("frechet", "kid", "precision", "recall"))
        print(f"| {level} | {figures} |", flush=True)


def of_gan() -> Drawn:
    """Pictures of the embedded GAN."""
    sample = gan.sampler(open_located("toybox32/gan").eval(), "cpu", 256)

    def draw(count: int, seed: int) -> tuple[Tensor, Tensor]:
        labels = torch.randint(CLASSES, (count,), generator=torch.Generator().manual_seed(seed))
        return sample(labels, seed), labels

    return draw


def of_toybox(count: int = 20_000) -> Drawn:
    """Real pictures, which the teacher has not seen."""
    real = labelled.read("toybox", count=count, seed=toybox.TEST_SEED, resolution=32, label="object")

    def draw(count: int, seed: int) -> tuple[Tensor, Tensor]:
        rows = torch.randint(len(real), (count,), generator=torch.Generator().manual_seed(seed))
        return to_float(real.images[rows]), real.labels[rows]

    return draw


def fine_tuned(teacher: EDMDenoiser, draw: Drawn, seed: int, arguments: argparse.Namespace) -> EDMDenoiser:
    """A copy of ``teacher`` trained as an online score is, averaged over its last 2,560 pictures unless --newest."""
    score = copy.deepcopy(teacher).requires_grad_(True)
    weigh = online_weighting("edm", 0.5)
    optimizer = torch.optim.Adam(trainable(score), lr=arguments.rate, betas=(0.9, 0.999))
    average = MovingAverage([(name, p) for name, p in score.named_parameters() if p.requires_grad], 2560, 0.0)
    noise = torch.Generator().manual_seed(seed)
    for step in range(arguments.steps):
        x0, labels = draw(arguments.batch, 100_000 * seed + step)
        sigma = (LAW[0] + LAW[1] * torch.randn(len(x0), generator=noise)).exp().clamp(0.002, 80)
        x_t = x0 + spread(sigma, x0) * torch.randn(x0.shape, generator=noise)
        error = (score(x_t, sigma, {"label": labels}) - x0).square().flatten(1).mean(1)
        optimizer.zero_grad()
        (weigh(sigma) * error).mean().backward()
        optimizer.step()
        average.update(len(x0), 0)
    if not arguments.newest:
        average.swap()
    return score.eval()


@torch.no_grad()
def moved(score: nn.Module, teacher: nn.Module, pictures: Tensor, labels: Tensor, level: float) -> Tensor:
    """What the score says beyond the teacher at one level."""
    eps = torch.randn(pictures.shape, generator=torch.Generator().manual_seed(5))
    x_t, sigma = pictures + level * eps, torch.full((len(pictures),), level)
    return score(x_t, sigma, {"label": labels}) - teacher(x_t, sigma, {"label": labels})


def drift(arguments: argparse.Namespace) -> None:
    """Root mean squares of the common part and of the noise, per pixel of pictures in [-1, 1]."""
    teacher = EDMDenoiser(open_located(arguments.teacher)).eval().requires_grad_(False)
    print("| sigma | GAN: common | noise | real: common | noise |\n|---:|---:|---:|---:|---:|")
    pairs = {}
    for name, draw in (("GAN", of_gan()), ("real", of_toybox())):
        pairs[name] = [fine_tuned(teacher, draw, seed, arguments) for seed in (1, 2)], draw(256, 7)
    for level in (0.1, 0.3, 0.6, 1.0, 2.0, 4.0, 8.0):
        cells = []
        for scores, (pictures, labels) in pairs.values():
            first, second = (moved(score, teacher, pictures, labels, level) for score in scores)
            common, noise = (first * second).mean().clamp(min=0).sqrt(), ((first - second).square().mean() / 2).sqrt()
            cells += [f"{common:.4f}", f"{noise:.4f}"]
        print(f"| {level} | " + " | ".join(cells) + " |", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("redraw", "drift"))
    parser.add_argument("--teacher", default="toybox32/teacher", help="asset or path")
    parser.add_argument("--samples", type=int, default=2000, help="of redraw")
    parser.add_argument("--steps", type=int, default=150, help="of drift's training")
    parser.add_argument("--batch", type=int, default=32, help="of drift's training")
    parser.add_argument("--rate", type=float, default=5e-4, help="of drift's training")
    parser.add_argument("--newest", action="store_true", help="the newest weights in place of their average")
    arguments = parser.parse_args()
    {"redraw": redraw, "drift": drift}[arguments.what](arguments)


if __name__ == "__main__":
    main()
