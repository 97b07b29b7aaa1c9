"""The online score: a trained copy of the teacher, or LoRA adapters on the teacher's own weights."""

import copy

from torch import Tensor

from scorefield.denoiser import Condition, Denoiser
from scorefield.errors import UserError

ADAPTER = "online"


def full_copy(teacher: Denoiser) -> Denoiser:
    """An independent trainable copy that starts as the teacher."""
    return copy.deepcopy(teacher).requires_grad_(True)


class AdapterSwitch(Denoiser):
    """One network seen twice: with its adapter (online score) or without it (teacher).

    The adapter is switched for the length of one forward pass; the graph that the pass leaves behind keeps
    the weights that it used.
    """

    def __init__(self, denoiser: Denoiser, enabled: bool):
        super().__init__()
        self.denoiser, self.enabled = denoiser, enabled
        self.sigma_min, self.sigma_max = denoiser.sigma_min, denoiser.sigma_max

    def forward(self, x_t: Tensor, sigma: Tensor, condition: Condition) -> Tensor:
        switch_adapters(self.denoiser, self.enabled)
        try:
            return self.denoiser(x_t, sigma, condition)
        finally:
            switch_adapters(self.denoiser, True)

    def null_condition(self, like: Condition) -> Condition:
        return self.denoiser.null_condition(like)


def switch_adapters(denoiser: Denoiser, enabled: bool) -> None:
    """Enable or disable every peft layer below ``denoiser``."""
    from peft.tuners.tuners_utils import BaseTunerLayer

    for module in denoiser.modules():
        if isinstance(module, BaseTunerLayer):
            module._disable_adapters = not enabled


def with_lora(teacher: Denoiser, rank: int, targets: tuple[str, ...]) -> tuple[Denoiser, Denoiser]:
    """(online, teacher) on one set of base weights: LoRA of ``rank`` on the linear layers named ``targets``.

    Only the adapters of the online view are trainable, float32 whatever the base weights are kept in; the teacher
    view runs with them off, which is exactly the network before the call. Raises UserError if no layer is called
    like a target.
    """
    from peft import LoraConfig, inject_adapter_in_model

    teacher.requires_grad_(False)
    settings = LoraConfig(r=rank, lora_alpha=rank, target_modules=list(targets), init_lora_weights="gaussian")
    try:
        inject_adapter_in_model(settings, teacher, adapter_name=ADAPTER)
    except ValueError as error:
        raise UserError(f"no layer of the teacher is called {', '.join(targets)}: {error}") from error
    for name, parameter in teacher.named_parameters():
        parameter.requires_grad_("lora_" in name)
        if "lora_" in name:
            parameter.data = parameter.data.float()
    return AdapterSwitch(teacher, True), AdapterSwitch(teacher, False)
