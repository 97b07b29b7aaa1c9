"""A small AutoencoderKL whose latents have zero mean and unit variance in every channel."""

from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from scorefield.errors import UserError
from scorefield.pretrain.loop import StageConfig, fit


def build(latent_channels: int, widths: tuple[int, ...], resolution: int):
    """An untrained diffusers AutoencoderKL that shrinks each side by 2 ** (len(widths) - 1)."""
    from diffusers import AutoencoderKL

    depth = len(widths)
    return AutoencoderKL(
        down_block_types=("DownEncoderBlock2D",) * depth,
        up_block_types=("UpDecoderBlock2D",) * depth,
        block_out_channels=tuple(widths),
        layers_per_block=1,
        latent_channels=latent_channels,
        norm_num_groups=8,
        sample_size=resolution,
        scaling_factor=1.0,
    )


def open_folder(folder: str):
    """A saved AutoencoderKL, float32; raises UserError when ``folder`` holds none."""
    from diffusers import AutoencoderKL

    if not (Path(folder) / "config.json").is_file():
        raise UserError(f"autoencoder.init {folder} is no diffusers autoencoder: it holds no config.json")
    return AutoencoderKL.from_pretrained(folder).float()


def reconstruction_loss(target: Tensor, output: Tensor) -> Tensor:
    """L1 + squared error + L1 of the finite differences (edges), a scalar; images [B, 3, H, W] in [-1, 1]."""
    edges = torch.zeros((), device=output.device)
    for axis in (2, 3):
        edges = edges + (target.diff(dim=axis) - output.diff(dim=axis)).abs().mean()
    return F.l1_loss(output, target) + F.mse_loss(output, target) + edges


def train(
    images: Tensor,
    config: StageConfig,
    *,
    latent_channels,
    widths,
    kl_weight,
    seed,
    out: Path,
    device: str,
    init: str = "",
    say=print,
):
    """Train on uint8 ``images`` [N, 3, H, W] that lie on ``device``; returns the normalised autoencoder.

    ``kl_weight`` multiplies the KL divergence per latent element (nats), which keeps the latents smooth.
    """
    torch.manual_seed(seed)
    vae = open_folder(init) if init else build(latent_channels, widths, images.shape[-1])
    vae = vae.to(device)
    if device.startswith("cuda"):
        vae = vae.to(memory_format=torch.channels_last)
    encode = torch.compile(lambda x: vae.encode(x, return_dict=False)[0].parameters) if config.compile else None
    decode = torch.compile(lambda z: vae.decode(z, return_dict=False)[0]) if config.compile else None
    encode = encode or (lambda x: vae.encode(x, return_dict=False)[0].parameters)
    decode = decode or (lambda z: vae.decode(z, return_dict=False)[0])

    def loss(generator: torch.Generator) -> dict[str, Tensor]:
        rows = torch.randint(len(images), (config.batch,), generator=generator, device=device)
        target = images[rows].float() / 127.5 - 1
        mean, log_variance = encode(target).float().chunk(2, dim=1)
        log_variance = log_variance.clamp(-30, 20)
        noise = torch.randn(mean.shape, generator=generator, device=device)
        output = decode(mean + (0.5 * log_variance).exp() * noise).float()
        divergence = 0.5 * (mean.square() + log_variance.exp() - 1 - log_variance).mean()
        return {"reconstruction": reconstruction_loss(target, output), "kl": kl_weight * divergence}

    fit("autoencoder", nn.ModuleDict({"vae": vae}), loss, config, seed=seed, out=out, device=device, say=say)
    normalise(vae, images[: min(len(images), 20_000)])
    return vae


@torch.no_grad()
def encode_images(vae, images: Tensor, batch: int = 1024) -> tuple[Tensor, Tensor]:
    """Posterior mean and standard deviation [N, C, h, w] (float16) of uint8 images."""
    means, deviations = [], []
    for part in images.split(batch):
        posterior = vae.encode(part.to(vae.device).float() / 127.5 - 1).latent_dist
        means.append(posterior.mean.half())
        deviations.append(posterior.std.half())
    return torch.cat(means), torch.cat(deviations)


@torch.no_grad()
def normalise(vae, images: Tensor) -> None:
    """Fold mean and scale of each latent channel into the 1×1 convolutions around the latent.

    The pipeline knows one scaling factor and no shift; after this both are trivial (1 and 0), so every
    channel has the unit variance that a sigma of 2.5 is measured against.
    """
    mean, deviation = encode_images(vae, images)
    centre = mean.float().mean((0, 2, 3))
    scale = (mean.float().var((0, 2, 3)) + deviation.float().square().mean((0, 2, 3))).sqrt()
    channels = len(centre)
    quant, post = vae.quant_conv, vae.post_quant_conv
    # decoder first: z_old = scale * z_new + centre
    post.bias += (post.weight[:, :, 0, 0] * centre).sum(1)
    post.weight *= scale[None, :, None, None]
    quant.weight[:channels] /= scale[:, None, None, None]
    quant.bias[:channels] = (quant.bias[:channels] - centre) / scale
    quant.bias[channels:] -= 2 * scale.log()  # log variance


@torch.no_grad()
def decode_latents(vae, latents: Tensor, batch: int = 512) -> Tensor:
    """Images [N, 3, H, W] in [-1, 1] (float32, clamped) of normalised latents."""
    parts = [vae.decode(z.to(vae.dtype), return_dict=False)[0].float() for z in latents.split(batch)]
    return torch.cat(parts).clamp(-1, 1)
