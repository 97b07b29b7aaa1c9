"""Eight Gaussians on a ring: which losses keep all modes, what a disjoint start does, and SIM against DMD step by step.

    python scripts/ring.py --out runs/ring                    (everything: about ten minutes on one core)
    python scripts/ring.py --weighting sid --out runs/ring    (one weighting for all losses, not each one's own)
    python scripts/ring.py --losses --out runs/ring           (no loss trained: SIM against DMD alone)

The teacher is exact (``scorefield.teachers.analytic.eight_modes``), so nothing but the loss, its optimisation and the
online score can be at fault. Writes ring.csv, ring_steps.csv, ring.md and pictures; rows that are there already are not
made again. Needs matplotlib (pip install "scorefield[docs]").
"""

import argparse
import csv
import importlib.util
import io
import statistics
import time
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

import scorefield
from scorefield import losses
from scorefield.files import write_text
from scorefield.losses.weighting import GENERATOR_WEIGHTINGS
from scorefield.teachers.analytic import eight_modes

STD, RADIUS = 0.15, 2.0
METHODS: dict[
    str, tuple[str, dict[str, Any]]
] = {  # each with the weighting that is its default, unless --weighting gives one for all
    "SIM, Pseudo-Huber": ("sim", {"distance": "pseudo_huber"}),
    "SIM, squared L2": ("sim", {"distance": "squared_l2"}),
    "SiD, alpha 1.2": ("sid", {"alpha": 1.2}),
    "SiD, alpha 1": ("sid", {"alpha": 1.0}),
    "Diff-Instruct": ("diff_instruct", {}),
    "DMD": ("dmd", {}),
    "VSD": ("vsd", {}),
}


def mlp(inputs: int) -> nn.Sequential:
    return nn.Sequential(nn.Linear(inputs, 128), nn.SiLU(), nn.Linear(128, 128), nn.SiLU(), nn.Linear(128, 2))


class Shifted(nn.Module):
    """A generator whose first pictures lie about ``place``, with ``spread`` times the network's own spread."""

    def __init__(self, place: tuple[float, float], spread: float):
        super().__init__()
        self.network, self.spread = mlp(2), spread
        self.place = nn.Parameter(torch.tensor(place))

    def forward(self, z: Tensor) -> Tensor:
        return self.place + self.spread * self.network(z)


STARTS = {  # name: (centre, spread): the network's first outputs have a deviation of about 0.1
    "at the centre": ((0.0, 0.0), 5.0),
    "disjoint": ((12.0, 0.0), 0.5),
}


def start(name: str, seed: int) -> tuple[Shifted, nn.Module]:
    """Generator and online score as they are before training."""
    torch.manual_seed(seed)
    return Shifted(*STARTS[name]), scorefield.Preconditioned(mlp(3), sigma_data=RADIUS / 2**0.5)


def settings(**changes) -> dict:
    """Arguments of ``scorefield.distill`` on the ring, with some changed."""
    return {
        "latents": (2,),
        "device": "cpu",
        "learning_rate": 2e-3,
        "sigma_data": RADIUS / 2**0.5,
        "online_noise": {"name": "log_normal", "mean": 0.0, "std": 1.6},
        "generator_noise": {"name": "log_normal", "mean": 0.0, "std": 1.6},
    } | changes


def train(name: str, seed: int, loss: losses.Loss, iterations: int, run: int | None = None):
    """``run`` of ``iterations`` steps (all if None); returns generator, online score and seconds."""
    generator, online = start(name, seed)
    begun = time.monotonic()
    asked = settings(loss=loss, seed=seed, iterations=iterations if run is None else run)
    scorefield.distill(generator, eight_modes(RADIUS, STD), online=online, **asked)
    return generator, online, time.monotonic() - begun


def sliced_distance(made: Tensor, true: Tensor) -> float:
    """Sliced Wasserstein-2 distance over 64 directions, in units of the plane."""
    angles = torch.arange(64) * (torch.pi / 64)
    directions = torch.stack([angles.cos(), angles.sin()])
    return ((made @ directions).sort(0).values - (true @ directions).sort(0).values).square().mean().sqrt().item()


def figures(made: Tensor, true: Tensor) -> dict[str, float]:
    """Share of samples within three deviations of a mode, modes that hold at least a quarter of their due, distance."""
    distance, mode = torch.cdist(made, eight_modes(RADIUS, STD).means).min(1)
    near = distance < 3 * STD
    shares = torch.bincount(mode[near], minlength=8) / len(made)
    return {
        "near": near.float().mean().item(),
        "modes": float((shares > 1 / 32).sum()),
        "least": shares.min().item() * 8,
        "distance": sliced_distance(made, true),
    }


