"""The published configurations by name, as class name and keyword arguments for ``build``."""

from typing import Any

from scorefield.errors import UserError, suggest


def _edm(label_dim: int, resolution: int, **model: Any) -> tuple[str, dict[str, Any]]:
    return "EDMPrecond", {"img_resolution": resolution, "img_channels": 3, "label_dim": label_dim, **model}


def _ddpmpp(channel_mult: list[int], dropout: float) -> dict[str, Any]:
    return {
        "model_type": "SongUNet",
        "embedding_type": "positional",
        "encoder_type": "standard",
        "decoder_type": "standard",
        "channel_mult_noise": 1,
        "resample_filter": [1, 1],
        "model_channels": 128,
        "channel_mult": channel_mult,
        "augment_dim": 9,
        "dropout": dropout,
    }


def _ncsnpp(channel_mult: list[int], dropout: float) -> dict[str, Any]:
    return {
        **_ddpmpp(channel_mult, dropout),
        "embedding_type": "fourier",
        "encoder_type": "residual",
        "channel_mult_noise": 2,
        "resample_filter": [1, 3, 3, 1],
    }


def _edm2(resolution: int, channels: int, model_channels: int) -> tuple[str, dict[str, Any]]:
    return "Precond", {
        "img_resolution": resolution,
        "img_channels": channels,
        "label_dim": 1000,
        "model_channels": model_channels,
    }


def _stylegan2(resolution: int, c_dim: int, mapping_layers: int, channel_base: int) -> tuple[str, dict[str, Any]]:
    return "Generator", {
        "z_dim": 512,
        "c_dim": c_dim,
        "w_dim": 512,
        "img_resolution": resolution,
        "img_channels": 3,
        "mapping_kwargs": {"num_layers": mapping_layers},
        "synthesis_kwargs": {"channel_base": channel_base, "channel_max": 512, "num_fp16_res": 4, "conv_clamp": 256},
    }


def _cifar_discriminator(c_dim: int) -> tuple[str, dict[str, Any]]:
    return "Discriminator", {
        "c_dim": c_dim,
        "img_resolution": 32,
        "img_channels": 3,
        "architecture": "orig",
        "channel_base": 32768,
        "channel_max": 512,
        "num_fp16_res": 4,
        "conv_clamp": 256,
        "epilogue_kwargs": {"mbstd_group_size": 32},
    }


OFFICIAL: dict[str, tuple[str, dict[str, Any]]] = {
    "edm-cifar10-uncond-vp": _edm(0, 32, **_ddpmpp([2, 2, 2], 0.13)),
    "edm-cifar10-cond-vp": _edm(10, 32, **_ddpmpp([2, 2, 2], 0.13)),
    "edm-cifar10-uncond-ve": _edm(0, 32, **_ncsnpp([2, 2, 2], 0.13)),
    "edm-cifar10-cond-ve": _edm(10, 32, **_ncsnpp([2, 2, 2], 0.13)),
    "edm-ffhq64-uncond-vp": _edm(0, 64, **_ddpmpp([1, 2, 2, 2], 0.05)),
    "edm-ffhq64-uncond-ve": _edm(0, 64, **_ncsnpp([1, 2, 2, 2], 0.05)),
    "edm-afhqv2-64-uncond-vp": _edm(0, 64, **_ddpmpp([1, 2, 2, 2], 0.25)),
    "edm-afhqv2-64-uncond-ve": _edm(0, 64, **_ncsnpp([1, 2, 2, 2], 0.25)),
    "edm-imagenet64-cond-adm": _edm(
        1000, 64, model_type="DhariwalUNet", model_channels=192, channel_mult=[1, 2, 3, 4], dropout=0.10
    ),
    "edm2-img64-s": _edm2(64, 3, 192),
    "edm2-img64-m": _edm2(64, 3, 256),
    "edm2-img64-l": _edm2(64, 3, 320),
    "edm2-img64-xl": _edm2(64, 3, 384),
    "edm2-img512-xs": _edm2(64, 4, 128),
    "edm2-img512-s": _edm2(64, 4, 192),
    "edm2-img512-m": _edm2(64, 4, 256),
    "edm2-img512-l": _edm2(64, 4, 320),
    "edm2-img512-xl": _edm2(64, 4, 384),
    "edm2-img512-xxl": _edm2(64, 4, 448),
    "stylegan2-cifar10-uncond": _stylegan2(32, 0, 2, 32768),
    "stylegan2-cifar10-cond": _stylegan2(32, 10, 2, 32768),
    "stylegan2-cifar10-uncond-discriminator": _cifar_discriminator(0),
    "stylegan2-cifar10-cond-discriminator": _cifar_discriminator(10),
    "stylegan2-paper256": _stylegan2(256, 0, 8, 16384),
    "stylegan2-paper512": _stylegan2(512, 0, 8, 32768),
    "stylegan2-1024": _stylegan2(1024, 0, 8, 32768),
}


def official(name: str) -> tuple[str, dict[str, Any]]:
    """(class name, keyword arguments) of a published configuration; raises UserError with the nearest name."""
    if name not in OFFICIAL:
        raise UserError(f'unknown configuration "{name}": {suggest(name, OFFICIAL)}')
    return OFFICIAL[name]
