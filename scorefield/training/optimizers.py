"""The optimizers of a trained network: torch's fused AdamW, or torchao's with moments of eight bits.

Either steps without asking the host whether the gradient was finite: what it is told of that stays on the device.
"""

import importlib.util
import warnings
from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn

from scorefield.errors import UserError
from scorefield.training.settings import PlayerConfig, TrainingConfig

BLOCK, LEAST = 256, 4096  # torchao's: numbers that share a scale, and of a tensor below which it stays float32


def check(config: TrainingConfig) -> None:
    """Raise UserError where an optimizer's package is not installed, or it cannot train what is to be trained."""
    for role in ("generator", "online"):
        if getattr(config, role).optimizer != "adamw_8bit":
            continue
        if importlib.util.find_spec("torchao") is None:
            raise UserError(
                f"training.{role}.optimizer=adamw_8bit needs the package torchao, which is not installed: pip install"
                ' "scorefield[eight-bit]"'
            )
        if config.sharding != "none":
            raise UserError(
                f"training.{role}.optimizer=adamw_8bit is for whole networks: with training.sharding use adamw"
            )


def build(groups: list[dict[str, Any]], config: PlayerConfig) -> torch.optim.Optimizer:
    """The configured optimizer over parameter ``groups``."""
    betas = config.betas[0], config.betas[1]
    settings = {"lr": config.learning_rate, "betas": betas, "eps": config.eps, "weight_decay": config.weight_decay}
    planned = all(p.is_meta for group in groups for p in group["params"])  # it never steps, and needs no package
    if config.optimizer == "adamw" or planned:
        return torch.optim.AdamW(groups, fused=True, **settings)  # type: ignore[arg-type]
    from torchao.optim import AdamW8bit

    return AdamW8bit(groups, **settings)


@torch.no_grad()
def step(optimizer: torch.optim.Optimizer, rates: Iterable[float], broken: Tensor) -> None:
    """One step at these learning rates of the groups; where ``broken`` (a device scalar) is 1 no weight changes.

    Then the fused optimizer's moments stay as well; those of eight bits decay as with a gradient of zero.
    """
    if isinstance(optimizer, torch.optim.AdamW):
        # the optimizer's own switch for gradient scalers: a fused step leaves weights and moments alone when set
        optimizer.found_inf, optimizer.grad_scale = broken, None  # type: ignore[attr-defined]
        for group, rate in zip(optimizer.param_groups, rates, strict=True):
            group["lr"] = rate
        optimizer.step()
        return
    for group, rate in zip(optimizer.param_groups, rates, strict=True):
        group["lr"] = rate * (1 - broken)
        for parameter in group["params"]:
            if parameter.grad is not None:
                parameter.grad.masked_fill_(broken.bool(), 0)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch's compiler on how torchao's tensors are cached
        optimizer.step()


def planned_state(parameter: nn.Parameter, kind: str) -> dict[str, Tensor]:
    """Tensors of the sizes that the optimizer keeps of a parameter, beside it (on the meta device, say)."""

    def moments() -> Tensor:
        return torch.empty_like(parameter, requires_grad=False)

    state = {"step": torch.zeros((), device=parameter.device)}
    if kind == "adamw" or parameter.numel() < LEAST or parameter.numel() % BLOCK:
        return state | {"exp_avg": moments(), "exp_avg_sq": moments()}
    for name in ("exp_avg", "exp_avg_sq"):
        made = torch.empty(parameter.numel(), dtype=torch.uint8, device=parameter.device)
        state |= {f"{name}.codes": made, f"{name}.scale": made.new_empty(made.numel() // BLOCK, dtype=torch.float32)}
        state[f"{name}.map"] = made.new_empty(BLOCK, dtype=torch.float32)
    return state