@torch.no_grad()
def samples(generator: nn.Module, count: int = 8000) -> Tensor:
    return generator(torch.randn(count, 2, generator=torch.Generator().manual_seed(5)))


def gradients(generator: nn.Module, online: nn.Module, loss: losses.Loss) -> Tensor:
    """d loss / d x0 [4096, 2] of one fixed batch of latents and noise."""
    rng = torch.Generator().manual_seed(9)
    with torch.no_grad():
        x0 = generator(torch.randn(4096, 2, generator=rng))
    x0.requires_grad_(True)
    sigma = (1.6 * torch.randn(4096, generator=rng)).exp()
    x_t = x0 + sigma[:, None] * torch.randn(4096, 2, generator=rng)
    inside = x_t if loss.needs_jacobian else x_t.detach()  # frozen: the networks' answers are constants
    told = {"teacher_x0": eight_modes(RADIUS, STD)(inside, sigma), "online_x0": online(inside, sigma)}
    (found,) = torch.autograd.grad(loss(x0=x0, x_t=x_t, sigma=sigma, **told).sum(), x0)
    return found


def step_by_step(iterations: int) -> list[dict]:
    """How alike the steps of SIM and DMD are along one run of SIM, seed 0."""
    options = {"sigma_data": RADIUS / 2**0.5}
    exact = losses.build("sim", distance="pseudo_huber", **options)
    frozen = losses.build("sim", distance="pseudo_huber", jacobian="none", **options)
    dmd = losses.build("dmd", **options)
    rows = []
    for share in (0.02, 0.1, 0.3, 1.0):
        generator, online, _ = train("at the centre", 0, exact, iterations, max(1, round(share * iterations)))
        a, b, c = (gradients(generator, online, loss) for loss in (exact, frozen, dmd))
        moved = c.norm(dim=1) > 1e-6 * c.norm(dim=1).max()
        alike = [torch.cosine_similarity(x[moved], c[moved]).mean().item() for x in (a, b)]
        at = {"iterations": iterations, "iteration": round(share * iterations)}
        rows.append(at | {"exact": alike[0], "frozen": alike[1]})
    return rows


def build(title: str, weighting: str) -> losses.Loss:
    """One of ``METHODS``; weighting "own" leaves the loss's default."""
    kind, options = METHODS[title]
    told: dict[str, Any] = {} if weighting == "own" else {"weighting": weighting}
    return losses.build(kind, sigma_data=RADIUS / 2**0.5, **options | told)


