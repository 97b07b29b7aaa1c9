"""Measure a stored network by itself, without a run: a StyleGAN2 generator, or a denoiser's many-step samples."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from scorefield.data import toybox
from scorefield.errors import UserError
from scorefield.evaluation.measure import MeasureConfig, Meter, averaged_figures
from scorefield.generators.labels import LabelLaw, label_law
from scorefield.generators.stylegan2 import StyleGAN2Generator
from scorefield.importer.open import locate, open_network, stored
from scorefield.networks import stylegan2
from scorefield.networks.stylegan2_discriminator import Discriminator
from scorefield.random import Draws
from scorefield.teachers.edm import EDMDenoiser
from scorefield.teachers.pixel_unet import is_pipeline
from scorefield.teachers.sampling import heun

Source = Callable[[Tensor, int], Tensor]  # places int64 [B] and a seed to pictures [B, 3, H, W] in [-1, 1]


@dataclass
class StoredConfig(MeasureConfig):
    """How a network is drawn from and measured; keys of ``scorefield evaluate NETWORK key=value``."""

    network_key: str | None = None  # of a pickle: G_ema, G or ema; the first of G_ema, ema, G that is there
    draws: int = 3  # independent draws, for the interval
    steps: int = 18  # of Heun's method for a denoiser: 2 steps - 1 passes (EDM on CIFAR-10: 18)
    truncation_psi: float = 1.0
    labels: Any = None  # class frequencies: a list, or labelled pictures whose classes are counted; all alike

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.draws < 1 or self.steps < 2:
            raise UserError(f"draws must be at least 1 and steps at least 2, not {self.draws} and {self.steps}")

    def check(self) -> None:
        super().check()
        if not self.network:
            raise UserError(
                "nothing to measure with: give --features WEIGHTS (Inception's, for FID) with --reference FILE.npz or "
                "--data PICTURES"
            )


def is_network(path: Path) -> bool:
    """Whether ``path`` is a stored network and no run folder."""
    if (path / "config.yaml").exists() or (path / "task.txt").exists():
        return False
    place = locate(str(path))
    if place.is_dir():
        return (place / "network.json").is_file() or is_pipeline(place)
    return stored(place)


def measure(path: Path, settings: StoredConfig, device: str, first_seed: int = 100) -> dict[str, Any]:
    """Figures of the network at ``path`` in the form of a run's summary: "network", maybe "real", and the facts.

    Means over ``draws`` independent draws with an interval of the Fréchet distance and KID. Picture n of a draw depends
    on the draw and n alone; a refinement's "before" has the same draws and the same real pictures.

    Raises:
        UserError: no network that draws pictures, or what ``settings.check`` refuses.
    """
    settings.check()
    make, side = source(path, settings, device)
    meter = Meter(settings, side, device, toybox.TEST_SEED)
    result: dict[str, Any] = {}
    if meter.ceiling is not None:
        others = meter.of_pictures(meter.ceiling.images[: settings.samples])
        result["real"] = meter.figures(others) | {"samples": len(others.features), "draws": 1}
    seeds = range(first_seed, first_seed + settings.draws)
    sources = [lambda places, seed=seed: make(places, seed) for seed in seeds]
    result["network"] = averaged_figures(meter, sources, settings.samples)
    return result | meter.facts()


def source(path: Path, settings: StoredConfig, device: str) -> tuple[Source, int]:
    """(how the network draws pictures, their side)."""
    network = open_network(locate(str(path)), settings.network_key)
    if isinstance(network, Discriminator):
        raise UserError(
            f"{path} holds a discriminator, which draws no pictures: ask for another with network_key=G_ema"
        )
    if isinstance(network, stylegan2.Generator):
        law = label_law(network.c_dim, settings.labels)
        generator = StyleGAN2Generator(network, labels=law, truncation_psi=settings.truncation_psi)
        return drawn_by(generator.to(device).eval().requires_grad_(False)), network.img_resolution
    denoiser = EDMDenoiser(network).to(device).eval().requires_grad_(False)
    if denoiser.shape[0] != 3:
        raise UserError(
            f"the samples of {path} have {denoiser.shape[0]} channels: latents, which are not measured here"
        )
    law = label_law(denoiser.label_dim, settings.labels)
    return sampled(denoiser, law, settings.steps), denoiser.shape[-1]


def drawn_by(generator: StyleGAN2Generator) -> Source:
    """One pass of a generator."""

    @torch.no_grad()
    def make(places: Tensor, seed: int) -> Tensor:
        return generator(generator.draw(Draws(seed, -1, places))).clamp(-1, 1)

    return make


def sampled(denoiser: EDMDenoiser, law: LabelLaw | None, steps: int) -> Source:
    """Heun's method from the denoiser's highest noise."""

    @torch.no_grad()
    def make(places: Tensor, seed: int) -> Tensor:
        draws = Draws(seed, -1, places)
        told = {} if law is None else {"label": law.draw(draws)}
        return heun(denoiser, told, draws.normal("z", *denoiser.shape), steps=steps).clamp(-1, 1)

    return make
