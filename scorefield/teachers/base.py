"""What a task with prompts asks of a teacher, and the registry of teachers."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from scorefield.denoiser import Condition, Denoiser
from scorefield.registry import Registry

TEACHERS: Registry[type["Teacher"]] = Registry(
    "teacher",
    group="scorefield.teachers",
    package="scorefield.teachers",
    wanted=(
        "a subclass of scorefield.teachers.base.Teacher",
        lambda part: isinstance(part, type) and issubclass(part, Teacher),
    ),
)


class Teacher:
    """A pretrained model with what belongs to it: text encoder, decoder, many-step sampler.

    A subclass under ``@TEACHERS.register("name")`` is what ``teacher.name`` names; it is made of ``teacher.path``,
    device, ``teacher.dtype`` and ``teacher.max_tokens`` and of the keys of ``teacher.options``, which its ``__init__``
    takes by name. Nothing heavy is loaded before it is needed.

    Attributes:
        latent_shape: of one sample in the denoiser's space, (channels, height, width).
        sigma_min, sigma_max: the finite range of noise levels that it was made for.
        process: its noise process (``scorefield.noise``), None for none; noise laws in native timesteps need one.
        prediction: what the network predicts natively; shown only.
    """

    latent_shape: tuple[int, int, int]
    sigma_min: float
    sigma_max: float
    process: Any = None
    prediction: str = "x0"

    def __init__(self, path: str, device: str = "cpu", dtype: torch.dtype = torch.float32, max_tokens: int = 64):
        self.path, self.device, self.dtype, self.max_tokens = path, device, dtype, max_tokens

    def denoiser(self) -> Denoiser:
        """A fresh copy of the network on ``device``, in evaluation mode; student and online score start as one.

        It must hold trainable parameters, and an empty condition where guidance is to be used.
        """
        raise NotImplementedError

    def layers(self) -> list[str]:
        """Names of the layers of ``denoiser`` that LoRA can adapt, known without its weights; [] where they are not."""
        return []

    def encode(self, prompts: Sequence[str]) -> Condition:
        """The condition of some prompts: ``text`` [N, L, C] float32 and ``text_mask`` [N, L], 1 = valid."""
        raise NotImplementedError

    def text_key(self) -> list[Any]:
        """All that ``encode`` depends on beside the prompt: embeddings on disk are used again only where it agrees."""
        return [self.path, self.max_tokens]

    def decode(self, latents: Tensor) -> Tensor:
        """Images [N, 3, H, W] in [-1, 1] of latents [N, *latent_shape]."""
        return latents.float().clamp(-1, 1)

    def decode_with_graph(self, latents: Tensor) -> Tensor:
        """``decode`` with gradients to the latents."""
        return latents.float().clamp(-1, 1)

    def encode_images(self, images: Tensor) -> Tensor:
        """Latents [N, *latent_shape] of images [N, 3, H, W] in [-1, 1], differentiable; the inverse of ``decode``."""
        return images.float()

    def sample(
        self,
        denoiser: Denoiser,
        condition: Condition,
        z: Tensor,
        *,
        steps: int,
        guidance_scale: float,
        batch: int = 128,
    ) -> Tensor:
        """Latents in ``steps`` steps from start noise ``z`` ~ N(0, I), one per row of ``condition``; scale 1 = off."""
        from scorefield.teachers.sampling import sample_in_sigma

        return sample_in_sigma(denoiser, condition, z, steps=steps, guidance_scale=guidance_scale, batch=batch)

    def nearest_sigma(self, sigma: float) -> float:
        """The noise level next to ``sigma`` that the network has a timestep for."""
        return sigma

    def cut(self, prompt: str) -> str:
        """The part of ``prompt`` that is not seen; "" when all of it is."""
        return ""

    def unread(self, prompt: str) -> list[str]:
        """Words of ``prompt`` with something in them that is outside of the tokenizer's vocabulary."""
        return []

    def rest_decoder(self) -> None:
        """Take what pictures are decoded and encoded with off the device; it comes back when it is asked for."""

    def release_text_encoder(self) -> None:
        """Give memory back; ``encode`` may be called again later."""
