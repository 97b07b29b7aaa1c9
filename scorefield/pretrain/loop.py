"""The supervised training loop that the autoencoder, the judge and the teacher share."""

import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from scorefield.errors import UserError
from scorefield.files import write_atomically


@dataclass
class StageBase:
    """What every training has. It ends at ``steps`` or, if given, after ``minutes``, whichever is first; a cosine
    of the learning rate follows whichever of the two is further along."""

    steps: int = 10_000
    minutes: float | None = None
    batch: int = 256
    learning_rate: float = 1e-3  # peak
    warmup_steps: int = 200
    schedule: str = "cosine"  # or constant (after the warm-up)
    precision: str = "fp32"  # fp32 or bf16 autocast
    compile: bool = False  # torch.compile of the step's networks
    save_minutes: float = 5.0  # how often the resumable state is written

    def __post_init__(self) -> None:
        if self.precision not in ("fp32", "bf16"):
            raise UserError(f'precision "{self.precision}" is unknown: use fp32 or bf16')
        if self.schedule not in ("cosine", "constant"):
            raise UserError(f'schedule "{self.schedule}" is unknown: use cosine or constant')
        for name in ("steps", "batch", "warmup_steps"):
            if getattr(self, name) < 1:
                raise UserError(f"{name} of a stage must be at least 1, not {getattr(self, name)}")

    def share(self, step: int, seconds: float) -> float:
        """How much of the stage is done, 1 at its end."""
        return max(step / self.steps, seconds / (60 * self.minutes) if self.minutes is not None else 0.0)


@dataclass
class StageConfig(StageBase):
    """One supervised stage, trained by AdamW."""

    weight_decay: float = 0.01
    ema_decay: float = 0.999
    clip: float = 1.0  # gradient norm


def rate_at(config: StageBase, step: int, done: float) -> float:
    """Learning rate: linear warm-up over ``warmup_steps``, then the schedule over ``done`` in [0, 1]."""
    rate = config.learning_rate * min(1.0, (step + 1) / config.warmup_steps)
    if config.schedule == "constant":
        return rate
    return rate * (0.01 + 0.99 * 0.5 * (1 + math.cos(math.pi * min(done, 1.0))))


def progress_line(name: str, losses: dict[str, Tensor], config: StageBase, step: int, seconds: float, pace: float):
    """What is said now and then; raises UserError when a loss is not finite. ``pace`` is in steps a second."""
    values = {key: value.item() for key, value in losses.items()}
    if not all(math.isfinite(v) for v in values.values()):
        raise UserError(f"{name}: the loss is not finite at step {step}: {values}")
    left = (1 / config.share(step, seconds) - 1) * seconds
    text = "  ".join(f"{key} {value:.4f}" for key, value in values.items())
    return f"{name} {step}/{config.steps}  {text}  {pace * config.batch:.0f} img/s  {left / 60:.1f} min left"


def restore(path: Path, modules: nn.ModuleDict, optimizer: torch.optim.Optimizer, average: list[Tensor]):
    """(step, seconds) that a stage reached, with its state put in place; (0, 0.0) where it has not begun."""
    if not path.exists():
        return 0, 0.0
    state = torch.load(path, map_location=average[0].device, weights_only=True)
    modules.load_state_dict(state["modules"])
    optimizer.load_state_dict(state["optimizer"])
    torch._foreach_copy_(average, state["average"])
    return state["step"], state["seconds"]


def fit(
    name: str,
    modules: nn.ModuleDict,
    loss: Callable[[torch.Generator], dict[str, Tensor]],
    config: StageConfig,
    *,
    seed: int,
    out: Path,
    device: str,
    say: Callable[[str], None] = print,
) -> nn.ModuleDict:
    """Train ``modules`` in place, then load their exponential moving average into them.

    Args:
        loss: given a generator seeded with (seed, step), returns named scalars; their sum is minimised.
        out: folder that receives ``state-NAME.pt``, from which an interrupted stage goes on.

    Raises:
        UserError: a loss is not finite (the step is named).
    """
    modules.to(device).train()
    parameters: list[Tensor] = [p for p in modules.parameters() if p.requires_grad]
    fused = device.startswith("cuda")
    optimizer = torch.optim.AdamW(
        parameters, lr=config.learning_rate, weight_decay=config.weight_decay, betas=(0.9, 0.99), fused=fused
    )
    average = [p.detach().clone() for p in parameters]
    state_path = out / f"state-{name}.pt"
    step, spent = restore(state_path, modules, optimizer, average)
    if step:
        say(f"{name}: going on from step {step}")

    def save() -> None:
        state: dict[str, object] = {"step": step, "seconds": spent + time.monotonic() - start}
        state |= {"modules": modules.state_dict(), "optimizer": optimizer.state_dict(), "average": average}
        write_atomically(state_path, lambda part: torch.save(state, part))

    generator = torch.Generator(device)
    start = last_save = last_say = time.monotonic()
    first_step = step
    while True:
        seconds = spent + time.monotonic() - start
        done = config.share(step, seconds)
        if done >= 1:
            break
        rate = rate_at(config, step, done)
        for group in optimizer.param_groups:
            group["lr"] = rate
        generator.manual_seed(seed * 1_000_003 + step)
        with torch.autocast(device.split(":")[0], torch.bfloat16, enabled=config.precision == "bf16"):
            losses = loss(generator)
        optimizer.zero_grad(set_to_none=True)
        torch.stack(list(losses.values())).sum().backward()
        torch.nn.utils.clip_grad_norm_(parameters, config.clip)
        optimizer.step()
        step += 1
        torch._foreach_lerp_(average, parameters, 1 - min(config.ema_decay, (1 + step) / (10 + step)))
        now = time.monotonic()
        if now - last_say > 10 or step == first_step + 1:
            pace = (step - first_step) / max(now - start, 1e-9)
            say(progress_line(name, losses, config, step, spent + now - start, pace))
            last_say = now
        if now - last_save > 60 * config.save_minutes:
            save()
            last_save = now
    save()
    with torch.no_grad():
        torch._foreach_copy_(parameters, average)
    say(f"{name}: {step} steps, {step * config.batch} images, {seconds:.0f} s")
    return modules.eval()
