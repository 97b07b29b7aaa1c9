"""Stable Diffusion XL as a teacher: two CLIP encoders, pooled text, and size and crop as micro-conditions."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from scorefield.denoiser import Condition
from scorefield.teachers.base import TEACHERS
from scorefield.teachers.native import NativeDenoiser
from scorefield.teachers.pipeline import clip_tokens, everything
from scorefield.teachers.stable_diffusion import StableDiffusion, UNetDenoiser


class SDXLDenoiser(UNetDenoiser):
    """``text`` [B, 77, C1 + C2], ``pooled`` [B, P]; original size = target size = the picture's, no crop."""

    compression: int = 8

    def extra(self, x: Tensor, condition: Condition) -> dict:
        height, width = self.compression * x.shape[2], self.compression * x.shape[3]
        sizes = torch.tensor([[height, width, 0, 0, height, width]], device=x.device, dtype=x.dtype)
        told = {"text_embeds": condition["pooled"].to(x.dtype), "time_ids": sizes.expand(len(x), 6)}
        return {"added_cond_kwargs": told}


@TEACHERS.register("sdxl")
@dataclass(eq=False)
class SDXL(StableDiffusion):
    """Penultimate states of both CLIP encoders; an empty negative prompt is zeros where the pipeline says so."""

    pipelines = ("StableDiffusionXLPipeline",)
    denoiser_class = SDXLDenoiser
    kohya = "sgm"

    def wrap(self, network, null: Condition | None = None) -> NativeDenoiser:
        denoiser = super().wrap(network, null)
        denoiser.compression = self.compression()  # type: ignore[assignment]
        return denoiser

    @torch.no_grad()
    def encode(self, prompts: Sequence[str]) -> dict[str, Tensor]:
        """Text states [N, 77, C1 + C2] and pooled text [N, P] of the second encoder, float32, and a mask of ones."""
        states, pooled = [], None
        for suffix in ("", "_2"):
            if (encoder := self.part(f"text_encoder{suffix}")) is None:
                continue
            found = encoder(
                clip_tokens(self.part(f"tokenizer{suffix}"), prompts, self.device), output_hidden_states=True
            )
            states.append(found.hidden_states[-2].float())
            pooled = found[0].float() if found[0].ndim == 2 else pooled
        text = torch.cat(states, -1)
        assert pooled is not None  # the second encoder projects, in every pipeline of this class
        return {"text": text, "text_mask": everything(text), "pooled": pooled}

    def null(self) -> Condition:
        empty = self.encode([self.negative_prompt])
        if self.negative_prompt or not self.index.get("force_zeros_for_empty_prompt", True):
            return empty
        return {key: value if key == "text_mask" else torch.zeros_like(value) for key, value in empty.items()}
