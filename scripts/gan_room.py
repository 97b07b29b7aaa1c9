"""What a refinement of the embedded GAN could gain, and what gets in its way: tables of docs/results/gan.md.

    python scripts/gan_room.py redraw    # the GAN's pictures, noised and drawn anew by the teacher from that level on
    python scripts/gan_room.py drift     # how far a fine-tuned score moves from the teacher: a common part and noise
    python scripts/gan_room.py follow    # the GAN's pictures moved by teacher minus score, without a generator
    python scripts/gan_room.py exact     # teacher and online score against the exact denoisers of many pictures
    python scripts/gan_room.py balance   # the GAN's pictures, with views or colours as frequent as in real ones

"drift" fine-tunes two copies of the teacher on the GAN's pictures, and two on real ones, with other seeds. What both
copies of a pair learnt alike is their common part, half the power of what they differ by their noise. On real pictures
the common part should be nothing: the teacher knows them. "follow" takes a score fine-tuned on the GAN's pictures, and
tells the mean over each class of the step from the rest. The exact denoiser of a set of pictures is their mean,
weighted by how likely each is under the noise (Karras et al. 2022, appendix B.3). --teacher and --gan name others than
the embedded ones.
"""

import argparse
import copy
from collections.abc import Callable

import torch
from torch import Tensor, nn

from scorefield.data import toybox
from scorefield.evaluation.features import judge_folder
from scorefield.evaluation.judge import Judge
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
    pictures, labels = of_gan(arguments.gan)(arguments.samples, 3)
    print("| sigma | Fréchet | KID | precision | recall |\n|---:|---:|---:|---:|---:|")
    for level, steps in ((0, 0), (0.2, 3), (0.4, 4), (0.8, 5), (1.5, 6), (3, 7), (6, 8)):
        shown = pictures
        if level:
            eps = torch.randn(pictures.shape, generator=torch.Generator().manual_seed(4))
            denoiser = EDMDenoiser(network, sigma_max=level)
            shown = heun(denoiser, {"label": labels}, pictures / level + eps, steps=steps, batch=250)
        found = meter.figures(meter.of_pictures(to_uint8(shown)))
        print(f"| {level} | {cells_of(found)} |", flush=True)


def cells_of(figures: dict[str, float]) -> str:
    """The columns that tables of pictures have in common."""
    return " | ".join(f"{figures[key]:.3f}" for key in ("frechet", "kid", "precision", "recall"))


def of_gan(place: str) -> Drawn:
    """Pictures of a GAN."""
    sample = gan.sampler(open_located(place).eval(), "cpu", 256)

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
    for name, draw in (("GAN", of_gan(arguments.gan)), ("real", of_toybox())):
        pairs[name] = [fine_tuned(teacher, draw, seed, arguments) for seed in (1, 2)], draw(256, 7)
    for level in (0.1, 0.3, 0.6, 1.0, 2.0, 4.0, 8.0):
        cells = []
        for scores, (pictures, labels) in pairs.values():
            first, second = (moved(score, teacher, pictures, labels, level) for score in scores)
            common, noise = (first * second).mean().clamp(min=0).sqrt(), ((first - second).square().mean() / 2).sqrt()
            cells += [f"{common:.4f}", f"{noise:.4f}"]
        print(f"| {level} | " + " | ".join(cells) + " |", flush=True)


@torch.no_grad()
def follow(arguments: argparse.Namespace) -> None:
    """Figures of pictures moved by a multiple of teacher minus score, of its mean by class, and of the rest."""
    settings = MeasureConfig(samples=arguments.samples, data="toybox", judge="toybox32", real=5000)
    meter, draw = Meter(settings, 32, "cpu", 0), of_gan(arguments.gan)
    teacher = EDMDenoiser(open_located(arguments.teacher)).eval().requires_grad_(False)
    with torch.enable_grad():
        score = fine_tuned(teacher, draw, 1, arguments)
    pictures, labels = draw(arguments.samples, 3)

    def row(name: str, shown: Tensor) -> None:
        found = meter.figures(meter.of_pictures(to_uint8(shown)))
        print(f"| {name} | {cells_of(found)} |", flush=True)

    print("| moved by | Fréchet | KID | precision | recall |\n|---|---:|---:|---:|---:|")
    row("nothing", pictures)
    for level in (1.0, 2.0, 4.0):
        parts = zip(pictures.split(250), labels.split(250), strict=True)
        step = -torch.cat([moved(score, teacher, some, told, level) for some, told in parts])
        shared = class_means(step, labels)[labels]
        size = " and ".join(f"{part.square().mean().sqrt():.3f}" for part in (shared, step - shared))
        for name, part in (("all", step), ("class means", shared), ("the rest", step - shared)):
            for times in (1, 3):
                row(f"sigma {level}, {size}: {name} x {times}", pictures + times * part)


