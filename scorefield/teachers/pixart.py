"""PixArt-alpha and PixArt-Sigma as teachers."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from scorefield.denoiser import Condition
from scorefield.teachers.base import TEACHERS
from scorefield.teachers.native import NativeDenoiser
from scorefield.teachers.pipeline import PipelineTeacher, cut_by


class PixArtDenoiser(NativeDenoiser):
    """A ``PixArtTransformer2DModel``: ``text`` [B, L, C] with ``text_mask`` [B, L]; learned-sigma channels are cut."""

    def call(self, x: Tensor, timestep: Tensor, condition: Condition) -> Tensor:
        return self.network(
            x,
            encoder_hidden_states=condition["text"].to(x.dtype),
            encoder_attention_mask=condition["text_mask"].to(x.dtype),
            timestep=timestep,
            added_cond_kwargs=self._micro_conditions(x),
            return_dict=False,
        )[0]

    def _micro_conditions(self, x: Tensor) -> dict[str, Tensor | None]:
        """Resolution and aspect ratio, which only alpha's 1024-pixel checkpoints (sample_size 128) are told."""
        if not self.network.use_additional_conditions:
            return {"resolution": None, "aspect_ratio": None}
        height, width = 8 * x.shape[2], 8 * x.shape[3]
        size = torch.tensor([[height, width]], device=x.device, dtype=x.dtype).expand(len(x), 2)
        ratio = torch.full((len(x), 1), height / width, device=x.device, dtype=x.dtype)
        return {"resolution": size, "aspect_ratio": ratio}


@TEACHERS.register("pixart")
@dataclass(eq=False)
class PixArt(PipelineTeacher):
    """T5 (or ByT5) text of at most ``max_tokens`` tokens: 120 for alpha, 300 for Sigma."""

    pipelines = ("PixArtAlphaPipeline", "PixArtSigmaPipeline")
    denoiser_class = PixArtDenoiser

    def stock_options(self) -> dict[str, Any]:
        told = {"use_resolution_binning": False, "max_sequence_length": self.max_tokens}
        return super().stock_options() | told

    @torch.no_grad()
    def encode(self, prompts: Sequence[str]) -> dict[str, Tensor]:
        """Text states [N, L, C] float32 and mask [N, L], L = longest of these prompts, at most max_tokens."""
        texts = [prompt.lower().strip() for prompt in prompts]
        tokens = self.part("tokenizer")(
            texts, padding="longest", truncation=True, max_length=self.max_tokens, return_tensors="pt"
        ).to(self.device)
        states = self.part("text_encoder")(tokens.input_ids, attention_mask=tokens.attention_mask)[0]
        return {"text": states.float() * tokens.attention_mask[..., None], "text_mask": tokens.attention_mask}

    def cut(self, prompt: str) -> str:
        return cut_by(self.part("tokenizer"), prompt.lower().strip(), self.max_tokens)
