"""Distillation in one call, for modules of one's own: no task, no run folder, no command line."""

import copy
import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from scorefield import losses
from scorefield.denoiser import Denoiser
from scorefield.errors import UserError, suggest
from scorefield.generators.base import Batch, Generator
from scorefield.losses.base import Loss
from scorefield.random import Draws
from scorefield.teachers.plain import PlainDenoiser
from scorefield.training.parameters import trainable
from scorefield.training.settings import PlayerConfig, TrainingConfig
from scorefield.training.trainer import Trainer


class PlainGenerator(Generator):
    """A module x0 = G(z) as a ``Generator``, with z ~ N(0, I) of shape ``latents`` a sample."""

    def __init__(self, module: nn.Module, latents: tuple[int, ...]):
        super().__init__()
        self.module, self.latents = module, tuple(latents)

    @torch.no_grad()
    def draw(self, draws: Draws) -> Batch:
        return Batch({"z": draws.normal("z", *self.latents)})

    def forward(self, batch: Batch) -> Tensor:
        return self.module(batch.latents["z"])


def distill(
    generator: nn.Module,
    teacher: nn.Module,
    *,
    online: nn.Module | None = None,
    latents: tuple[int, ...] | None = None,
    loss: str | Loss = "sim",
    watch: Callable[[int, dict[str, float]], None] | None = None,
    learning_rate: float = 1e-3,
    **training: Any,
) -> nn.Module:
    """Train ``generator`` until its noised samples score like the teacher's density; returns it, in place.

    Args:
        generator: x0 = G(z) [B, …], or a ``scorefield.Generator`` where there are conditions or other latents.
        teacher: D(x_t, sigma) -> x0 of x_t = x0 + sigma eps, or a ``scorefield.Denoiser``; it is frozen.
        online: the denoiser that learns the generator's own density; a copy of the teacher if left out.
        latents: shape of one sample's z; needed unless ``generator`` is a ``scorefield.Generator``.
        loss: a name (``scorefield list``) or an object from ``scorefield.losses.build``.
        watch: called with (iteration, figures) every ``log_every`` iterations.
        learning_rate: of both networks, with betas (0, 0.99), falling to 1 % along a cosine; for other optimizers give
            ``generator_optimizer`` and ``online_optimizer``, each a ``PlayerConfig``.
        training: fields of ``scorefield.TrainingConfig``: iterations, batch, seed, sigma_data, generator_noise … Where
            not given, unlike there: batch 256, two online updates, ln sigma ~ N(ln sigma_data - 0.5, 1.2^2) for both
            networks (EDM's training noise, moved to the data's scale) and an average over 20,000 images.

    Returns:
        ``generator`` with its averaged weights, in evaluation mode. Gradients of the teacher's parameters stay off.

    Raises:
        UserError: an unknown field, a missing shape, or an online score without parameters.
    """
    config = _config(learning_rate, training)
    player = generator if isinstance(generator, Generator) else _plain(generator, latents)
    teacher = teacher if isinstance(teacher, Denoiser) else PlainDenoiser(teacher)
    built = losses.build(loss, sigma_data=config.sigma_data) if isinstance(loss, str) else loss
    trainer = Trainer(config, teacher, _online(online, teacher, built), player, built)
    since = 0
    for k in range(config.iterations):
        trainer.iteration(k)
        if watch is not None and ((k + 1) % config.log_every == 0 or k + 1 == config.iterations):
            watch(k + 1, trainer.figures(k + 1 - since))
            since = k + 1
    trainer.average.swap()
    return generator.eval()


def _config(learning_rate: float, training: dict[str, Any]) -> TrainingConfig:
    player = PlayerConfig(learning_rate=learning_rate, betas=(0.0, 0.99), decay="cosine")
    names = {"generator_optimizer": "generator", "online_optimizer": "online"}
    known = [name for name in TrainingConfig.__dataclass_fields__ if name not in names.values()]
    for key in training:
        if key not in known and key not in names:
            raise UserError(f'distill knows no "{key}": {suggest(key, [*known, *names, "loss", "online", "latents"])}')
    # for a problem of minutes; TrainingConfig's own defaults are those of runs of millions of images
    mean = math.log(training.get("sigma_data", TrainingConfig.sigma_data)) - 0.5
    usual: dict[str, Any] = {
        "generator": player,
        "online": player,
        "batch": 256,
        "online_updates": 2,
        "online_noise": {"name": "log_normal", "mean": mean, "std": 1.2},
        "generator_noise": {"name": "log_normal", "mean": mean, "std": 1.2},
        "ema_half_life_images": 20_000,
    }
    return TrainingConfig(**usual | {names.get(key, key): value for key, value in training.items()})


def _plain(generator: nn.Module, latents: tuple[int, ...] | None) -> PlainGenerator:
    if latents is None:
        raise UserError("distill needs latents, the shape of one sample's start noise: for example latents=(2,)")
    return PlainGenerator(generator, latents)


def _online(online: nn.Module | None, teacher: Denoiser, loss: Loss) -> Denoiser:
    """The online score as a ``Denoiser`` with every parameter trainable."""
    if online is None:
        online = copy.deepcopy(teacher).requires_grad_(True)
        if not trainable(online):
            if loss.needs_online:
                raise UserError(
                    "the teacher has no parameters to copy: give online, for example scorefield.Preconditioned"
                )
            online = nn.Linear(1, 1)  # never called
    return online if isinstance(online, Denoiser) else PlainDenoiser(online)
