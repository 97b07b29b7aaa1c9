"""A student's adapter as files of its own: in diffusers' layout, in peft's where that is all there is, in kohya's."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from scorefield.errors import UserError
from scorefield.export import kohya
from scorefield.files import write_atomically
from scorefield.teachers.pipeline import PipelineTeacher
from scorefield.teachers.shared import AdapterView

WEIGHTS, KOHYA = "pytorch_lora_weights.safetensors", "kohya.safetensors"


@dataclass
class Lora:
    """An adapter of one rank, with alpha = rank, so that a layer's change is B A.

    Attributes:
        factors: path of a layer within the network -> (A [rank, inputs], B [outputs, rank]), of a convolution 4-d;
            float32.
        network: that the adapter lies on; read only.
    """

    factors: dict[str, tuple[Tensor, Tensor]]
    network: nn.Module

    @property
    def rank(self) -> int:
        return len(next(iter(self.factors.values()))[0])

    def state(self) -> dict[str, Tensor]:
        """Keys as peft and diffusers have them: PATH.lora_A.weight, PATH.lora_B.weight."""
        pairs = (
            (path, name, value) for path, pair in self.factors.items() for name, value in zip("AB", pair, strict=True)
        )
        return {f"{path}.lora_{name}.weight": value for path, name, value in pairs}

    def settings(self) -> dict[str, Any]:
        """peft's settings, the layers named one by one."""
        return {"r": self.rank, "lora_alpha": self.rank, "target_modules": sorted(self.factors)}


@torch.no_grad()
def lora_of(view: AdapterView) -> Lora:
    """The adapter of a view; the shared network is left as it is.

    Raises UserError for a change that is no plain LoRA of one rank.
    """
    from peft.tuners.lora import LoraLayer

    network, role = view.base.get_submodule("network"), view.role
    layers: dict[str, Any] = {name: module for name, module in network.named_modules() if isinstance(module, LoraLayer)}
    layers = {name: module for name, module in layers.items() if role in module.lora_A}
    if len({module.r[role] for module in layers.values()}) != 1 or any(m.scaling[role] != 1 for m in layers.values()):
        raise UserError("the student's adapter is no LoRA of one rank with alpha = rank: export it merged")
    factors = {
        name: tuple(part[role].weight.detach().float().cpu().clone() for part in (module.lora_A, module.lora_B))
        for name, module in layers.items()
    }
    return Lora(factors, network)  # type: ignore[arg-type]


def write_lora(teacher: PipelineTeacher, lora: Lora, folder: Path) -> tuple[str, str]:
    """Write all files into ``folder``; returns (layout, why there is no file with kohya's keys, "" where there is one).

    The layout is "diffusers" or "peft".
    """
    folder.mkdir(parents=True, exist_ok=True)
    layout = write_stock(teacher, lora, folder)
    try:
        write_kohya(teacher, lora, folder)
    except UserError as error:
        return layout, str(error)
    return layout, ""


def write_stock(teacher: PipelineTeacher, lora: Lora, folder: Path) -> str:
    """What ``load_lora_weights`` reads; for a pipeline without it, what ``PeftModel.from_pretrained`` reads."""
    import diffusers

    stock, part = getattr(diffusers, teacher.index["_class_name"]), teacher.network_part
    if hasattr(stock, "save_lora_weights"):
        given = {f"{part}_lora_layers": lora.state(), f"{part}_lora_adapter_metadata": lora.settings()}
        stock.save_lora_weights(folder, weight_name=WEIGHTS, **given)
        return "diffusers"
    from peft import LoraConfig
    from safetensors.torch import save_file

    settings = lora.settings()
    LoraConfig(inference_mode=True, base_model_name_or_path=teacher.path, **settings).save_pretrained(str(folder))
    state = {f"base_model.model.{key}": value.contiguous() for key, value in lora.state().items()}
    write_atomically(folder / "adapter_model.safetensors", lambda file: save_file(state, file, {"format": "pt"}))
    return "peft"


def write_kohya(teacher: PipelineTeacher, lora: Lora, folder: Path) -> Path:
    """kohya's keys, which ComfyUI reads; raises UserError for a family, or a layer, that has none."""
    from safetensors.torch import save_file

    kind = teacher.index["_class_name"]
    if not teacher.kohya:
        raise UserError(f"there is no kohya key layout for a {kind}, only that of diffusers or peft (--only lora)")
    state = kohya.LAYOUTS[teacher.kohya](lora.factors, lora.network)
    told = {"ss_network_module": "networks.lora", "ss_network_dim": str(lora.rank), "ss_network_alpha": str(lora.rank)}
    write_atomically(folder / KOHYA, lambda file: save_file(state, file, {"format": "pt", **told}))
    return folder / KOHYA
