"""SongUNet: the DDPM++ and NCSN++ U-Nets (Song et al. 2021, arXiv:2011.13456) as EDM has them (arXiv:2206.00364)."""

import math
from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from scorefield.errors import UserError, suggest
from scorefield.networks.unet_layers import (
    Conv2d,
    FourierEmbedding,
    GroupNorm,
    Linear,
    PositionalEmbedding,
    UNetBlock,
)

EMBEDDINGS = ("positional", "fourier")
ENCODERS = ("standard", "skip", "residual")
DECODERS = ("standard", "skip")


def _one_of(what: str, value: str, options: Sequence[str]) -> None:
    if value not in options:
        raise UserError(f'unknown {what} "{value}": {suggest(str(value), options)}')


class SongUNet(nn.Module):
    """U-Net in the noise level with optional class labels.

    Args:
        img_resolution: side of the pictures. label_dim: classes, 0 for none.
        augment_dim: entries of EDM's augmentation labels, 0 for none.
        channel_mult: channels of each level over ``model_channels``; channel_mult_emb, channel_mult_noise: same
            for the embedding and for its input.
        attn_resolutions: sides with self-attention (the middle always has it).
        label_dropout: share of labels zeroed in training, for classifier-free guidance.
        embedding_type: "positional" (DDPM++) or "fourier" (NCSN++).
        encoder_type: "standard" (DDPM++), "residual" (NCSN++) or "skip". decoder_type: "standard" or "skip".
        resample_filter: [1, 1] (DDPM++) or [1, 3, 3, 1] (NCSN++).
    """

    def __init__(
        self,
        img_resolution: int,
        in_channels: int,
        out_channels: int,
        label_dim: int = 0,
        augment_dim: int = 0,
        model_channels: int = 128,
        channel_mult: Sequence[int] = (1, 2, 2, 2),
        channel_mult_emb: int = 4,
        num_blocks: int = 4,
        attn_resolutions: Sequence[int] = (16,),
        dropout: float = 0.10,
        label_dropout: float = 0.0,
        embedding_type: str = "positional",
        channel_mult_noise: int = 1,
        encoder_type: str = "standard",
        decoder_type: str = "standard",
        resample_filter: Sequence[float] = (1, 1),
    ):
        super().__init__()
        _one_of("embedding_type", embedding_type, EMBEDDINGS)
        _one_of("encoder_type", encoder_type, ENCODERS)
        _one_of("decoder_type", decoder_type, DECODERS)
        self.label_dropout = label_dropout
        emb, noise = model_channels * channel_mult_emb, model_channels * channel_mult_noise
        init = {"init_mode": "xavier_uniform"}
        self._init, self._init_zero = init, {**init, "init_weight": 1e-5}
        self._block: dict[str, Any] = {
            "emb_channels": emb,
            "num_heads": 1,
            "dropout": dropout,
            "skip_scale": math.sqrt(0.5),
            "eps": 1e-6,
            "resample_filter": resample_filter,
            "resample_proj": True,
            "adaptive_scale": False,
            "init": init,
            "init_zero": self._init_zero,
            "init_attn": {**init, "init_weight": math.sqrt(0.2)},
        }
        positional = embedding_type == "positional"
        self.map_noise = PositionalEmbedding(noise, endpoint=True) if positional else FourierEmbedding(noise)
        self.map_label = Linear(label_dim, noise, **init) if label_dim else None
        self.map_augment = Linear(augment_dim, noise, bias=False, **init) if augment_dim else None
        self.map_layer0 = Linear(noise, emb, **init)
        self.map_layer1 = Linear(emb, emb, **init)

        sides = [img_resolution >> level for level in range(len(channel_mult))]
        levels = [(side, model_channels * mult) for side, mult in zip(sides, channel_mult, strict=True)]
        attended = set(attn_resolutions)
        self.enc, widths = self._encoder(levels, in_channels, model_channels, num_blocks, attended, encoder_type)
        self.dec = self._decoder(levels, out_channels, widths, num_blocks, attended, decoder_type)

    def _encoder(
        self,
        levels: list[tuple[int, int]],
        in_channels: int,
        model_channels: int,
        num_blocks: int,
        attended: set[int],
        kind: str,
    ) -> tuple[nn.ModuleDict, list[int]]:
        """The encoder, and the channels of each of its outputs that the decoder takes."""
        parts, widths = nn.ModuleDict(), []
        here, side_path = model_channels, in_channels
        filters = {"resample_filter": self._block["resample_filter"]}
        for level, (side, width) in enumerate(levels):
            name = f"{side}x{side}"
            if level == 0:
                parts[f"{name}_conv"] = Conv2d(in_channels, here, kernel=3, **self._init)
            else:
                parts[f"{name}_down"] = UNetBlock(here, here, down=True, **self._block)
                if kind == "skip":
                    parts[f"{name}_aux_down"] = Conv2d(side_path, side_path, kernel=0, down=True, **filters)
                    parts[f"{name}_aux_skip"] = Conv2d(side_path, here, kernel=1, **self._init)
                if kind == "residual":
                    parts[f"{name}_aux_residual"] = Conv2d(
                        side_path, here, kernel=3, down=True, fused_resample=True, **filters, **self._init
                    )
                    side_path = here
            widths.append(here)
            for i in range(num_blocks):
                parts[f"{name}_block{i}"] = UNetBlock(here, width, attention=side in attended, **self._block)
                here = width
                widths.append(here)
        return parts, widths

    def _decoder(
        self,
        levels: list[tuple[int, int]],
        out_channels: int,
        widths: list[int],
        num_blocks: int,
        attended: set[int],
        kind: str,
    ) -> nn.ModuleDict:
        parts, widths, here = nn.ModuleDict(), list(widths), widths[-1]
        filters = {"resample_filter": self._block["resample_filter"]}
        for level, (side, width) in reversed(list(enumerate(levels))):
            name, lowest = f"{side}x{side}", level == len(levels) - 1
            if lowest:
                parts[f"{name}_in0"] = UNetBlock(here, here, attention=True, **self._block)
                parts[f"{name}_in1"] = UNetBlock(here, here, **self._block)
            else:
                parts[f"{name}_up"] = UNetBlock(here, here, up=True, **self._block)
            for i in range(num_blocks + 1):
                attention = i == num_blocks and side in attended
                parts[f"{name}_block{i}"] = UNetBlock(here + widths.pop(), width, attention=attention, **self._block)
                here = width
            if kind == "skip" or level == 0:
                if kind == "skip" and not lowest:
                    parts[f"{name}_aux_up"] = Conv2d(out_channels, out_channels, kernel=0, up=True, **filters)
                parts[f"{name}_aux_norm"] = GroupNorm(here, eps=1e-6)
                parts[f"{name}_aux_conv"] = Conv2d(here, out_channels, kernel=3, **self._init_zero)
        return parts

    def embed(self, noise_labels: Tensor, class_labels: Tensor | None, augment_labels: Tensor | None) -> Tensor:
        """Embedding [B, emb] of noise level, class and augmentation."""
        emb = self.map_noise(noise_labels)
        emb = torch.cat(emb.chunk(2, 1)[::-1], 1)  # sines first, as in the original networks
        if self.map_label is not None:
            emb = emb + self.map_label(drop_labels(self, class_labels) * math.sqrt(self.map_label.in_features))
        if self.map_augment is not None and augment_labels is not None:
            emb = emb + self.map_augment(augment_labels)
        return F.silu(self.map_layer1(F.silu(self.map_layer0(emb))))

    def forward(
        self,
        x: Tensor,
        noise_labels: Tensor,
        class_labels: Tensor | None = None,
        augment_labels: Tensor | None = None,
    ) -> Tensor:
        """[B, out, R, R] of x [B, in, R, R], noise labels [B], class labels [B or 1, label_dim]."""
        emb = self.embed(noise_labels, class_labels, augment_labels)
        kept: list[Tensor] = []
        side_path = x
        for name, part in self.enc.items():
            if name.endswith("aux_down"):
                side_path = part(side_path)
            elif name.endswith("aux_skip"):
                x = kept[-1] = x + part(side_path)
            elif name.endswith("aux_residual"):
                x = kept[-1] = side_path = (x + part(side_path)) * math.sqrt(0.5)
            else:
                x = part(x, emb) if isinstance(part, UNetBlock) else part(x)
                kept.append(x)
        picture = None
        for name, part in self.dec.items():
            if name.endswith("aux_up"):
                picture = part(picture)
            elif name.endswith("aux_norm"):
                normed = part(x)
            elif name.endswith("aux_conv"):
                more = part(F.silu(normed))
                picture = more if picture is None else picture + more
            else:
                x = part(x if x.shape[1] == part.in_channels else torch.cat([x, kept.pop()], 1), emb)
        return picture


def drop_labels(network: nn.Module, class_labels: Tensor | None) -> Tensor:
    """Labels with a share of ``network.label_dropout`` rows zeroed, in train mode only; UserError for none."""
    if class_labels is None:
        raise UserError(f"this {type(network).__name__} has classes: give class_labels, zeros for no class")
    if not (network.training and network.label_dropout):
        return class_labels
    keep = torch.rand(len(class_labels), 1, device=class_labels.device) >= network.label_dropout
    return class_labels * keep.to(class_labels.dtype)
