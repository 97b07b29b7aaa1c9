"""Measure a generator before and after its refinement with the same latents, and say whether the gain is real."""

import statistics
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from scorefield.data import toybox
from scorefield.evaluation.measure import Meter, averaged_figures, diversity_by_class, ranks
from scorefield.files import write_json
from scorefield.generators.base import Generator
from scorefield.images import save_grid, save_image
from scorefield.report import fragments

if TYPE_CHECKING:
    from .task import GANRefine

FIRST_DRAW, DIVERSITY_SEED, SHOWN_SEED, RUNNING_SEED = 100, 90, 91, 92
SHOWN = 32
SWEPT = ("frechet", "precision", "recall")


def source(
    task: "GANRefine", generator: Generator, seed: int, labels: Tensor | None = None
) -> Callable[[Tensor], Tensor]:
    """From places int64 [B] to pictures [B, C, H, W] in [-1, 1]; each depends on seed and place alone.

    ``labels`` int64 [N] gives the class of each place; otherwise classes are drawn.
    """

    @torch.no_grad()
    def make(places: Tensor) -> Tensor:
        return generator(task.batch(generator, places, seed, None if labels is None else labels[places])).clamp(-1, 1)

    return make


def make_meter(task: "GANRefine") -> Meter:
    """What the configuration measures with."""
    return Meter(task.config.evaluation, task.teacher.shape[-1], task.device, toybox.TEST_SEED)


def before_and_after(task: "GANRefine", generator: Generator, samples: int) -> dict[str, Any]:
    """Figures of the generator as it was and as it is, on equal latents; writes the pictures of the page."""
    settings = task.config.evaluation
    old = task.open_generator().to(task.device).eval().requires_grad_(False)
    players = {"before": old, "after": generator}
    if ranks()[0] == 0:
        show(task, players)
    if not settings.network:
        empty = dict.fromkeys(("frechet", "frechet_interval", "precision", "recall", "kid", "diversity"))
        return {"before": dict(empty), "after": dict(empty), "feature_network": None}
    meter = task.running.meter if task.running is not None else make_meter(task)
    result: dict[str, Any] = {}
    if meter.ceiling is not None:
        others = meter.of_pictures(meter.ceiling.images[:samples])
        result["real"] = meter.figures(others) | {"samples": len(others.features), "draws": 1}
    result |= {who: figures(task, meter, player, samples) for who, player in players.items()}
    low, high = result["before"]["frechet_interval"][0], result["after"]["frechet_interval"][1]
    result["gain"] = {
        "frechet_ratio": result["after"]["frechet"] / result["before"]["frechet"],
        "beyond_the_spread": bool(high < low),
    }
    varied = diversity(task, meter, players)
    for who, by_class in varied.items():
        result[who]["diversity"] = statistics.mean(by_class.values())
    if ranks()[0] == 0:
        write_json(task.folder.evaluation / "diversity.json", varied)
        fragments.write(task.folder, "diversity", fragments.diversity_table(varied))
    if settings.truncation:
        truncation(task, meter, players, samples)
    if settings.nearest and ranks()[0] == 0:
        fragments.nearest_pictures(task.folder, meter, source(task, generator, FIRST_DRAW), settings.nearest)
    return result | meter.facts()


def figures(task: "GANRefine", meter: Meter, generator: Generator, samples: int) -> dict[str, Any]:
    """Means over independent draws, and the interval of the Fréchet distance."""
    seeds = range(FIRST_DRAW, FIRST_DRAW + task.config.evaluation.draws)
    return averaged_figures(meter, [source(task, generator, seed) for seed in seeds], samples)


def diversity(task: "GANRefine", meter: Meter, players: dict[str, Generator]) -> dict[str, dict[str, float]]:
    """Mean pairwise feature distance within each class, from equal latents."""
    count = max(1, task.open_generator_shape().c_dim)
    labels = torch.arange(count, device=task.device).repeat_interleave(task.config.evaluation.per_class)
    names = meter.real.names if meter.real is not None and len(meter.real.names) == count else None
    names = names or [f"class {number}" for number in range(count)]
    found = {}
    for who, player in players.items():
        seen = meter.of_source(source(task, player, DIVERSITY_SEED, labels), len(labels))
        found[who] = diversity_by_class(seen.features, labels, names)
    return found


def truncation(task: "GANRefine", meter: Meter, players: dict[str, Any], samples: int) -> None:
    """Figures of both over ``evaluation.truncation``, on equal latents; writes evaluation/truncation.json."""
    rows = []
    for psi in sorted(task.config.evaluation.truncation):
        row: dict[str, float] = {"psi": psi}
        for who, player in players.items():
            usual, player.truncation_psi = player.truncation_psi, psi
            try:
                found = meter.figures(meter.of_source(source(task, player, FIRST_DRAW), samples))
            finally:
                player.truncation_psi = usual
            row |= {f"{who} {key}": found[key] for key in SWEPT if key in found}
        rows.append(row)
    if ranks()[0] == 0:
        write_json(task.folder.evaluation / "truncation.json", rows)
        fragments.write(task.folder, "truncation", fragments.truncation_sweep(rows, meter.network.distance))


def show(task: "GANRefine", players: dict[str, Generator]) -> None:
    """evaluation/pairs.json with the same latents before and after, and two grids."""
    labels, places = task.classes(SHOWN), torch.arange(SHOWN, device=task.device)
    pictures = {name: source(task, player, SHOWN_SEED, labels)(places) for name, player in players.items()}
    records = []
    for name, made in pictures.items():
        save_grid(made, task.folder.samples / f"{name}.png", 8)
    for row in range(SHOWN):
        entry: dict[str, Any] = {"prompt": f"class {int(labels[row])}"}
        for name, made in pictures.items():
            place = f"evaluation/pairs/{row:04d}-{name}.png"
            save_image(made[row], task.folder.path / place)
            entry[name] = place
        records.append(entry)
    write_json(task.folder.evaluation / "pairs.json", records)
