"""FLUX.1 as a teacher, guidance-distilled (dev) and not (schnell): packed latents, CLIP pooled text and T5."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from scorefield.denoiser import Condition
from scorefield.errors import UserError
from scorefield.teachers.base import TEACHERS
from scorefield.teachers.native import NativeDenoiser
from scorefield.teachers.pipeline import PipelineTeacher, clip_tokens, cut_by, everything
from scorefield.teachers.sampling import shift_of
from scorefield.teachers.sd3 import t5_states


class FluxDenoiser(NativeDenoiser):
    """``text`` [B, L, C], all of it seen, and ``pooled`` [B, P]; latents [B, C, h, w] are packed in 2 x 2 patches here.

    Attributes:
        embedded_guidance: the scale that a guidance-distilled network is told.
    """

    embedded_guidance: float = 3.5

    def call(self, x: Tensor, timestep: Tensor, condition: Condition) -> Tensor:
        batch, channels, height, width = x.shape
        rows, columns = height // 2, width // 2
        packed = x.view(batch, channels, rows, 2, columns, 2).permute(0, 2, 4, 1, 3, 5)
        text, guidance = condition["text"].to(x.dtype), None
        if self.network.config.guidance_embeds:
            guidance = torch.full((batch,), self.embedded_guidance, device=x.device)
        output = self.network(
            hidden_states=packed.reshape(batch, rows * columns, 4 * channels),
            timestep=(timestep / 1000).to(x.dtype),
            guidance=guidance,
            pooled_projections=condition["pooled"].to(x.dtype),
            encoder_hidden_states=text,
            txt_ids=x.new_zeros(text.shape[1], 3),
            img_ids=places(rows, columns, x),
            return_dict=False,
        )[0]
        patches = output.view(batch, rows, columns, channels, 2, 2).permute(0, 3, 1, 4, 2, 5)
        return patches.reshape(batch, channels, height, width)


def places(rows: int, columns: int, like: Tensor) -> Tensor:
    """(0, row, column) of every patch [rows * columns, 3]."""
    row = torch.arange(rows, device=like.device, dtype=like.dtype)
    column = torch.arange(columns, device=like.device, dtype=like.dtype)
    grid = torch.cartesian_prod(row, column)
    return torch.nn.functional.pad(grid, (1, 0))


@TEACHERS.register("flux")
@dataclass(eq=False)
class Flux(PipelineTeacher):
    """``max_tokens`` is T5's length (512; schnell 256). ``embedded_guidance`` is told to a guidance-distilled network;
    ``training.guidance_scale`` on top is the pipeline's true_cfg_scale."""

    pipelines = ("FluxPipeline",)
    input_layer = "x_embedder"
    denoiser_class = FluxDenoiser
    kohya = "flux"

    embedded_guidance: float = 3.5

    def wrap(self, network, null: Condition | None = None) -> NativeDenoiser:
        denoiser = super().wrap(network, null)
        denoiser.embedded_guidance = self.embedded_guidance  # type: ignore[assignment]
        return denoiser

    def stock_options(self) -> dict[str, Any]:
        told = {"guidance_scale": self.embedded_guidance, "max_sequence_length": self.max_tokens}
        return super().stock_options() | told

    def stock_latents(self) -> tuple[int, ...]:
        """FLUX's pipeline takes them packed: (patches, channels of a patch)."""
        channels, height, width = self.latent_shape
        return (height // 2) * (width // 2), 4 * channels

    @torch.no_grad()
    def encode(self, prompts: Sequence[str]) -> dict[str, Tensor]:
        """T5 states [N, max_tokens, C] and CLIP's pooled text [N, P], float32, and a mask of ones."""
        ids = clip_tokens(self.part("tokenizer"), prompts, self.device)
        pooled = self.part("text_encoder")(ids).pooler_output.float()
        encoder = self.part("text_encoder_2")
        text = t5_states(self.part("tokenizer_2"), encoder, prompts, self.max_tokens, self.device)
        return {"text": text, "text_mask": everything(text), "pooled": pooled}

    def cut(self, prompt: str) -> str:
        return cut_by(self.part("tokenizer_2"), prompt, self.max_tokens)

    @property
    def latent_shape(self) -> tuple[int, int, int]:
        """(channels, height, width); FLUX has no size of its own, the pipeline's default is 128 latents a side.

        Raises UserError for a resolution that does not divide into patches.
        """
        size = self.resolution // self.compression() if self.resolution else 128
        if size % 2 or size < 2:
            raise UserError(f"FLUX needs a resolution that {2 * self.compression()} divides, not {self.resolution}")
        return self.settings("transformer")["in_channels"] // 4, size, size

    def set_timesteps(self, scheduler, steps: int, z: Tensor) -> None:
        mu = shift_of(scheduler.config, (z.shape[2] // 2) * (z.shape[3] // 2), 1.15)
        sigmas = None if scheduler.config.get("use_flow_sigmas") else np.linspace(1.0, 1 / steps, steps)
        scheduler.set_timesteps(steps if sigmas is None else None, device=z.device, sigmas=sigmas, mu=mu)
