"""DhariwalUNet: the ADM U-Net (Dhariwal and Nichol 2021, arXiv:2105.05233) as EDM has it (arXiv:2206.00364)."""

import math
from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from scorefield.networks.song_unet import drop_labels
from scorefield.networks.unet_layers import Conv2d, GroupNorm, Linear, PositionalEmbedding, UNetBlock


class DhariwalUNet(nn.Module):
    """U-Net in the noise level with optional class labels; heads of 64 channels, adaptive scale and shift.

    Args:
        img_resolution: side of the pictures. label_dim: classes, 0 for none.
        augment_dim: entries of EDM's augmentation labels, 0 for none.
        channel_mult, channel_mult_emb: channels of levels and embedding over ``model_channels``.
        attn_resolutions: sides with self-attention, in encoder and decoder.
        label_dropout: share of labels zeroed in training, for classifier-free guidance.
    """

    def __init__(
        self,
        img_resolution: int,
        in_channels: int,
        out_channels: int,
        label_dim: int = 0,
        augment_dim: int = 0,
        model_channels: int = 192,
        channel_mult: Sequence[int] = (1, 2, 3, 4),
        channel_mult_emb: int = 4,
        num_blocks: int = 3,
        attn_resolutions: Sequence[int] = (32, 16, 8),
        dropout: float = 0.10,
        label_dropout: float = 0.0,
    ):
        super().__init__()
        self.label_dropout = label_dropout
        emb = model_channels * channel_mult_emb
        third = math.sqrt(1 / 3)
        init = {"init_mode": "kaiming_uniform", "init_weight": third, "init_bias": third}
        init_zero = {"init_mode": "kaiming_uniform", "init_weight": 0, "init_bias": 0}
        block: dict[str, Any] = {
            "emb_channels": emb,
            "channels_per_head": 64,
            "dropout": dropout,
            "init": init,
            "init_zero": init_zero,
        }
        self.map_noise = PositionalEmbedding(model_channels)
        self.map_augment = Linear(augment_dim, model_channels, bias=False, **init_zero) if augment_dim else None
        self.map_layer0 = Linear(model_channels, emb, **init)
        self.map_layer1 = Linear(emb, emb, **init)
        self.map_label = None
        if label_dim:
            gain = math.sqrt(label_dim)
            self.map_label = Linear(label_dim, emb, bias=False, init_mode="kaiming_normal", init_weight=gain)

        levels = [(img_resolution >> level, model_channels * mult) for level, mult in enumerate(channel_mult)]
        attended = set(attn_resolutions)
        self.enc, widths, here = nn.ModuleDict(), [], model_channels
        for level, (side, width) in enumerate(levels):
            name = f"{side}x{side}"
            if level == 0:
                self.enc[f"{name}_conv"] = Conv2d(in_channels, here, kernel=3, **init)
            else:
                self.enc[f"{name}_down"] = UNetBlock(here, here, down=True, **block)
            widths.append(here)
            for i in range(num_blocks):
                self.enc[f"{name}_block{i}"] = UNetBlock(here, width, attention=side in attended, **block)
                here = width
                widths.append(here)

        self.dec = nn.ModuleDict()
        for level, (side, width) in reversed(list(enumerate(levels))):
            name = f"{side}x{side}"
            if level == len(levels) - 1:
                self.dec[f"{name}_in0"] = UNetBlock(here, here, attention=True, **block)
                self.dec[f"{name}_in1"] = UNetBlock(here, here, **block)
            else:
                self.dec[f"{name}_up"] = UNetBlock(here, here, up=True, **block)
            for i in range(num_blocks + 1):
                here += widths.pop()
                self.dec[f"{name}_block{i}"] = UNetBlock(here, width, attention=side in attended, **block)
                here = width
        self.out_norm = GroupNorm(here)
        self.out_conv = Conv2d(here, out_channels, kernel=3, **init_zero)

    def embed(self, noise_labels: Tensor, class_labels: Tensor | None, augment_labels: Tensor | None) -> Tensor:
        """Embedding [B, emb] of noise level, class and augmentation."""
        emb = self.map_noise(noise_labels)
        if self.map_augment is not None and augment_labels is not None:
            emb = emb + self.map_augment(augment_labels)
        emb = self.map_layer1(F.silu(self.map_layer0(emb)))
        if self.map_label is not None:
            emb = emb + self.map_label(drop_labels(self, class_labels))
        return F.silu(emb)

    def forward(
        self,
        x: Tensor,
        noise_labels: Tensor,
        class_labels: Tensor | None = None,
        augment_labels: Tensor | None = None,
    ) -> Tensor:
        """[B, out, R, R] of x [B, in, R, R], noise labels [B], class labels [B or 1, label_dim]."""
        emb = self.embed(noise_labels, class_labels, augment_labels)
        kept = []
        for part in self.enc.values():
            x = part(x, emb) if isinstance(part, UNetBlock) else part(x)
            kept.append(x)
        for part in self.dec.values():
            x = part(x if x.shape[1] == part.in_channels else torch.cat([x, kept.pop()], 1), emb)
        return self.out_conv(F.silu(self.out_norm(x)))
