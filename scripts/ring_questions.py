"""The laboratory's questions asked of the ring of eight Gaussians, several seeds each, in seconds a run.

    python scripts/ring_questions.py constant rates start updates noise path --out docs/results

Writes ring_questions.csv (a row a run; finished rows are not run again) and ring_questions.md with means and ranges
over seeds. Teacher, networks and figures are those of scripts/ring.py.
"""

import argparse
import math
import statistics
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import ring
import torch
from torch import Tensor

import scorefield
from scorefield import losses
from scorefield.files import write_text
from scorefield.losses.base import Loss
from scorefield.teachers.analytic import eight_modes
from scorefield.training.settings import PlayerConfig

RATE, ITERATIONS = 4e-3, 600  # learning rate; generator updates
NORMS = "generator's gradient norm: first, middle, last tenth"
FIGURES = ("near", "modes", "least", "distance")
COLUMNS = (*FIGURES, "norm_first", "norm_middle", "norm_last")


@dataclass(frozen=True)
class Scaled(Loss):
    """Another loss times a constant."""

    inner: Loss = field(default_factory=lambda: losses.build("sim"))
    factor: float = 1.0

    @property
    def needs_jacobian(self) -> bool:
        return self.inner.needs_jacobian

    def per_sample(self, **tensors: Tensor) -> Tensor:
        return self.factor * self.inner.per_sample(**tensors)


@dataclass
class Variant:
    """A loss with its options, and what else differs from the common settings."""

    name: str
    loss: str = "sim"
    options: dict[str, Any] = field(default_factory=dict)
    factor: float = 1.0  # on the loss
    rates: float = 1.0  # on both learning rates
    online_rate: float = 1.0  # on the online score's alone, beside ``rates``
    clip: float = 0.0
    after: str = ""  # "sim": starts from what a finished run of SIM made
    changes: dict[str, Any] = field(default_factory=dict)  # of scorefield.distill

    def build(self) -> Loss:
        inner = losses.build(self.loss, sigma_data=ring.RADIUS / 2**0.5, **self.options)
        return inner if self.factor == 1 else Scaled(inner=inner, factor=self.factor)


HUBER, SQUARED = {"distance": "pseudo_huber"}, {"distance": "squared_l2"}
THREE = (("Huber", "sim", HUBER), ("squared L2", "sim", SQUARED), ("DMD", "dmd", {}))


def law(mean: float, std: float) -> dict[str, Any]:
    return {"name": "log_normal", "mean": mean, "std": std}


def constant() -> list[Variant]:
    found = [
        Variant(f"{space}, c {c:g}", options={**HUBER, "space": space, "c": c})
        for space in ("x0", "score")
        for c in (0.0, 0.1, 100.0)
    ]
    return [*found, Variant("squared L2, x0", options=SQUARED)]


def rates() -> list[Variant]:
    found = [Variant(f"{n}, rates × {x:g}", k, o, rates=x) for n, k, o in THREE for x in (0.25, 1.0, 4.0)]
    found.append(Variant("Huber, loss × 100", factor=100.0))
    return found + [
        Variant(f"{n}, gradients clipped at 1, loss × {x:g}", k, o, factor=x, clip=1.0)
        for n, k, o in THREE[:2]
        for x in (0.01, 100.0)
    ]


def start() -> list[Variant]:
    return [Variant(f"{n}, from SIM's result", k, o, after="sim") for n, k, o in THREE]


def updates() -> list[Variant]:
    return [
        Variant(f"{n}, {count} updates", k, o, changes={"online_updates": count})
        for n, k, o in (THREE[0], THREE[2])
        for count in (1, 2, 5)
    ]


def noise() -> list[Variant]:
    laws = {"low": law(-1.5, 1.0), "high": law(1.0, 1.0)}
    found = [Variant(f"generator's law {name}", changes={"generator_noise": value}) for name, value in laws.items()]
    found += [Variant(f"online law {name}", changes={"online_noise": value}) for name, value in laws.items()]
    found += [Variant(f"online weight {name}", changes={"online_weighting": name}) for name in ("x0", "eps")]
    return found + [Variant(f"generator's weight {n}", options={"weighting": n}) for n in ("sid", "sigma_squared")]


def path() -> list[Variant]:
    found = [Variant(f"SiD, alpha {a:g}", "sid", {"alpha": a}) for a in (0.5, 1, 1.2)]
    for title, options in (("Huber", HUBER), ("squared L2", SQUARED)):
        found += [Variant(f"{title}, kappa {k:g}", options={**options, "kappa": k}) for k in (1.0, 0.0, -0.4)]
    return found


