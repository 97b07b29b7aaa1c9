"""A trained network with its optimizer, gradient clipping and moving average, all without a host sync."""

import math
from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn

from scorefield.errors import UserError
from scorefield.generators.base import Changes
from scorefield.noise import spread
from scorefield.training import optimizers
from scorefield.training.settings import PlayerConfig
from scorefield.training.sharding import local, whole


class Player:
    """An optimizer over parameter groups, with gradient norm, clipping and the skipping of non-finite steps on device.

    Attributes:
        norm: gradient norm of the last step, a device scalar. skipped: steps not taken, a device scalar.
        rate_scale: factor on the configured learning rate, 1 until a roll-back lowers it.
    """

    def __init__(self, groups: list[dict], config: PlayerConfig, iterations: int):
        self.config, self.iterations, self.rate_scale = config, iterations, 1.0
        groups = [{"lr_scale": 1.0, **group} for group in groups]
        self.optimizer = optimizers.build(groups, config)
        device = self.parameters[0].device
        self.norm, self.skipped = torch.zeros((), device=device), torch.zeros((), device=device)

    @property
    def parameters(self) -> list[nn.Parameter]:
        return [p for group in self.optimizer.param_groups for p in group["params"]]

    def rate(self, iteration: int) -> float:
        """Learning rate of an iteration (from 0) before group scales."""
        rate = self.config.learning_rate * self.rate_scale
        if self.config.warmup_iterations:
            rate *= min(1.0, (iteration + 1) / self.config.warmup_iterations)
        if self.config.decay == "cosine":
            rate *= 0.01 + 0.99 * 0.5 * (1 + math.cos(math.pi * min(1.0, iteration / self.iterations)))
        return rate

    @torch.no_grad()
    def step(self, iteration: int) -> None:
        """Clip and step; a non-finite gradient skips the step and counts it, without asking the host."""
        gradients = [p.grad for p in self.parameters if p.grad is not None]
        norm = nn.utils.get_total_norm(gradients)
        if self.config.clip_norm:
            nn.utils.clip_grads_with_norm_(self.parameters, self.config.clip_norm, norm)
        self.norm = whole(norm)
        broken = (~torch.isfinite(self.norm)).float()
        self.skipped = self.skipped + broken
        rates = [self.rate(iteration) * group["lr_scale"] for group in self.optimizer.param_groups]
        optimizers.step(self.optimizer, rates, broken)
        self.optimizer.zero_grad(set_to_none=True)

    def apply(self, changes: Changes) -> None:
        """Follow replaced, removed and added parameters: the one place that edits optimizer state.

        Raises UserError for rows that move where moments have eight bits.
        """
        if changes.rows and self.config.optimizer != "adamw":
            raise UserError(f"{self.config.optimizer} cannot follow a generator that grows and shrinks: use adamw")
        for group in self.optimizer.param_groups:
            kept = []
            for old in group["params"]:
                new = changes.replaced.get(old, old)
                if new is not old:
                    state = self.optimizer.state.pop(old, None)
                    if new is not None and state is not None:
                        if new in changes.rows:
                            state = {name: moved(value, old, changes.rows[new]) for name, value in state.items()}
                            self.optimizer.state[new] = state
                        elif new.shape == old.shape:
                            self.optimizer.state[new] = state
                if new is not None:
                    kept.append(new)
            group["params"] = kept
        for index, parameter in changes.added:
            self.optimizer.param_groups[index]["params"].append(parameter)


def moved(value: Any, old: Tensor, rows: Tensor) -> Any:
    """Optimizer state (a tensor shaped like ``old``) for new rows; anything else as it is."""
    if not isinstance(value, Tensor) or value.shape != old.shape:
        return value
    kept = spread(rows >= 0, value[rows.clamp(min=0)])
    return torch.where(kept, value[rows.clamp(min=0)], 0)


class MovingAverage:
    """Exponential moving average with a half-life in images that ramps up with the images seen (EDM, SiD)."""

    def __init__(self, named: Iterable[tuple[str, Tensor]], half_life: float, rampup: float):
        self.half_life, self.rampup = half_life, rampup
        self.reset(named)

    def reset(self, named: Iterable[tuple[str, Tensor]]) -> None:
        """Start over from the present values (also after parameters were added or removed)."""
        named = list(named)
        self.names, self.live = [n for n, _ in named], [p for _, p in named]
        self.shadow = [p.detach().clone() for p in self.live]

    @torch.no_grad()
    def follow(self, changes: Changes, named: Iterable[tuple[str, Tensor]]) -> None:
        """Keep the averages of what lives on under ``changes``; what is new starts at its present value."""
        before = {id(p): shadow for p, shadow in zip(self.live, self.shadow, strict=True)}
        past = {id(new): before.get(id(old)) for old, new in changes.replaced.items() if new is not None}
        rows = {id(new): found for new, found in changes.rows.items()}
        self.reset(named)
        for place, live in enumerate(self.live):
            shadow, now = past.get(id(live), before.get(id(live))), self.shadow[place]
            if shadow is not None and id(live) in rows:
                source = rows[id(live)].to(now.device)
                self.shadow[place] = torch.where(spread(source >= 0, now), shadow[source.clamp(min=0)], now)
            elif shadow is not None and shadow.shape == now.shape:
                self.shadow[place] = shadow

    @torch.no_grad()
    def update(self, batch: int, images: int) -> None:
        """Follow the live parameters after ``batch`` more images, ``images`` in all."""
        torch._foreach_lerp_(local(self.shadow), local(self.live), self.share(batch, images))

    def share(self, batch: int, images: int) -> float:
        """Of the live values in an average that is ``batch`` images later, ``images`` in all."""
        half_life = min(self.half_life, self.rampup * images) if self.rampup else self.half_life
        return 1 - 0.5 ** (batch / max(half_life, 1e-8))

    def before_step(self) -> None:
        """Called before the live parameters change again."""

    @torch.no_grad()
    def swap(self) -> None:
        """Exchange averaged and live values; call it twice to undo."""
        live, shadow = local(self.live), local(self.shadow)
        kept = [p.detach().clone() for p in live]
        torch._foreach_copy_(live, shadow)
        torch._foreach_copy_(shadow, kept)

    def state_dict(self) -> dict[str, Tensor]:
        return dict(zip(self.names, self.shadow, strict=True))

    @torch.no_grad()
    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        torch._foreach_copy_(self.shadow, [state[name].to(self.shadow[0].device) for name in self.names])
