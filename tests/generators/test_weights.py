"""Saved weights go into the generator that they are of, or are refused in words that say whose they are."""

import pytest
import torch
from safetensors.torch import save_file

from scorefield.errors import UserError
from scorefield.generators.one_step import OneStepGenerator
from scorefield.generators.weights import load_generator
from scorefield.teachers import shared
from tests.teachers import families


def generator(name, folder, rank):
    """A one-step generator; ``rank`` 0 is a full copy."""
    teacher = families.teacher(name, folder / name if (folder / name).exists() else families.write(name, folder / name))
    denoiser = teacher.denoiser()
    student = shared.share(denoiser, {"generator": shared.Adapter(rank)})[1]["generator"] if rank else denoiser
    return OneStepGenerator(student, teacher.latent_shape)


def test_a_lora_of_another_base_is_refused(tmp_path):
    saved = tmp_path / "saved.safetensors"
    own = generator("sd_eps", tmp_path, 2)
    save_file({name: torch.full_like(p, 0.5) for name, p in own.named_parameters()}, saved)
    load_generator(generator("sd_eps", tmp_path, 2), saved)
    for name, rank, words in [
        ("pixart_sigma", 2, "the saved LoRA is of another base or other layers: .* is on one side only"),
        ("sdxl", 2, r"the saved LoRA is of another base or other layers: .* is \(2, 16\), not \(2, 40\)"),
        ("sd_eps", 3, r"another base or other layers: .* is \(.*2.*\), not \(.*3.*\)"),
        ("sd_eps", 0, "the saved generator is of generator.kind=lora, and this one of generator.kind=full"),
    ]:
        other = generator(name, tmp_path, rank)
        before = [p.clone() for p in other.parameters()]
        with pytest.raises(UserError, match=words):
            load_generator(other, saved)
        assert all(torch.equal(a, b) for a, b in zip(before, other.parameters(), strict=True))  # nothing half-loaded