QUESTIONS = {
    "constant": ("(b) Pseudo-Huber's constant, in both spaces", constant),
    "rates": ("(c) Learning rate and loss scale", rates),
    "start": ("(d) From a finished generator", start),
    "updates": ("(e) Online updates, at equal network evaluations", updates),
    "noise": ("(f) Noise laws and weightings, SIM Pseudo-Huber", noise),
    "path": ("(h) SiD's alpha and SIM's kappa", path),
}


def passes(variant: Variant, loss: Loss) -> float:
    from scorefield.commands.run import passes_per_iteration
    from scorefield.training.settings import TrainingConfig

    return passes_per_iteration(loss, TrainingConfig(online_updates=variant.changes.get("online_updates", 2)))


def run(variant: Variant, seed: int) -> dict[str, Any]:
    """Train once; its figures and the median gradient norms of the first, middle and last tenth of the updates."""
    loss, begun, norms = variant.build(), time.monotonic(), []
    generator, online = ring.start("at the centre", seed)
    iterations = ITERATIONS
    if "online_updates" in variant.changes:  # the network evaluations of SIM with two updates, for all
        iterations = round(ITERATIONS * passes(Variant("usual"), losses.build("sim")) / passes(variant, loss))
    common = ring.settings(seed=seed, iterations=iterations, log_every=1)
    if variant.after:
        first = losses.build(variant.after, sigma_data=ring.RADIUS / 2**0.5)
        before = {**common, "learning_rate": RATE, "loss": first, "log_every": ITERATIONS}
        scorefield.distill(generator, eight_modes(ring.RADIUS, ring.STD), online=online, **before)
        online = ring.start("at the centre", seed + 1000)[1]  # a fresh one
    player = {"betas": (0.0, 0.99), "decay": "cosine", "clip_norm": variant.clip}
    rate = RATE * variant.rates
    asked = common | {
        "generator_optimizer": PlayerConfig(learning_rate=rate, **player),
        "online_optimizer": PlayerConfig(learning_rate=rate * variant.online_rate, **player),
        "loss": loss,
        **variant.changes,
    }
    teacher = eight_modes(ring.RADIUS, ring.STD)
    watch = lambda k, figures: norms.append(figures["grad_norm/generator"])  # noqa: E731
    scorefield.distill(generator, teacher, online=online, watch=watch, **asked)
    true = teacher.sample(8000, torch.Generator().manual_seed(3))
    tenth = max(1, len(norms) // 10)
    middle = (len(norms) - tenth) // 2
    parts = {"first": norms[:tenth], "middle": norms[middle : middle + tenth], "last": norms[-tenth:]}
    found = {"iterations": iterations, **ring.figures(ring.samples(generator), true)}
    found |= {f"norm_{name}": statistics.median(values) for name, values in parts.items()}
    return found | {"seconds": time.monotonic() - begun}


def cell(rows: list[dict[str, str]], key: str, form: str) -> str:
    values = [float(row[key]) for row in rows]
    text = f"{statistics.mean(values):{form}}"
    return text if len(values) < 2 else f"{text} ({min(values):{form}} to {max(values):{form}})"


def table(rows: list[dict[str, str]]) -> str:
    """Markdown with a section a question."""
    lines = []
    for name, (title, _) in QUESTIONS.items():
        mine = [row for row in rows if row["question"] == name]
        if not mine:
            continue
        lines += ["", f"## {title}", ""]
        lines += [
            "| variant | near a mode | modes | rarest mode | sliced W2 | gradient norms: first, middle, last tenth |"
        ]
        lines += ["|---|---|---|---|---|---|"]
        for variant in dict.fromkeys(row["variant"] for row in mine):
            group = [row for row in mine if row["variant"] == variant]
            cells = [cell(group, "near", ".0%"), cell(group, "modes", ".1f"), cell(group, "least", ".2f")]
            cells.append(cell(group, "distance", ".3f"))
            keys = ("norm_first", "norm_middle", "norm_last")
            norms = [statistics.mean(float(row[key]) for row in group) for key in keys]
            cells.append(", ".join(f"{value:.2g}" if math.isfinite(value) else "not finite" for value in norms))
            lines.append(f"| {variant} | " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("questions", nargs="+", choices=list(QUESTIONS))
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--out", type=Path, required=True)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    arguments.out.mkdir(parents=True, exist_ok=True)
    file = arguments.out / "ring_questions.csv"
    for name in arguments.questions:
        for seed in arguments.seeds:
            for variant in QUESTIONS[name][1]():
                told = {"question": name, "variant": variant.name, "seed": seed}
                if any(all(row[key] == str(v) for key, v in told.items()) for row in ring.read(file)):
                    continue
                row = told | run(variant, seed)
                ring.append(file, row)
                print("  ".join(f"{k} {v:.3g}" if isinstance(v, float) else str(v) for k, v in row.items()), flush=True)
    write_text(arguments.out / "ring_questions.md", table(ring.read(file)))


if __name__ == "__main__":
    main()
