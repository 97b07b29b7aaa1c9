"""Stable Diffusion 1.x and 2.x (eps and v prediction) as teachers."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from scorefield.denoiser import Condition
from scorefield.errors import UserError
from scorefield.teachers.base import TEACHERS
from scorefield.teachers.native import NativeDenoiser
from scorefield.teachers.pipeline import CLIP_TOKENS, PipelineTeacher, clip_tokens, cut_by, everything


class UNetDenoiser(NativeDenoiser):
    """A ``UNet2DConditionModel`` with text cross-attention only: ``text`` [B, 77, C], all of it seen."""

    def __init__(self, network, *given, **options):
        super().__init__(network, *given, **options)
        if network.config.time_cond_proj_dim is not None:
            raise UserError("this UNet takes its guidance scale as an input: it is a distilled (LCM) model, no teacher")

    def call(self, x: Tensor, timestep: Tensor, condition: Condition) -> Tensor:
        return self.network(
            x,
            timestep,
            encoder_hidden_states=condition["text"].to(x.dtype),
            return_dict=False,
            **self.extra(x, condition),
        )[0]

    def extra(self, x: Tensor, condition: Condition) -> dict:
        """Further arguments of the network."""
        return {}


@TEACHERS.register("stable_diffusion")
@dataclass(eq=False)
class StableDiffusion(PipelineTeacher):
    """CLIP text, 77 tokens with their padding."""

    pipelines = ("StableDiffusionPipeline",)
    network_part = "unet"
    input_layer = "conv_in"
    denoiser_class = UNetDenoiser
    kohya = "unet"

    def text_length(self) -> int:
        return CLIP_TOKENS

    @torch.no_grad()
    def encode(self, prompts: Sequence[str]) -> dict[str, Tensor]:
        """Text states [N, 77, C] float32 and a mask of ones."""
        tokenizer, encoder = self.part("tokenizer"), self.part("text_encoder")
        ids, mask = clip_tokens(tokenizer, prompts, self.device), None
        if getattr(encoder.config, "use_attention_mask", False):
            mask = tokenizer(
                list(prompts), padding="max_length", truncation=True, max_length=ids.shape[1], return_tensors="pt"
            ).attention_mask.to(self.device)
        text = encoder(ids, attention_mask=mask)[0].float()
        return {"text": text, "text_mask": everything(text)}

    def cut(self, prompt: str) -> str:
        tokenizer = self.part("tokenizer")
        return cut_by(tokenizer, prompt, tokenizer.model_max_length)
