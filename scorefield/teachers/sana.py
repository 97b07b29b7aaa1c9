"""SANA as a teacher: linear attention on deep-compressed latents, Gemma text, rectified flow."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from scorefield.denoiser import Condition
from scorefield.teachers.base import TEACHERS
from scorefield.teachers.native import NativeDenoiser
from scorefield.teachers.pipeline import PipelineTeacher, cut_by


class SanaDenoiser(NativeDenoiser):
    """A ``SanaTransformer2DModel``: ``text`` [B, L, C] with ``text_mask`` [B, L]."""

    def call(self, x: Tensor, timestep: Tensor, condition: Condition) -> Tensor:
        return self.network(
            x,
            encoder_hidden_states=condition["text"].to(x.dtype),
            encoder_attention_mask=condition["text_mask"],
            timestep=timestep * self.network.config.timestep_scale,
            return_dict=False,
        )[0]


@TEACHERS.register("sana")
@dataclass(eq=False)
class Sana(PipelineTeacher):
    """``max_tokens`` is Gemma's length (300). ``instruction`` is the pipeline's complex_human_instruction, its lines
    joined: it stands before prompts (not before the negative one), is not counted, and its first token is seen."""

    pipelines = ("SanaPipeline",)
    input_layer = "patch_embed.proj"
    denoiser_class = SanaDenoiser

    instruction: str = ""

    def stock_options(self) -> dict[str, Any]:
        told = {
            "use_resolution_binning": False,
            "complex_human_instruction": self.instruction.split("\n") if self.instruction else None,
        }
        return super().stock_options() | told | {"max_sequence_length": self.max_tokens}

    def text_key(self) -> list[Any]:
        return [*super().text_key(), *([f'instruction "{self.instruction}"'] if self.instruction else [])]

    def encode(self, prompts: Sequence[str]) -> dict[str, Tensor]:
        """Text states [N, max_tokens, C] float32 and mask [N, max_tokens]."""
        return self._encode(prompts, self.instruction)

    def null(self) -> Condition:
        return self._encode([self.negative_prompt], "")

    @torch.no_grad()
    def _encode(self, prompts: Sequence[str], instruction: str) -> dict[str, Tensor]:
        tokenizer = self.part("tokenizer")
        tokenizer.padding_side = "right"
        texts, length = [instruction + prompt.lower().strip() for prompt in prompts], self.max_tokens
        if instruction:
            length += len(tokenizer.encode(instruction)) - 2
        tokens = tokenizer(texts, padding="max_length", truncation=True, max_length=length, return_tensors="pt")
        tokens = tokens.to(self.device)
        states = self.part("text_encoder")(tokens.input_ids, attention_mask=tokens.attention_mask)[0].float()
        seen = [0, *range(length - self.max_tokens + 1, length)]  # the first token and the last ones
        return {"text": states[:, seen], "text_mask": tokens.attention_mask[:, seen]}

    def cut(self, prompt: str) -> str:
        return cut_by(self.part("tokenizer"), prompt.lower().strip(), self.max_tokens)

    def compression(self) -> int:
        return 2 ** (len(self.settings("vae")["encoder_block_out_channels"]) - 1)
