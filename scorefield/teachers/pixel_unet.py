"""Pixel-space diffusers pipelines (DDPM, DDIM …: a ``UNet2DModel`` and a scheduler) as preconditioned networks.

They stand where EDM's networks stand: as teachers of ``gan_refine`` and ``class_to_image``.
"""

import re
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from scorefield.errors import UserError
from scorefield.noise import DiscreteVP, convert
from scorefield.teachers.hub import explain, quiet, reachable, read_settings
from scorefield.teachers.native import process_of

NULL_CLASS = "a diffusers UNet2DModel has no empty class, so there is nothing to guide: use guidance scale 1"


class PixelUNet(nn.Module):
    """D(x; sigma) around a ``UNet2DModel`` trained on alpha x0 + sigma eps.

    Args:
        unet: diffusers' network. scheduler: the configuration that it was trained with.

    Raises:
        UserError: pictures that are not square, classes told in a way that is not read here, or a process or
            prediction form without an adapter.
    """

    has_null_class = False

    def __init__(self, unet: Any, scheduler: dict[str, Any]):
        super().__init__()
        settings = unet.config
        side = settings.sample_size
        side = side[0] if isinstance(side, (list, tuple)) and len(set(side)) == 1 else side
        if not isinstance(side, int):
            raise UserError(f"the UNet2DModel draws pictures of {side or 'any size'}; square ones of one size are read")
        if settings.class_embed_type is not None:
            raise UserError(f'the UNet2DModel is told classes by "{settings.class_embed_type}", which is not read here')
        process, self.prediction = process_of(scheduler)
        if not isinstance(process, DiscreteVP):
            raise UserError(f"the scheduler {scheduler.get('_class_name')} of a pixel-space pipeline is not read here")
        self.unet, self.process, self.scheduler = unet, process, dict(scheduler)
        self.sigma_min, self.sigma_max = process.sigma_min, process.sigma_max
        self.img_resolution, self.img_channels = side, settings.in_channels
        self.label_dim = settings.num_class_embeds or 0

    @property
    def encoder_end(self) -> nn.Module:
        """The part that hands over to the decoder."""
        return self.unet.mid_block

    def forward(self, x: Tensor, sigma: Tensor, class_labels: Tensor | None = None, force_fp32: bool = False) -> Tensor:
        """Denoised float32 [B, C, R, R] of x [B, C, R, R], sigma [B] and one-hot ``class_labels`` [B, label_dim]."""
        told = {}
        if self.label_dim:
            if class_labels is None:
                raise UserError(NULL_CLASS)
            told["class_labels"] = class_labels.argmax(1)
        sigma = sigma.float().reshape(-1).expand(len(x))
        alpha, native_sigma = (value.view(-1, 1, 1, 1) for value in self.process.scales(sigma))
        native = alpha * x.float()
        seen = native.to(next(self.unet.parameters()).dtype)
        output = self.unet(seen, self.process.timestep(sigma), return_dict=False, **told)[0]
        output = output[:, : self.img_channels].float()  # learned variances are cut off
        return convert(output, self.prediction, "x0", x_t=native, alpha=alpha, sigma=native_sigma)

    def save(self, out: Path) -> None:
        """Write network and scheduler as a pipeline folder that diffusers loads."""
        import diffusers

        scheduler = diffusers.DDPMScheduler.from_config(self.scheduler)
        diffusers.DDPMPipeline(self.unet, scheduler).save_pretrained(out)


def is_pipeline(path: Path) -> bool:
    """Whether ``path`` is a diffusers pipeline's folder or, not being there, reads like a hub id (OWNER/NAME)."""
    if path.is_dir():
        return (path / "model_index.json").is_file()
    return not path.exists() and re.fullmatch(r"[\w][\w.-]*/[\w][\w.-]*", str(path)) is not None and not path.suffix


def open_pixel_unet(path: Path) -> PixelUNet:
    """The network of a pixel-space pipeline in a folder or on the hub, float32 on the CPU.

    Raises UserError: nothing there or not to be had, or a pipeline of another kind (text, latents).
    """
    import diffusers

    quiet()
    index = read_settings(str(path), "", "model_index.json")
    kind = (index.get("unet") or [None, None])[1]
    if kind != "UNet2DModel" or "vae" in index or "vqvae" in index:
        raise UserError(
            f"{path} is a {index.get('_class_name', 'pipeline without a class')}; in pixel space pipelines of a "
            "UNet2DModel and a scheduler are read (DDPMPipeline, DDIMPipeline): text_to_image takes those with prompts"
        )
    local = not path.is_dir() and not reachable()
    try:
        parts = diffusers.DiffusionPipeline.from_pretrained(
            str(path), torch_dtype=torch.float32, local_files_only=local
        ).components
    except Exception as error:
        raise UserError(explain(error, str(path), "unet")) from error
    scheduler = parts["scheduler"]
    return PixelUNet(parts["unet"], {**scheduler.config, "_class_name": type(scheduler).__name__})
