"""Real pictures for the optional adversarial term, as latents of the teacher's autoencoder with their captions."""

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import torch
from torch import Tensor

from scorefield import noise_laws
from scorefield.data.captioned import Captioned, open_captioned
from scorefield.denoiser import Condition, Denoiser
from scorefield.errors import UserError
from scorefield.generators.base import Generator
from scorefield.generators.terms import WithTerms
from scorefield.generators.terms.adversarial import AdversarialTerm
from scorefield.generators.terms.real import STREAM, CaptionedReal
from scorefield.images import to_float
from scorefield.prompts import fingerprint, shards, sources
from scorefield.teachers.base import Teacher
from scorefield.teachers.pipeline import PipelineTeacher

from .settings import TextToImageConfig


def open_pictures(config: TextToImageConfig, teacher: Teacher) -> Captioned:
    """The real pictures of ``terms.adversarial``, of the size that the teacher draws."""
    settings = config.terms.adversarial
    side = teacher.latent_shape[-1] * (teacher.compression() if isinstance(teacher, PipelineTeacher) else 1)
    return open_captioned(settings.data, side, settings.images, settings.image, settings.caption)


def open_real(
    config: TextToImageConfig,
    teacher: Teacher,
    pictures: Captioned,
    cache: Path,
    device: str,
    thread: ThreadPoolExecutor,
) -> sources.Conditions:
    """Latents and embeddings of drawn pictures: kept in shards, or made ahead of every batch on ``thread``.

    Raises UserError for shards of another encoder, a broken picture, and latents of another shape than the teacher's.
    """
    settings, dtype, count = config.terms.adversarial, getattr(torch, config.stored), len(pictures.items)

    @torch.no_grad()
    def encode(rows: list[int]) -> Condition:
        images, captions = pictures.at(rows)
        latents = teacher.encode_images(to_float(images.to(device)))
        if latents.shape[1:] != torch.Size(teacher.latent_shape):
            raise UserError(f"latents of real pictures are {list(latents.shape[1:])}, not {list(teacher.latent_shape)}")
        return {"latents": latents.float(), **teacher.encode(captions)}

    if settings.latents == "streamed":
        longest = sources.most_tokens(teacher, pictures.captions([0])[0])

        def read(rows: list[int]) -> dict[str, Tensor]:
            return sources.rounded(encode(rows), dtype, longest)

        return sources.Ahead(count, read, device, config.training.iterations, STREAM, thread)
    key = [*teacher.text_key()]
    if isinstance(teacher, PipelineTeacher) and (vae := teacher.part("vae")) is not None:
        key.append(f"{type(vae).__name__} {fingerprint.of_module(vae)}")
    kept = shards.open_shards(
        Path(settings.cache) if settings.cache else cache / "real",
        pictures.items,
        lambda start, stop: encode(list(range(start, stop))),
        key,
        dtype,
        own=not settings.cache,
        setting="terms.adversarial.cache",
        what="real pictures",
    )
    return sources.from_shards(kept, device, config.training.iterations, config.prompts.resident_gb * 1e9, STREAM)


def with_terms(
    config: TextToImageConfig, teacher: Teacher, generator: Generator, online: Denoiser, source: sources.Conditions
) -> Generator:
    """``generator`` with the adversarial term of the configuration."""
    law = noise_laws.build(config.training.generator_noise, teacher)
    real = CaptionedReal(source, teacher.latent_shape)
    terms = config.terms
    term = AdversarialTerm(terms.adversarial, terms.divergence, online, real, law, config.training.precision)
    return WithTerms(generator, [term])
