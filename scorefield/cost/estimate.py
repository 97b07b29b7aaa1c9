"""Memory by role and operations of a run, from one iteration on the meta device; nothing of its size is allocated."""

import copy
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from scorefield.cost.ledger import ACTIVATIONS, Ledger
from scorefield.cost.shadow import Kernels, ShadowTrainer
from scorefield.task import Players, Task
from scorefield.teachers.shared import holder
from scorefield.training.parameters import trainable
from scorefield.training.sharding import blocks, owner
from scorefield.training.trainer import Trainer

ROLES = ("teacher", "online score", "generator", "gradients", "optimizer states", "EMA", ACTIVATIONS)


@dataclass(frozen=True)
class Estimate:
    """Of one device among ``devices``, each with its share of the batch.

    Attributes:
        memory: bytes by role at the moment of an iteration at which they are most. flops: of its iteration.
    """

    devices: int
    memory: dict[str, int]
    flops: int

    @property
    def per_device(self) -> int:
        """Bytes in all on one device."""
        return sum(self.memory.values())


def estimate(task: Task, config: Any, device: str, devices: int = 1) -> Estimate:
    """What an iteration of ``task`` under ``config`` (not changed) takes on each of ``devices`` of a kind ("cuda").

    Raises UserError if the task cannot be rehearsed.
    """
    config = copy.deepcopy(config)
    training = config.training
    parts = min(training.accumulation, 2)  # two micro-batches show what many hold
    part = max(1, training.batch // (devices * training.accumulation))
    shares = training.accumulation / parts
    training.batch, training.accumulation, training.compile = part * parts, parts, False
    sharded, training.sharding = training.sharding != "none" and devices > 1, "none"
    shadow = type(task)(config, task.folder, "meta")
    players = shadow.rehearse()
    ledger = rehearsed(players, config, device)
    memory = {role: ledger.at_peak[role] for role in (*ROLES[:-1], *players.beside, ROLES[-1])}
    if sharded:
        memory = {role: size if role == ACTIVATIONS else -(-size // devices) for role, size in memory.items()}
        memory["gathered blocks"] = 2 * largest_block(players.generator)  # one in use, the next on its way
    elif devices > 1:
        memory["gradient exchange"] = sum(p.numel() * p.element_size() for p in both_trained(players))
    return Estimate(devices, memory | task.memory_beside(), round(ledger.flops * shares))


def rehearsed(players: Players, config: Any, device: str) -> Ledger:
    """The ledger after an iteration of the players, which lie on the meta device."""
    given = config.training, players.teacher, players.online, players.generator, config.build_loss()
    trainer = ShadowTrainer(Kernels(device), *given)
    ledger = Ledger(torch.device("meta"))
    book_state(ledger, trainer, players)
    with ledger:
        ledger.reset()
        trainer.iteration(config.training.online_warmup)
    return ledger


def book_state(ledger: Ledger, trainer: Trainer, players: Players) -> list[Any]:
    """Book all that outlives an iteration under its role, and gradients as they come until the handles are removed."""
    teacher = holder(players.teacher)
    lent = {id(p) for p in both_trained(players)}  # adapters within a shared network are their roles' own
    ledger.book("teacher", [p for p in (*teacher.parameters(), *teacher.buffers()) if id(p) not in lent])
    ledger.book_module("online score", players.online)
    ledger.book_module("generator", players.generator)
    for name, module in players.beside.items():
        ledger.book_module(name, module)
    ledger.book("EMA", averages(trainer))
    for player in (trainer.online_player, trainer.generator_player):
        ledger.book("optimizer states", [v for s in player.optimizer.state.values() for v in s.values()])
    return [
        parameter.register_post_accumulate_grad_hook(lambda p: ledger.book("gradients", [p.grad]))
        for parameter in both_trained(players)
    ]


def averages(trainer: Trainer) -> list[Tensor]:
    """What the moving averages take on the device: the generator's nothing in host memory, twice its size where that is
    the device."""
    shadow, steady = trainer.average.shadow, trainer.steady.average.shadow
    if trainer.config.ema_device != "cpu" or not isinstance(trainer, ShadowTrainer):
        return [*shadow, *steady]
    return [*shadow, *map(torch.empty_like, shadow), *steady] if trainer.kernels.host else steady


def largest_block(role: torch.nn.Module) -> int:
    """Bytes of the largest part that sharding gathers at a time."""
    root = owner(role)
    parts = blocks(root) or [root]
    return max(sum(p.numel() * p.element_size() for p in part.parameters()) for part in parts)


def both_trained(players: Players) -> list[torch.nn.Parameter]:
    """Parameters of online score and generator that learn."""
    return [*trainable(players.online), *trainable(players.generator)]