@torch.no_grad()
def exact(arguments: argparse.Namespace) -> None:
    """Root mean squares between the networks and the exact denoisers, on noised pictures of the GAN."""
    teacher, draw = EDMDenoiser(open_located(arguments.teacher)).eval().requires_grad_(False), of_gan(arguments.gan)
    with torch.enable_grad():
        score = fine_tuned(teacher, draw, 1, arguments)
    known = {"GAN": draw(16_000, 11), "real": of_toybox(16_000)(16_000, 11)}
    pictures, labels = draw(700, 7)
    print("| sigma | real - GAN | teacher - real | score - GAN | teacher - score, cosine |\n" + "|---:" * 5 + "|")
    for level in (4.0, 8.0, 16.0, 32.0, 64.0):
        x_t = pictures + level * torch.randn(pictures.shape, generator=torch.Generator().manual_seed(5))
        sigma = torch.full((len(x_t),), level)
        ideal = {name: ideal_denoised(x_t, labels, level, *held) for name, held in known.items()}
        taught, scored = (network(x_t, sigma, {"label": labels}) for network in (teacher, score))
        wanted = ideal["real"] - ideal["GAN"]
        pairs = (wanted, taught - ideal["real"], scored - ideal["GAN"])
        cells = [f"{difference.square().mean().sqrt():.3f}" for difference in pairs]
        cosine = torch.cosine_similarity((taught - scored).flatten(), wanted.flatten(), dim=0)
        print(f"| {level:g} | " + " | ".join(cells) + f" | {cosine:.2f} |", flush=True)


@torch.no_grad()
def balance(arguments: argparse.Namespace) -> None:
    """Figures of the GAN's pictures, taken so that each class has views or colours as frequent as in real pictures."""
    meter = Meter(MeasureConfig(samples=5000, data="toybox", judge="toybox32", real=5000), 32, "cpu", 0)
    judge = Judge.load(judge_folder("toybox32"))
    (drawn, labels), (real, real_labels) = of_gan(arguments.gan)(14_000, 11), of_toybox(16_000)(14_000, 11)
    found, wanted = read(judge, drawn), read(judge, real)
    print("| class | real views, % | the GAN's |\n|---|---|---|")
    for label, name in enumerate(judge.names["object"]):
        shown = (wanted["view"][real_labels == label], found["view"][labels == label])
        cells = (" ".join(f"{100 * n:.0f}" for n in torch.bincount(view, minlength=3) / len(view)) for view in shown)
        print(f"| {name} | " + " | ".join(cells) + " |", flush=True)
    print("\n| as frequent as in real pictures | Fréchet | KID | precision | recall |\n|---|---:|---:|---:|---:|")
    for heads in ((), ("color",), ("view",), ("color", "view")):
        kinds, real_kinds = labels.clone(), real_labels.clone()
        for head in heads:
            kinds = kinds * len(judge.names[head]) + found[head]
            real_kinds = real_kinds * len(judge.names[head]) + wanted[head]
        count = int(max(kinds.max(), real_kinds.max())) + 1
        ratio = torch.bincount(real_kinds, minlength=count) / torch.bincount(kinds, minlength=count).clamp(min=1)
        rows = torch.multinomial(ratio[kinds], 5000, generator=torch.Generator().manual_seed(0))
        figures = meter.figures(meter.of_pictures(to_uint8(drawn[rows])))
        print(f"| {' and '.join(heads) or 'class'} | {cells_of(figures)} |", flush=True)


def read(judge: Judge, pictures: Tensor) -> dict[str, Tensor]:
    """What the judge reads off pictures, by head."""
    parts = [judge.read(to_float(to_uint8(part))).labels for part in pictures.split(500)]
    return {head: torch.cat([part[head] for part in parts]) for head in parts[0]}


def class_means(values: Tensor, labels: Tensor) -> Tensor:
    """[CLASSES, …]"""
    return torch.stack([values[labels == label].mean(0) for label in range(CLASSES)])


def ideal_denoised(x_t: Tensor, labels: Tensor, sigma: float, held: Tensor, held_labels: Tensor) -> Tensor:
    """E[x0 | x_t] if x0 were one of the pictures held of its class, each as likely."""
    denoised = torch.empty_like(x_t)
    for label in labels.unique():
        mine, kept = labels == label, held[held_labels == label].flatten(1)
        weights = (-torch.cdist(x_t[mine].flatten(1), kept).square() / (2 * sigma**2)).softmax(1)
        denoised[mine] = (weights @ kept).view_as(x_t[mine])
    return denoised


MODES = {"redraw": redraw, "drift": drift, "follow": follow, "exact": exact, "balance": balance}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=tuple(MODES))
    parser.add_argument("--teacher", default="toybox32/teacher", help="asset or path")
    parser.add_argument("--gan", default="toybox32/gan", help="asset or path")
    parser.add_argument("--samples", type=int, default=2000, help="of redraw and follow")
    parser.add_argument("--steps", type=int, default=150, help="of a score's training")
    parser.add_argument("--batch", type=int, default=32, help="of a score's training")
    parser.add_argument("--rate", type=float, default=5e-4, help="of a score's training")
    parser.add_argument("--newest", action="store_true", help="the newest weights in place of their average")
    arguments = parser.parse_args()
    MODES[arguments.what](arguments)


if __name__ == "__main__":
    main()
