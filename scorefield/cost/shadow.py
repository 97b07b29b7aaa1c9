"""A trainer on the meta device: it runs a whole iteration, of whatever size, on tensors that have no memory.

The meta device knows neither autocast nor fused attention; both are told it here, as the target device does them. Nor
does it know a value: what is made on the host because its value decides a size joins in where it meets a meta tensor,
and of a condition that selects, everything is selected.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_leaves, tree_map

from scorefield.denoiser import Denoiser
from scorefield.random import Draws
from scorefield.training.optimizers import planned_state
from scorefield.training.player import Player
from scorefield.training.trainer import Trainer

# torch.amp's lists ("Autocast Op Reference"), as far as networks of pictures use them
LOWERED = {"linear", "matmul", "__matmul__", "__rmatmul__", "mm", "bmm", "baddbmm", "addmm", "addbmm", "einsum"}
LOWERED |= {f"conv{n}d" for n in (1, 2, 3)} | {f"conv_transpose{n}d" for n in (1, 2, 3)}
LOWERED |= {"scaled_dot_product_attention"}
RAISED = {"layer_norm", "group_norm", "softmax", "log_softmax", "softplus", "sum", "norm", "prod", "cumsum", "cumprod"}
RAISED |= {"pow", "__pow__", "rsqrt", "exp", "log", "reciprocal", "mse_loss", "l1_loss", "smooth_l1_loss"}
RAISED_ON = {"cuda": RAISED, "cpu": {"mse_loss", "prod", "cumsum", "cumprod"}}
MAY_MIX = {"__getitem__", "__setitem__", "copy_", "to"}  # they take indices and values of the host


class Kernels(TorchFunctionMode):
    """Autocast to bfloat16 while ``lowering`` is set, and attention that keeps no matrix of weights."""

    on: "Kernels | None" = None  # those of the iteration that is under way

    def __init__(self, device: str):
        super().__init__()
        self.raised, self.lowering = RAISED_ON.get(device.split(":")[0], set()), False
        self.host = device == "cpu"

    @contextmanager
    def lowered(self, wanted: bool) -> Iterator[None]:
        """Autocast on or off within."""
        before, self.lowering = self.lowering, wanted
        try:
            yield
        finally:
            self.lowering = before

    def __torch_function__(self, func, types, args=(), kwargs=None):
        kwargs, name = kwargs or {}, getattr(func, "__name__", "")
        if mixed(args, kwargs) and name not in MAY_MIX:
            args, kwargs = tree_map(lambda v: v.to("meta") if isinstance(v, Tensor) else v, (args, kwargs))
        if name == "nonzero" and args[0].is_meta:
            return torch.arange(args[0].numel(), device="meta")[:, None]
        if self.lowering and name in LOWERED:
            args, kwargs = cast((args, kwargs), torch.float32, torch.bfloat16)
        elif self.lowering and name in self.raised:
            args, kwargs = cast((args, kwargs), torch.bfloat16, torch.float32)
        if name == "scaled_dot_product_attention":
            return attention(*args, **kwargs)
        return func(*args, **kwargs)


def mixed(*values: Any) -> bool:
    """Whether tensors of the host meet tensors of the meta device."""
    found = {value.device.type for value in tree_leaves(values) if isinstance(value, Tensor)}
    return {"cpu", "meta"} <= found


def repeatable(call: Callable[..., Any]) -> Callable[..., Any]:
    """``call`` under the kernels and the autocast of now, also when it is called again in the backward pass."""
    kernels = Kernels.on
    if kernels is None:
        return call
    wanted = kernels.lowering

    def again(*given: Any) -> Any:
        with kernels, kernels.lowered(wanted):
            return call(*given)

    return again


def cast(values: Any, old: torch.dtype, new: torch.dtype) -> Any:
    """``values`` with tensors of one type in another."""
    return tree_map(lambda v: v.to(new) if isinstance(v, Tensor) and v.dtype == old else v, values)


def attention(query, key, value, attn_mask=None, dropout_p=0.0, is_causal=False, scale=None, **rest) -> Tensor:
    """Fused attention on the meta device: it keeps its inputs, its output and one number a row of weights."""
    if attn_mask is not None:
        attn_mask = torch.empty_like(attn_mask, dtype=query.dtype) if attn_mask.dtype == torch.bool else attn_mask
        attn_mask = attn_mask.expand(*query.shape[:-1], key.shape[-2])
    fused = torch.ops.aten._scaled_dot_product_efficient_attention.default
    return fused(query, key, value, attn_mask, True, dropout_p, is_causal, scale=scale)[0]


class Alone:
    """What a trainer asks of accelerate, for one process on the meta device."""

    num_processes, process_index, is_main_process = 1, 0, True
    device = torch.device("meta")

    def backward(self, loss: Tensor) -> None:
        loss.backward()

    def reduce(self, value: Tensor, how: str) -> Tensor:
        return value


def skipped_step(player: Player, iteration: int) -> None:
    """A fused step takes no memory of its own, and the meta device has none."""
    player.optimizer.zero_grad(set_to_none=True)


class ShadowTrainer(Trainer):
    """A trainer whose iterations run under ``kernels``."""

    def __init__(self, kernels: Kernels, *given):
        super().__init__(*given, accelerator=Alone())  # type: ignore[misc, arg-type]
        self.kernels = kernels
        for player in (self.online_player, self.generator_player):
            for parameter in player.parameters:
                player.optimizer.state[parameter] = planned_state(parameter, player.config.optimizer)
            player.step = partial(skipped_step, player)  # type: ignore[method-assign]

    def iteration(self, k: int) -> None:
        Kernels.on = self.kernels
        try:
            with self.kernels:
                super().iteration(k)
        finally:
            Kernels.on = None

    def _dropping(self, draws: Draws, stream: str):
        return nullcontext()  # which units are dropped changes no size

    def _autocast(self):  # type: ignore[override]
        return self.kernels.lowered(self.config.precision == "bf16")

    def _repeated(self, call: Callable[..., Any]) -> Callable[..., Any]:
        return repeatable(call)

    def _ask(self, ask: Callable[[Tensor], Any], role: str, network: Denoiser, x_t: Tensor, draws: Draws) -> Any:
        def lowered(seen: Tensor) -> Any:  # also when it is called again, in the backward pass, where no mode is on
            with self.kernels, self._autocast():
                return ask(seen)

        return super()._ask(lowered, role, network, x_t, draws)
