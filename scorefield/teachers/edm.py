"""EDM, EDM2 and the networks that EDM preconditions as teachers: they already are denoisers in sigma."""

import math
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from scorefield import networks
from scorefield.denoiser import Condition, Denoiser
from scorefield.errors import UserError
from scorefield.networks.edm2_unet import Precond
from scorefield.networks.edm_precond import EDMPrecond
from scorefield.noise import EDM
from scorefield.teachers.features import output_of
from scorefield.teachers.pixel_unet import NULL_CLASS


class EDMDenoiser(Denoiser):
    """D(x_t, sigma, condition) around a preconditioned network of ``scorefield.networks``.

    The condition of a class-conditional network holds ``label``: float [B, classes] (one-hot) or int64 [B]; without
    it, or where a row is zero, the network is asked for no class. ``augment`` float [B, 9] tells how a picture was
    augmented to a network that knows (``tells_augmentation``); without it pictures are seen as they are.

    Args:
        network: EDMPrecond, VPPrecond, VEPrecond, iDDPMPrecond, EDM2's Precond, or diffusers' in a ``PixelUNet``.
        sigma_min, sigma_max: noise levels to train at (EDM's sampling range by default); narrowed to what the
            network says it knows.
        force_fp32: no half precision on CUDA. Score differences are small against what half precision rounds off.
        native_training: in train mode the network does what it does in training, too: dropout, label dropout and,
            for EDM2, forced weight normalisation. Off by default, so that a pass depends on its inputs alone.
        learns_augmentation: the layer that reads ``augment`` trains, too: for an online score that is told of it.

    Raises:
        UserError: the network has no preconditioner, or no noise level is left.
    """

    shape: tuple[int, int, int]
    label_dim: int
    tells_augmentation: bool

    def __init__(
        self,
        network: Any,
        sigma_min: float = 0.002,
        sigma_max: float = 80.0,
        force_fp32: bool = True,
        native_training: bool = False,
        learns_augmentation: bool = False,
    ):
        super().__init__()
        if not hasattr(network, "sigma_min") or not hasattr(network, "label_dim"):
            known = "EDMPrecond, VPPrecond, VEPrecond, iDDPMPrecond, Precond"
            raise UserError(f"{type(network).__name__} is a raw network: wrap it in a preconditioner ({known})")
        self.network, self.force_fp32, self.native_training = network, force_fp32, native_training
        self.learns_augmentation = learns_augmentation
        self.sigma_min = max(float(sigma_min), float(network.sigma_min))
        self.sigma_max = min(float(sigma_max), float(network.sigma_max))
        if not 0 < self.sigma_min < self.sigma_max < math.inf:
            own = f"{network.sigma_min:g} to {network.sigma_max:g}"
            raise UserError(f"noise levels {sigma_min:g} to {sigma_max:g} do not fit the network's own, {own}")
        self.shape = (network.img_channels, network.img_resolution, network.img_resolution)
        self.label_dim = network.label_dim
        if isinstance(network, (EDMPrecond, Precond)):
            self.process = EDM(self.sigma_min, self.sigma_max)
        elif hasattr(network, "process"):
            self.process = network.process
        raw = getattr(network, "model", None)
        self.tells_augmentation = getattr(raw, "map_augment", None) is not None
        self._freeze_unused()
        self.train(self.training)

    @classmethod
    def load(cls, path: Path, **options) -> "EDMDenoiser":
        """From what ``networks.save`` wrote at ``path``; ``options`` as in the constructor."""
        return cls(networks.load(path), **options).eval()

    def train(self, mode: bool = True) -> "EDMDenoiser":
        super().train(mode)
        self.network.train(mode and self.native_training)
        return self

    def requires_grad_(self, requires_grad: bool = True) -> "EDMDenoiser":
        super().requires_grad_(requires_grad)
        self._freeze_unused()
        return self

    def _freeze_unused(self) -> None:
        """Parts that no pass here touches ask for no gradient: distributed training waits for every one that does."""
        raw = getattr(self.network, "model", None)
        unused = [getattr(self.network, "logvar_linear", None)]
        if not self.learns_augmentation:
            unused.append(getattr(raw, "map_augment", None))
        for part in unused:
            if part is not None:
                part.requires_grad_(False)

    def forward(self, x_t: Tensor, sigma: Tensor, condition: Condition) -> Tensor:
        labels = self._labels(x_t, condition)
        told = {}
        if self.tells_augmentation and "augment" in condition:
            told["augment_labels"] = condition["augment"]
        return self.network(x_t, sigma, labels, force_fp32=self.force_fp32, **told).float()

    def encode(self, x_t: Tensor, sigma: Tensor, condition: Condition) -> Tensor:
        """What the U-Net's encoder hands to its decoder, float32 [B, channels, r, r]; the decoder does not run.

        The adversarial terms read it (SiDA, arXiv:2410.14919; DMD2, arXiv:2405.14867).
        """
        last = getattr(self.network, "encoder_end", None)
        if last is None:
            raw = getattr(self.network, "model", None) or self.network.unet
            last = list(raw.enc.values())[-1]
        return output_of(last, lambda: self(x_t, sigma, condition)).float()

    def _labels(self, x_t: Tensor, condition: Condition) -> Tensor | None:
        labels = condition.get("label")
        if labels is None:
            return None
        if self.label_dim == 0:
            raise UserError("this network is unconditional: its condition must not hold a label")
        if not labels.is_floating_point():
            if labels.numel() and not 0 <= int(labels.min()) <= int(labels.max()) < self.label_dim:
                raise UserError(
                    f"labels run from {int(labels.min())} to {int(labels.max())}; classes are 0 to {self.label_dim - 1}"
                )
            labels = F.one_hot(labels, self.label_dim)
        if labels.shape != (len(x_t), self.label_dim):
            raise UserError(f"label must have shape [{len(x_t)}, {self.label_dim}], got {list(labels.shape)}")
        return labels.to(x_t.dtype)

    def null_condition(self, like: Condition) -> Condition:
        """The zero label, which networks trained with label dropout know as "any class"."""
        if self.label_dim == 0:
            raise UserError("this network is unconditional, so there is nothing to guide: use guidance scale 1")
        if not getattr(self.network, "has_null_class", True):
            raise UserError(NULL_CLASS)
        labels = like["label"]
        return {"label": torch.zeros(len(labels), self.label_dim, device=labels.device)}
