"""Train a small T5 encoder and a small PixArt transformer together, on latents, to predict eps."""

from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from scorefield.pretrain.loop import StageConfig, fit
from scorefield.pretrain.sources import TokenTable


@dataclass
class Architecture:
    """Sizes of the text encoder and the transformer (diffusers and transformers names)."""

    layers: int = 6
    heads: int = 4
    head_dim: int = 32
    patch: int = 2
    text_width: int = 128
    text_layers: int = 3
    text_heads: int = 4
    max_tokens: int = 64


def build_text_encoder(architecture: Architecture, vocabulary: int):
    """An untrained transformers T5EncoderModel."""
    from transformers import T5Config, T5EncoderModel

    width = architecture.text_width
    return T5EncoderModel(
        T5Config(
            vocab_size=vocabulary,
            d_model=width,
            d_kv=width // architecture.text_heads,
            d_ff=2 * width,
            num_layers=architecture.text_layers,
            num_heads=architecture.text_heads,
            feed_forward_proj="gated-gelu",
            dropout_rate=0.0,
            relative_attention_num_buckets=32,
            relative_attention_max_distance=64,
        )
    )


def build_transformer(architecture: Architecture, latent_channels: int, latent_size: int):
    """An untrained diffusers PixArtTransformer2DModel with learned-sigma outputs, as PixArt-alpha has."""
    from diffusers import PixArtTransformer2DModel

    width = architecture.heads * architecture.head_dim
    return PixArtTransformer2DModel(
        num_attention_heads=architecture.heads,
        attention_head_dim=architecture.head_dim,
        in_channels=latent_channels,
        out_channels=2 * latent_channels,
        num_layers=architecture.layers,
        cross_attention_dim=width,
        sample_size=latent_size,
        patch_size=architecture.patch,
        caption_channels=architecture.text_width,
        use_additional_conditions=False,
    )


def train(
    latents: tuple[Tensor, Tensor],
    table: TokenTable,
    vocabulary: int,
    scheduler,
    architecture: Architecture,
    config: StageConfig,
    *,
    caption_dropout: float,
    snr_cap: float,
    seed: int,
    out: Path,
    device: str,
    say=print,
):
    """Minimise min(snr, snr_cap) / snr * |eps_hat - eps|^2 (min-SNR weighting, Hang et al. 2023, eps form).

    Args:
        latents: posterior mean and deviation [N, C, h, w] of the pictures, on ``device``.
        scheduler: a diffusers scheduler with ``alphas_cumprod``; its timesteps are drawn uniformly.

    Returns:
        (text_encoder, transformer), both with their averaged weights.
    """
    torch.manual_seed(seed)
    mean, deviation = latents
    channels, size = mean.shape[1], mean.shape[2]
    text_encoder = build_text_encoder(architecture, vocabulary)
    transformer = build_transformer(architecture, channels, size)
    modules = nn.ModuleDict({"text_encoder": text_encoder, "transformer": transformer}).to(device)
    alphas_cumprod = scheduler.alphas_cumprod.to(device)

    def predict(ids: Tensor, mask: Tensor, x_t: Tensor, timesteps: Tensor) -> Tensor:
        text = text_encoder(input_ids=ids, attention_mask=mask).last_hidden_state
        output = transformer(
            x_t,
            encoder_hidden_states=text,
            timestep=timesteps,
            encoder_attention_mask=mask,
            return_dict=False,
        )[0]
        return output[:, :channels].float()

    if config.compile:
        predict = torch.compile(predict)

    def loss(generator: torch.Generator) -> dict[str, Tensor]:
        def normal() -> Tensor:
            return torch.randn((config.batch, channels, size, size), generator=generator, device=device)

        rows = torch.randint(len(mean), (config.batch,), generator=generator, device=device)
        x0 = mean[rows].float() + deviation[rows].float() * normal()
        # stratified over the batch: less variance in the loss than independent draws
        spread = (torch.arange(config.batch, device=device) + torch.rand((), generator=generator, device=device)) % 1e9
        timesteps = (spread / config.batch * len(alphas_cumprod)).long().clamp(max=len(alphas_cumprod) - 1)
        signal = alphas_cumprod[timesteps].view(-1, 1, 1, 1)
        eps = normal()
        x_t = signal.sqrt() * x0 + (1 - signal).sqrt() * eps
        ids, mask = table.draw(rows, generator, caption_dropout)
        error = (predict(ids, mask, x_t, timesteps) - eps).square().mean((1, 2, 3))
        snr = (signal / (1 - signal)).flatten()
        return {"eps": (error * snr.clamp(max=snr_cap) / snr).mean()}

    fit("teacher", modules, loss, config, seed=seed, out=out, device=device, say=say)
    with torch.no_grad():  # the learned-sigma half is never trained and never read: make it a clean zero
        width = transformer.proj_out.weight.view(architecture.patch**2, 2 * channels, -1)
        width[:, channels:] = 0
        transformer.proj_out.bias.view(architecture.patch**2, 2 * channels)[:, channels:] = 0
    return text_encoder, transformer
