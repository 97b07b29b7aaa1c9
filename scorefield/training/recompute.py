"""Activation checkpointing by role: what a network computed on the way forward is computed again on the way back.

Networks of diffusers are cut where that library cuts them, at their blocks, so that a role keeps the blocks' inputs and
one block's activations at a time. Other networks, and compiled ones, are recomputed whole where a score is asked.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from torch import nn
from torch.utils.checkpoint import checkpoint

from scorefield.errors import UserError
from scorefield.teachers.shared import AdapterView

Repeat = Callable[[Callable[..., Any]], Callable[..., Any]]


class Recompute:
    """Lets the networks of ``roles`` recompute their activations.

    A network that several roles share (``scorefield.teachers.shared``) recomputes in the passes of those asked for,
    with the adapter that was on.

    Args:
        roles: "teacher", "online" and "generator", some of them. networks: all three.
        blockwise: cut networks at their blocks where they have any.
        repeat: prepares a call for being made once more in the backward pass.

    Attributes:
        whole: roles without blocks: they are recomputed as one.
        counter: a ledger whose ``flops`` are to leave out what is made for the second time.

    Raises:
        UserError: the generator is to recompute and has no blocks.
    """

    def __init__(
        self, roles: Iterable[str], networks: Mapping[str, nn.Module], *, blockwise: bool, repeat: Repeat | None = None
    ):
        self.roles, self.repeat = set(roles), repeat or (lambda call: call)
        self.counter: Any = None
        cut = {role: list(cuttable(networks[role])) if blockwise else [] for role in self.roles}
        self.whole = {role for role, found in cut.items() if not found}
        if "generator" in self.whole:
            reason = "is compiled" if not blockwise else "has no blocks that diffusers would cut it at"
            raise UserError(
                f"training.activation_checkpointing: this generator {reason}, so that it cannot recompute: leave it out"
            )
        for role, found in cut.items():
            for network in found:
                network.enable_gradient_checkpointing(self._caller(network, role))

    def _caller(self, network: nn.Module, owner: str) -> Callable[..., Any]:
        """A block's call, perhaps recomputed; ``owner`` is the role where none is shared."""
        layers = adapted(network)

        def call(block: Callable[..., Any], *given: Any) -> Any:
            role = role_of(layers[0]) if layers else owner
            if role not in self.roles:
                return block(*given)
            module = block if isinstance(block, nn.Module) else network
            again = self.repeat(as_now(module, block))
            return checkpoint(self._counted_once(again), *given, use_reentrant=False)

        return call

    def _counted_once(self, call: Callable[..., Any]) -> Callable[..., Any]:
        """``call``, whose operations ``counter`` sees the first time only."""
        calls = 0

        def once(*given: Any) -> Any:
            nonlocal calls
            counter, calls = self.counter, calls + 1
            before = counter.flops if counter else 0
            try:
                return call(*given)
            finally:  # torch leaves a repeated call by an exception once it has what it needs
                if counter and calls > 1:
                    counter.flops = before

        return once


def as_now(module: nn.Module, call: Callable[..., Any]) -> Callable[..., Any]:
    """``call`` with the trainable parameters and the adapter that ``module`` has at this moment, whenever it is made.

    In the backward pass the frozen parameters of a score may be trainable again, and its adapter off.
    """
    flags = [p.requires_grad for p in module.parameters()]
    layers = adapted(module)
    adapters = [adapter_of(layer) for layer in layers]

    def again(*given: Any) -> Any:
        with flagged(module, flags), switched(layers, adapters):
            return call(*given)

    return again


@contextmanager
def flagged(module: nn.Module, flags: list[bool]) -> Iterator[None]:
    """The parameters of ``module`` ask for gradients as ``flags`` say within."""
    changed = [p for p, flag in zip(module.parameters(), flags, strict=True) if p.requires_grad != flag]
    for parameter in changed:
        parameter.requires_grad_(not parameter.requires_grad)
    try:
        yield
    finally:
        for parameter in changed:
            parameter.requires_grad_(not parameter.requires_grad)


@contextmanager
def switched(layers: list[Any], adapters: list[tuple[bool, list[str]]]) -> Iterator[None]:
    """``layers`` with these adapters on within."""
    before = [adapter_of(layer) for layer in layers]
    switch(layers, adapters)
    try:
        yield
    finally:
        switch(layers, before)


def switch(layers: list[Any], adapters: list[tuple[bool, list[str]]]) -> None:
    """Give each layer its adapter, as ``adapter_of`` tells it."""
    for layer, (off, names) in zip(layers, adapters, strict=True):
        layer._disable_adapters, layer._active_adapter = off, names


def adapter_of(layer: Any) -> tuple[bool, list[str]]:
    """(whether all are off, names of those that are on) of one of peft's layers."""
    return layer._disable_adapters, layer._active_adapter


def role_of(layer: Any) -> str:
    """The role whose adapter is on: the teacher's is none."""
    off, names = adapter_of(layer)
    return "teacher" if off else names[0]


def adapted(module: nn.Module) -> list[Any]:
    """Layers with adapters."""
    return [layer for layer in module.modules() if hasattr(layer, "_disable_adapters") and hasattr(layer, "lora_A")]


def cuttable(role: nn.Module) -> Iterator[Any]:
    """Networks of diffusers that a role goes through, those behind a view of shared weights too."""
    for module in role.modules():
        if isinstance(module, AdapterView):
            yield from cuttable(module.base)
        elif getattr(module, "_supports_gradient_checkpointing", False) and hasattr(
            module, "enable_gradient_checkpointing"
        ):
            yield module
