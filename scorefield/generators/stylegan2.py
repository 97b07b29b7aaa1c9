"""A pretrained StyleGAN2 as a generator to be refined by score distillation (Diff-Instruct, arXiv:2305.18455)."""

import difflib
from collections.abc import Iterator, Sequence
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from scorefield import networks
from scorefield.errors import UserError, suggest
from scorefield.generators.augmented import Augmented
from scorefield.generators.base import Batch, Generator
from scorefield.generators.labels import LabelLaw
from scorefield.networks import stylegan2
from scorefield.random import Draws

RESIZES = {
    "area": {"mode": "area"},
    "bilinear": {"mode": "bilinear", "antialias": True, "align_corners": False},
    "bicubic": {"mode": "bicubic", "antialias": True, "align_corners": False},
}


class StyleGAN2Generator(Augmented, Generator):
    """x0 = G(z, label), about [-1, 1] but not clamped, resized to the teacher's resolution if asked.

    z, label and the maps of noise mode "random" are drawn, so a picture depends on its ``Draws`` alone.

    Args:
        network: from ``networks.build`` or ``networks.load``.
        trainable: "all", "synthesis", "mapping", or patterns over parameter names such as
            ["synthesis.b32.*", "*.affine.*"]; all else is frozen.
        noise_mode: "random" (as in training), "const" or "none".
        output_size: side of x0; None is the network's own. resize: "bicubic" or "bilinear", both antialiased, or
            "area"; all are differentiable.
        labels: law of the class labels of a conditional network; equal frequencies by default.
        tell_labels: whether teacher and online score are told the label; by default where there are labels.
        truncation_psi: towards the mean latent; 1 is off.
        update_w_avg: let the mean latent follow the mapping in train mode; by default it stays as loaded.
        mapping_lr_scale: on the learning rate of the mapping network, whose stored weights are 100 times larger than
            the ones it applies, so that an Adam step moves it 100 times less.
        autocast: take part in the trainer's mixed precision. Off by default: the picture is summed up in float32.
        force_fp32: no half precision on CUDA, whatever the network was trained with.
        augment, mirror: see ``Augmented``.

    Raises:
        UserError: a pattern without parameters, an unknown option, or sizes that do not fit.
    """

    def __init__(
        self,
        network: stylegan2.Generator,
        trainable: str | Sequence[str] = "all",
        noise_mode: str = "random",
        output_size: int | None = None,
        resize: str = "bicubic",
        labels: LabelLaw | None = None,
        tell_labels: bool | None = None,
        truncation_psi: float = 1.0,
        update_w_avg: bool = False,
        mapping_lr_scale: float = 1.0,
        autocast: bool = False,
        force_fp32: bool = True,
        augment: float = 0.0,
        mirror: float | None = None,
    ):
        super().__init__()
        if noise_mode not in stylegan2.NOISE_MODES:
            raise UserError(f'unknown noise_mode "{noise_mode}": {suggest(noise_mode, stylegan2.NOISE_MODES)}')
        if resize not in RESIZES:
            raise UserError(f'unknown resize "{resize}": {suggest(resize, RESIZES)}')
        side = output_size or network.img_resolution
        if side > network.img_resolution:
            raise UserError(f"output_size {side} is larger than the pictures of the network, {network.img_resolution}")
        if labels is None and network.c_dim:
            labels = LabelLaw(network.c_dim)
        if (labels.classes if labels else 0) != network.c_dim:
            raise UserError(f"the network has {network.c_dim} classes, the label law {labels.classes if labels else 0}")
        self.network, self.noise_mode, self.resize, self.labels = network, noise_mode, resize, labels
        self.tell_labels = labels is not None if tell_labels is None else tell_labels
        if self.tell_labels and labels is None:
            raise UserError("an unconditional network has no labels to tell: leave tell_labels out")
        self.shape = (network.img_channels, side, side)
        self.truncation_psi, self.update_w_avg = truncation_psi, update_w_avg
        self.autocast, self.force_fp32, self.mapping_lr_scale = autocast, force_fp32, mapping_lr_scale
        self.augment, self.mirror = augment, mirror
        self._noise_sides = network.synthesis.noise_resolutions if noise_mode == "random" else []
        choose(network, trainable)

    @classmethod
    def load(cls, path: Path, **options) -> "StyleGAN2Generator":
        """From what ``networks.save`` wrote at ``path``; ``options`` as in the constructor."""
        network = networks.load(path)
        if not isinstance(network, stylegan2.Generator):
            raise UserError(f"{path} holds a {type(network).__name__}, not a StyleGAN2 generator")
        return cls(network, **options)

    @torch.no_grad()
    def draw(self, draws: Draws) -> Batch:
        """z [B, z_dim], label [B, c_dim] of a conditional network, noise [B, pixels of all maps] of mode "random"."""
        latents = {"z": draws.normal("z", self.network.z_dim)}
        if self._noise_sides:
            latents["noise"] = draws.normal("noise", sum(side**2 for side in self._noise_sides))
        if self.labels is None:
            return Batch(latents)
        latents["label"] = self.labels.draw(draws)
        told = {"label": latents["label"]} if self.tell_labels else {}
        return Batch(latents, told, told)

    def forward(self, batch: Batch) -> Tensor:
        z, label, noise = (batch.latents.get(name) for name in ("z", "label", "noise"))
        maps = None
        if self._noise_sides:
            parts = noise.split([side**2 for side in self._noise_sides], 1)
            maps = [part.view(-1, 1, side, side) for part, side in zip(parts, self._noise_sides, strict=True)]
        enabled = self.autocast and torch.is_autocast_enabled(z.device.type)
        with torch.autocast("cpu" if z.is_meta else z.device.type, enabled=enabled):  # meta has none of its own
            x0 = self.network(
                z,
                label,
                truncation_psi=self.truncation_psi,
                update_w_avg=self.update_w_avg and self.training,
                noise_mode=self.noise_mode,
                noise=maps,
                force_fp32=self.force_fp32,
            ).float()
        return self.resized(x0)

    def resized(self, x0: Tensor) -> Tensor:
        """The network's pictures [B, C, H, W] at the resolution of ``shape``."""
        if x0.shape[-1] == self.shape[-1]:
            return x0
        return F.interpolate(x0, size=self.shape[1:], **RESIZES[self.resize])

    def parameter_groups(self) -> list[dict[str, Any]]:
        parts = ((self.network.synthesis, 1.0), (self.network.mapping, self.mapping_lr_scale))
        groups = [{"params": [p for p in part.parameters() if p.requires_grad], "lr_scale": s} for part, s in parts]
        return [group for group in groups if group["params"]]

    def averaged(self) -> Iterator[tuple[str, Tensor]]:
        """All parameters, frozen ones too, and the mean latent where it moves: a whole network for export."""
        yield from self.named_parameters()
        if self.update_w_avg:
            yield from ((name, value) for name, value in self.named_buffers() if name.endswith("mapping.w_avg"))

    def export(self, path: Path) -> Path:
        """Write the network as it is now under its official tensor names (``networks.save``)."""
        return networks.save(self.network, path)


def choose(network: stylegan2.Generator, trainable: str | Sequence[str]) -> None:
    """Set which parameters ask for gradients; see ``StyleGAN2Generator``."""
    named = {"all": ["*"], "synthesis": ["synthesis.*"], "mapping": ["mapping.*"]}
    if isinstance(trainable, str):
        if trainable not in named:
            raise UserError(f'unknown choice of parameters "{trainable}": {suggest(trainable, named)}, or patterns')
        patterns = named[trainable]
    else:
        patterns = list(trainable)
    names = [name for name, _ in network.named_parameters()]
    for pattern in patterns:
        if not any(fnmatchcase(name, pattern) for name in names):
            near = difflib.get_close_matches(pattern, names, n=1, cutoff=0)
            raise UserError(f'no parameter is called like "{pattern}"; the nearest is "{near[0]}"')
    if not patterns:
        raise UserError("nothing would train: give at least one pattern of parameter names")
    for name, parameter in network.named_parameters():
        parameter.requires_grad_(any(fnmatchcase(name, pattern) for pattern in patterns))
