"""One set of frozen weights in several roles: a LoRA adapter a role, one on at a time; with all off it is the teacher.

Adapters are peft's. A pass through a view switches its adapter on for the length of the pass; the graph that the pass
leaves behind keeps the weights that it used. What is computed anew in the backward pass is told the adapter of the pass
(``scorefield.training.recompute``).
"""

import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from scorefield.denoiser import Condition, Denoiser
from scorefield.errors import UserError, check_number, suggest
from scorefield.teachers.base import Teacher

TARGETS = ("to_q", "to_k", "to_v", "to_out.0")  # the attention of every family


@dataclass(frozen=True)
class Adapter:
    """LoRA of ``rank`` on the linear layers whose names end in a target."""

    rank: int = 16
    targets: tuple[str, ...] = TARGETS

    def __post_init__(self) -> None:
        check_number("lora_rank", self.rank, 1)


class AdapterView(Denoiser):
    """A shared network with the adapter of one role on, or with none (``role`` "": the teacher).

    Its parameters are the adapter's alone, so that an optimizer, an average or a checkpoint of one role holds nothing
    of another's; the shared network is no submodule, and stays on the device and in the mode that it has.
    """

    def __init__(self, base: Denoiser, role: str):
        super().__init__()
        from peft.tuners.tuners_utils import BaseTunerLayer

        object.__setattr__(self, "denoiser", base)  # past torch's bookkeeping of submodules
        self.role, self.sigma_min, self.sigma_max = role, base.sigma_min, base.sigma_max
        self.layers: list[Any] = [module for module in base.modules() if isinstance(module, BaseTunerLayer)]
        self.places: list[tuple[Any, str]] = []  # where each of its parameters lies in the shared network
        self.follow()

    def follow(self) -> None:
        """Take the adapter's parameters from the shared network, anew where they were replaced there (by shares)."""
        self.places = []
        for path, module in self.base.named_modules():
            for last, parameter in module.named_parameters(recurse=False):
                name = f"{path}.{last}"
                if self.role and "lora_" in name and self.role in name.split("."):
                    self.places.append((module, last))
                    self.register_parameter(name.replace(".", "/"), parameter)

    def used(self) -> list[torch.nn.Parameter]:
        """The adapter's parameters as a pass finds them now: whole where it is sharded and now gathered."""
        return [getattr(module, name) for module, name in self.places]

    def forward(self, x_t: Tensor, sigma: Tensor, condition: Condition) -> Tensor:
        with self._on(x_t.device):
            return self.base(x_t, sigma, condition)

    def encode(self, x_t: Tensor, sigma: Tensor, condition: Condition) -> Tensor:
        with self._on(x_t.device):
            return self.base.encode(x_t, sigma, condition)

    @property
    def base(self) -> Denoiser:
        """The shared network."""
        return self.__dict__["denoiser"]

    @contextmanager
    def _on(self, device: torch.device) -> Iterator[None]:
        """The adapter is on within; whether its inputs are cast stays set, as a recomputed block is not told."""
        # peft casts what enters an adapter to float32, and autocast would cast the whole of it back at once
        cast = not autocasts(device)
        for layer in self.layers:
            layer.cast_input_dtype_enabled = cast
        self._switch(self.role)
        try:
            yield
        finally:
            self._switch("")

    def _switch(self, role: str) -> None:
        for layer in self.layers:
            layer._disable_adapters = not role
            layer._active_adapter = [role]

    def null_condition(self, like: Condition) -> Condition:
        return self.base.null_condition(like)


def autocasts(device: torch.device) -> bool:
    """Whether products there are being lowered now, by autocast or by what stands in for it on the meta device."""
    if torch.amp.is_autocast_available(device.type):
        return torch.is_autocast_enabled(device.type)
    probe = torch.empty(1, 1, device=device)
    return torch.nn.functional.linear(probe, probe).dtype != probe.dtype


def holder(denoiser: Denoiser) -> Denoiser:
    """The denoiser that holds the weights of ``denoiser`` as its own: what a view looks at, wrapped or not."""
    inner: Any = denoiser
    while isinstance(inner, Denoiser) and not isinstance(inner, AdapterView):
        inner = getattr(inner, "denoiser", None)
    return inner.base if isinstance(inner, AdapterView) else denoiser


def views_of(role: torch.nn.Module) -> list[AdapterView]:
    """The adapters that a role's passes go through."""
    return [module for module in role.modules() if isinstance(module, AdapterView)]


def share(base: Denoiser, adapters: Mapping[str, Adapter], seed: int = 0) -> tuple[Denoiser, dict[str, AdapterView]]:
    """(teacher, a view a role) on the weights of ``base``, which are frozen in place.

    Only the adapters are trainable, float32 whatever the base weights are kept in. They start as no change: every view
    computes what the base computed. ``seed`` is of their first factors. Without adapters the teacher is ``base``.

    Raises UserError if no layer is called like a target.
    """
    if not adapters:
        return base, {}
    from peft import LoraConfig, inject_adapter_in_model

    base.requires_grad_(False)
    for role, adapter in adapters.items():
        settings = LoraConfig(
            r=adapter.rank,
            lora_alpha=adapter.rank,
            target_modules=list(adapter.targets),
            init_lora_weights="gaussian",
        )
        try:
            with torch.random.fork_rng(), warnings.catch_warnings(), there(base):
                warnings.simplefilter("ignore")  # peft wonders at a second adapter
                torch.manual_seed(seed)
                inject_adapter_in_model(settings, base, adapter_name=role)
        except ValueError as error:
            raise UserError(f"no layer of the teacher is called {', '.join(adapter.targets)}: {error}") from error
    for name, parameter in base.named_parameters():
        parameter.requires_grad_("lora_" in name)
        if "lora_" in name:
            parameter.data = parameter.data.float()
    return AdapterView(base, ""), {role: AdapterView(base, role) for role in adapters}


def check_targets(teacher: Teacher, adapters: Mapping[str, Adapter]) -> None:
    """Raise UserError for a target that no layer of ``teacher`` is called, before weights are loaded or a run begins.

    A teacher that does not tell its layers is asked by ``share``.
    """
    if not adapters or not (layers := teacher.layers()):
        return
    for role, adapter in adapters.items():
        for target in adapter.targets:
            if not any(f".{name}".endswith(f".{target}") for name in layers):
                known = {ending(name) for name in layers}
                raise UserError(
                    f'{role}.lora_targets: no layer of the teacher is called "{target}": {suggest(target, known)}'
                )


def ending(name: str) -> str:
    """The part of a layer's name that its like share: to_q, to_out.0."""
    words = name.split(".")
    return ".".join(words[-2:] if words[-1].isdigit() else words[-1:])


def there(base: Denoiser):
    """Makes new tensors on the meta device where ``base`` lies there, and changes nothing elsewhere."""
    return torch.device("meta") if next(base.parameters()).is_meta else nullcontext()


@torch.no_grad()
def merged(view: AdapterView) -> Denoiser:
    """The shared network, float32, with the view's adapter folded into its weights and all adapters taken off.

    It is changed in place: no view of it can be used afterwards.
    """
    from peft.tuners.tuners_utils import BaseTunerLayer

    base = view.base.float()
    for path, module in list(base.named_modules()):
        if isinstance(module, BaseTunerLayer):
            module.merge(adapter_names=[view.role])
            parent, _, name = path.rpartition(".")
            setattr(base.get_submodule(parent), name, module.get_base_layer())
    return base
