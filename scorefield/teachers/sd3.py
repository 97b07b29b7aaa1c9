"""Stable Diffusion 3 and 3.5 as teachers: two CLIP encoders and an optional T5, rectified flow."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from scorefield.denoiser import Condition
from scorefield.teachers.base import TEACHERS
from scorefield.teachers.native import NativeDenoiser
from scorefield.teachers.pipeline import CLIP_TOKENS, PipelineTeacher, cut_by, everything
from scorefield.teachers.sampling import shift_of


class SD3Denoiser(NativeDenoiser):
    """``text`` [B, 77 + L, C], all of it seen, and ``pooled`` [B, P1 + P2]."""

    def call(self, x: Tensor, timestep: Tensor, condition: Condition) -> Tensor:
        return self.network(
            hidden_states=x,
            timestep=timestep,
            encoder_hidden_states=condition["text"].to(x.dtype),
            pooled_projections=condition["pooled"].to(x.dtype),
            return_dict=False,
        )[0]


@TEACHERS.register("sd3")
@dataclass(eq=False)
class SD3(PipelineTeacher):
    """``max_tokens`` is T5's length (the pipeline's default: 256); without T5 its place is filled with zeros."""

    pipelines = ("StableDiffusion3Pipeline",)
    denoiser_class = SD3Denoiser
    kohya = "mmdit"

    def stock_options(self) -> dict[str, Any]:
        return super().stock_options() | {"max_sequence_length": self.max_tokens}

    def text_length(self) -> int:
        return CLIP_TOKENS + self.max_tokens

    @torch.no_grad()
    def encode(self, prompts: Sequence[str]) -> dict[str, Tensor]:
        """Text states [N, 77 + max_tokens, C] and pooled text [N, P1 + P2], float32, and a mask of ones."""
        states, pooled = [], []
        length = self.part("tokenizer").model_max_length
        for suffix in ("", "_2"):
            tokenizer = self.part(f"tokenizer{suffix}")
            tokens = tokenizer(
                list(prompts), padding="max_length", truncation=True, max_length=length, return_tensors="pt"
            )
            found = self.part(f"text_encoder{suffix}")(tokens.input_ids.to(self.device), output_hidden_states=True)
            states.append(found.hidden_states[-2].float())
            pooled.append(found[0].float())
        clip, long = torch.cat(states, -1), self._t5(prompts)
        clip = torch.nn.functional.pad(clip, (0, long.shape[-1] - clip.shape[-1]))
        text = torch.cat([clip, long], 1)
        return {"text": text, "text_mask": everything(text), "pooled": torch.cat(pooled, -1)}

    def _t5(self, prompts: Sequence[str]) -> Tensor:
        if (encoder := self.part("text_encoder_3")) is None:
            width = self.settings("transformer")["joint_attention_dim"]
            return torch.zeros(len(prompts), self.max_tokens, width, device=self.device)
        return t5_states(self.part("tokenizer_3"), encoder, prompts, self.max_tokens, self.device)

    def cut(self, prompt: str) -> str:
        if self.part("tokenizer_3") is None:
            return cut_by(self.part("tokenizer"), prompt, self.part("tokenizer").model_max_length)
        return cut_by(self.part("tokenizer_3"), prompt, self.max_tokens)

    def set_timesteps(self, scheduler, steps: int, z: Tensor) -> None:
        options: dict[str, Any] = {}
        if scheduler.config.get("use_dynamic_shifting"):
            patch = self.settings("transformer")["patch_size"]
            options["mu"] = shift_of(scheduler.config, (z.shape[2] // patch) * (z.shape[3] // patch), 1.16)
        scheduler.set_timesteps(steps, device=z.device, **options)


def t5_states(tokenizer, encoder, prompts: Sequence[str], length: int, device: str) -> Tensor:
    """States [N, length, C] float32 of T5 with its padding, as SD3 and FLUX see it."""
    tokens = tokenizer(list(prompts), padding="max_length", truncation=True, max_length=length, return_tensors="pt")
    return encoder(tokens.input_ids.to(device))[0].float()
