"""The configured terms around a generator."""

from scorefield import noise_laws
from scorefield.denoiser import Denoiser
from scorefield.generators.base import Generator
from scorefield.generators.terms.settings import TermsConfig
from scorefield.generators.terms.wrapper import Term, WithTerms
from scorefield.teachers.edm import EDMDenoiser
from scorefield.training.settings import TrainingConfig


def build_terms(
    settings: TermsConfig, generator: Generator, online: Denoiser, training: TrainingConfig, device: str
) -> Generator:
    """``generator`` with the terms of ``settings``, as it is where there are none.

    Args:
        settings: checked. generator: untrained, an anchor's start. online: a discriminator's place. training: its
            generator_noise is the discriminator's, too, so that ratios are known where they are asked for.
    """
    terms: list[Term] = []
    if settings.discriminates and isinstance(online, EDMDenoiser):
        from scorefield.generators.terms.adversarial import AdversarialTerm
        from scorefield.generators.terms.real import LabelledReal
        from scorefield.pretrain import labelled

        found = settings.adversarial
        side = online.shape[-1]
        pictures = labelled.read(found.data, resolution=side, count=found.images, label=found.label, device=device)
        real = LabelledReal(pictures, online.shape, online.label_dim)
        law = noise_laws.build(training.generator_noise, online)
        terms.append(AdversarialTerm(found, settings.divergence, online.to(device), real, law, training.precision))
    if settings.anchor.weight:
        from scorefield.generators.terms.anchor import AnchorTerm, build_distance

        distance = build_distance(settings.anchor, device)
        terms.append(AnchorTerm(settings.anchor.weight, generator.to(device), distance))
    return WithTerms(generator, terms) if terms else generator