def draw(pictures: dict[str, Tensor], true: Tensor, path: Path) -> None:
    """One panel a method."""
    from matplotlib import pyplot as plt

    plt.switch_backend("Agg")
    columns = 4
    rows = -(-(len(pictures) + 1) // columns)
    figure, axes = plt.subplots(rows, columns, figsize=(3 * columns, 3.2 * rows), squeeze=False)
    for axis in axes.flat:
        axis.axis("off")
    for axis, (name, made) in zip(axes.flat, {"truth": true, **pictures}.items(), strict=False):
        axis.scatter(true[:2000, 0], true[:2000, 1], s=1, color="0.85")
        if name != "truth":
            axis.scatter(made[:2000, 0], made[:2000, 1], s=1, color="tab:blue")
        axis.set(title=name, xlim=(-3.2, 3.2), ylim=(-3.2, 3.2), aspect="equal")
    figure.tight_layout()
    figure.savefig(path, dpi=80)
    plt.close(figure)


def compare(arguments: argparse.Namespace, start: str, true: Tensor) -> None:
    """Train every loss from one start with every seed, add the rows to ring.csv, and draw what seed 0 made."""
    file, kept = arguments.out / "ring.csv", arguments.out / "samples"
    kept.mkdir(exist_ok=True)
    mark = "" if arguments.weighting == "own" else f"-{arguments.weighting}"
    stem = f"{start.split()[-1]}{mark}"
    for seed in arguments.seeds:
        for title in arguments.losses:
            loss = build(title, arguments.weighting)
            told = {"start": start, "loss": title, "weighting": loss.weighting}
            told |= {"iterations": arguments.iterations, "seed": seed}
            path = kept / f"{stem}-{title}.pt"
            done = any(all(row[key] == str(v) for key, v in told.items()) for row in read(file))
            if done and (seed != 0 or path.exists()):
                continue
            generator, _, seconds = train(start, seed, loss, arguments.iterations)
            made = samples(generator)
            row = told | figures(made, true) | {"seconds": seconds}
            append(file, row)
            if seed == 0:
                torch.save(made[:2000].clone(), path)
            print("  ".join(f"{k} {v:.3g}" if isinstance(v, float) else str(v) for k, v in row.items()), flush=True)
    found = {title: kept / f"{stem}-{title}.pt" for title in METHODS}
    pictures = {title: torch.load(path) for title, path in found.items() if path.exists()}
    if pictures:
        draw(pictures, true, arguments.out / f"ring-{stem}.png")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--iterations", type=int, default=1200)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--starts", nargs="+", default=list(STARTS), choices=list(STARTS))
    parser.add_argument("--losses", nargs="*", default=list(METHODS), help=f"of {', '.join(METHODS)}")
    parser.add_argument("--weighting", default="own", choices=["own", *GENERATOR_WEIGHTINGS], help="of every loss")
    parser.add_argument("--steps", type=int, default=400, help="iterations of SIM held against DMD; 0: leave it out")
    arguments = parser.parse_args()
    if unknown := set(arguments.losses) - set(METHODS):
        parser.error(f"unknown losses {sorted(unknown)}: of {list(METHODS)}")
    if importlib.util.find_spec("matplotlib") is None:  # said before the training, not after it
        parser.error('the pictures need matplotlib: pip install "scorefield[docs]"')
    torch.set_num_threads(1)
    arguments.out.mkdir(parents=True, exist_ok=True)
    true = eight_modes(RADIUS, STD).sample(8000, torch.Generator().manual_seed(3))
    for name in arguments.starts if arguments.losses else ():
        compare(arguments, name, true)
    if arguments.steps:
        for row in step_by_step(arguments.steps):
            append(arguments.out / "ring_steps.csv", row)
    truth = eight_modes(RADIUS, STD).sample(8000, torch.Generator().manual_seed(4))
    write(arguments.out, figures(truth, true))


def read(file: Path) -> list[dict[str, str]]:
    """Rows of a CSV file; none where there is no file."""
    if not file.exists():
        return []
    with file.open(newline="") as lines:
        return list(csv.DictReader(lines))


def append(file: Path, row: dict) -> None:
    """Add a row, in the place of an earlier one of the same run."""
    same = ("start", "question", "loss", "weighting", "variant", "iterations", "iteration", "seed")
    row = {key: f"{v:.5g}" if isinstance(v, float) else str(v) for key, v in row.items()}
    kept = [old for old in read(file) if any(old.get(key) != row.get(key) for key in same)]
    text = io.StringIO()
    writer = csv.DictWriter(text, list(row), lineterminator="\n")
    writer.writeheader()
    writer.writerows([*kept, row])
    write_text(file, text.getvalue())


def write(out: Path, truth: dict[str, float]) -> None:
    """ring.md from both CSV files: means and ranges over seeds."""
    lines = ["| start | loss | weighting | iterations, seeds | near a mode | modes kept | rarest mode | sliced W2 |"]
    lines += ["|---" * 8 + "|"]
    lines.append(f"| | *truth* | | | {truth['near']:.1%} | 8 | {truth['least']:.2f} | {truth['distance']:.3f} |")
    table = read(out / "ring.csv")
    keys = ("start", "loss", "weighting", "iterations")
    for told in dict.fromkeys(tuple(row[key] for key in keys) for row in table):
        rows = [row for row in table if tuple(row[key] for key in keys) == told]
        cells = []
        for key, form in (("near", ".0%"), ("modes", ".1f"), ("least", ".2f"), ("distance", ".3f")):
            values = [float(row[key]) for row in rows]
            spread = f" ({min(values):{form}} to {max(values):{form}})" if len(values) > 1 else ""
            cells.append(f"{statistics.mean(values):{form}}{spread}")
        start, title, weighting, iterations = told
        seeds = ", ".join(row["seed"] for row in rows)
        lines.append(f"| {start} | {title} | {weighting} | {iterations}; {seeds} | " + " | ".join(cells) + " |")
    steps = read(out / "ring_steps.csv")
    lines += ["", "| iteration of SIM | SIM's step and DMD's | SIM with x_t frozen in the networks, and DMD's |"]
    lines += ["|---" * 3 + "|"]
    lines += [f"| {row['iteration']} | {float(row['exact']):.4f} | {float(row['frozen']):.4f} |" for row in steps]
    write_text(out / "ring.md", "\n".join(lines) + "\n")


if __name__ == "__main__":
    main()
