"""The generator protocol: one object per thing that is being distilled into.

A one-step denoiser, a StyleGAN2, K NeRF scenes seen by cameras or K images as particles all fit it, and the
trainer never asks which one it holds.
"""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from scorefield.denoiser import Condition
from scorefield.random import Draws
from scorefield.registry import Registry

GENERATORS: Registry[type["Generator"]] = Registry(
    "generator",
    group="scorefield.generators",
    package="scorefield.generators",
    wanted=(
        "a subclass of scorefield.generators.base.Generator",
        lambda part: isinstance(part, type) and issubclass(part, Generator),
    ),
)


@dataclass
class Batch:
    """What was drawn for some samples; no tensor in it carries a gradient.

    Attributes:
        latents: named tensors [B, …] that ``render`` turns into x0: noise, cameras, particle numbers …
        teacher_condition: what the teacher is told (a prompt, perhaps with a view word).
        online_condition: what the online score is told (the same, or a camera vector).
        negative_condition: a negative prompt, for losses that need one; {} where there is none.
    """

    latents: dict[str, Tensor]
    teacher_condition: Condition = field(default_factory=dict)
    online_condition: Condition = field(default_factory=dict)
    negative_condition: Condition = field(default_factory=dict)


@dataclass
class Changes:
    """Parameters that ``after_step`` replaced (densification, resolution switch): old to new, None for gone.

    ``added`` are new parameters with the index of their optimizer group. ``rows`` tells of a new parameter with another
    number of rows where each of them comes from: the old row int64 [new rows], or -1 for one without a past, whose
    moments start at zero.
    """

    replaced: dict[nn.Parameter, nn.Parameter | None] = field(default_factory=dict)
    added: list[tuple[int, nn.Parameter]] = field(default_factory=list)
    rows: dict[nn.Parameter, Tensor] = field(default_factory=dict)


class Generator(nn.Module):
    """Base of all generators; parameters and buffers are the state that is saved and averaged.

    A subclass under ``@GENERATORS.register("name")`` is what ``generator.name`` of text_to_image names; the task makes
    it as ``OneStepGenerator`` is made, with the keys of ``generator.options`` on top, and reads pictures of given start
    noise as ``generator(Batch({"z": z}, condition, condition))`` with ``z`` shaped like a sample. Other tasks make
    their own generators and need no name.

    Attributes:
        steps: passes through the network that one picture takes; reported only.
        partial: whether an iteration may leave parameters without a gradient (those of particles that were not drawn).
    """

    steps: int = 1
    partial: bool = False

    def draw(self, draws: Draws) -> Batch:
        """Latents and conditions of ``len(draws)`` samples, made on ``draws.device`` without gradient."""
        raise NotImplementedError

    def forward(self, batch: Batch) -> Tensor:
        """Render ``batch`` differentiably: x0 [B, …] in the teacher's space, float32."""
        raise NotImplementedError

    def links(self, batch: Batch) -> list[tuple[str, Callable[..., Tensor]]]:
        """The named steps that ``forward`` is a chain of, for who times them apart.

        The first takes nothing and holds the parameters; each further one takes what the one before it made.
        """
        return [("", lambda: self(batch))]

    def regularize(self, x0: Tensor, batch: Batch, iteration: int) -> dict[str, Tensor]:
        """Named scalar terms added to the generator's loss; none by default."""
        return {}

    def online_view(self, x0: Tensor, condition: Condition, draws: Draws) -> tuple[Tensor, Condition]:
        """What the online score learns from in place of pictures and condition: augmented ones, perhaps."""
        return x0, condition

    def regularize_online(self, x0: Tensor, batch: Batch) -> dict[str, Tensor]:
        """Named scalar terms added to the online score's loss (a discriminator in it); none by default."""
        return {}

    def weigh(self, x_t: Tensor, sigma: Tensor, batch: Batch) -> Tensor | None:
        """Factors [B] >= 0, without a graph, on the losses of noised pictures; None for none."""
        return None

    def parameter_groups(self) -> list[dict[str, Any]]:
        """Optimizer groups: {"params": [...], optional "lr_scale": factor on the configured rate}."""
        return [{"params": [p for p in self.parameters() if p.requires_grad]}]

    @torch.no_grad()
    def after_step(self, iteration: int) -> Changes | None:
        """Housekeeping after an optimizer step (occupancy grids, densification); reports changed parameters."""
        return None

    @torch.no_grad()
    def fit(self, weights: Mapping[str, Tensor]) -> Changes | None:
        """Take the sizes of saved ``weights``, before they are read in, where training changes sizes."""
        return None

    def averaged(self) -> Iterator[tuple[str, Tensor]]:
        """Named tensors that the exponential moving average follows: the trainable parameters."""
        return ((name, p) for name, p in self.named_parameters() if p.requires_grad)
