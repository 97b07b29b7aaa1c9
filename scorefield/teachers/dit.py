"""Class-conditional DiT as a teacher: a prompt is the name or the number of a class."""

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from scorefield.denoiser import Condition
from scorefield.errors import UserError, suggest
from scorefield.teachers.base import TEACHERS
from scorefield.teachers.native import NativeDenoiser
from scorefield.teachers.pipeline import PipelineTeacher


class DiTDenoiser(NativeDenoiser):
    """A ``DiTTransformer2DModel``: ``label`` [B]; the class after the last is the empty one."""

    def __init__(self, network, *given, **options):
        super().__init__(network, *given, **options)
        for module in network.modules():  # labels are dropped by guidance, not at random while a copy is trained
            if type(module).__name__ == "LabelEmbedding":
                module.dropout_prob = 0.0

    def call(self, x: Tensor, timestep: Tensor, condition: Condition) -> Tensor:
        return self.network(x, timestep=timestep, class_labels=condition["label"], return_dict=False)[0]


@TEACHERS.register("dit")
@dataclass(eq=False)
class DiT(PipelineTeacher):
    """Names are those of the pipeline's ``id2label``; there is no text."""

    pipelines = ("DiTPipeline",)
    scales_start = False
    takes_latents = False
    denoiser_class = DiTDenoiser

    def __post_init__(self) -> None:
        super().__post_init__()
        self.classes = int(self.settings("transformer")["num_embeds_ada_norm"])
        self.labels = {
            name.strip(): int(key)
            for key, names in (self.index.get("id2label") or {}).items()
            for name in names.split(",")
        }

    def encode(self, prompts: Sequence[str]) -> dict[str, Tensor]:
        """``label`` [N], int64."""
        return {"label": torch.tensor([self.label(prompt) for prompt in prompts], device=self.device)}

    def label(self, prompt: str) -> int:
        """The class that a prompt names; raises UserError when there is none."""
        found = int(prompt) if prompt.strip().isdecimal() else self.labels.get(prompt.strip(), -1)
        if not 0 <= found < self.classes:
            known = suggest(prompt, list(self.labels)[:20]) if self.labels else "it has no names"
            raise UserError(f'"{prompt}" is no class of {self.path}: use 0 to {self.classes - 1}; {known}')
        return found

    def random_condition(self, count: int) -> Condition:
        return {"label": torch.randint(self.classes, (count,), device=self.device)}

    def null(self) -> Condition:
        return {"label": torch.tensor([self.classes], device=self.device)}

    def text_key(self) -> list[Any]:
        names = hashlib.sha256(json.dumps(self.labels, sort_keys=True).encode()).hexdigest()[:12]
        return [type(self).__name__, f"{self.classes} classes {names}"]

    def cut(self, prompt: str) -> str:
        return ""
