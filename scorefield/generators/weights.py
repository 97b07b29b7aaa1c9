"""Put saved weights into a generator."""

from pathlib import Path

import torch
from torch import Tensor

from scorefield.errors import UserError
from scorefield.generators.base import Generator
from scorefield.training import checkpoint


def apply_weights(generator: Generator, weights: dict[str, Tensor]) -> None:
    """Put averaged weights into a generator, all or none; raises UserError when they belong to another one."""
    own = {name: p for name, p in generator.named_parameters()}
    saved_kind, kind = ("lora" if any("lora_" in name for name in names) else "full" for names in (weights, own))
    if saved_kind != kind:
        raise UserError(f"the saved generator is of generator.kind={saved_kind}, and this one of generator.kind={kind}")
    what = (
        "saved LoRA is of another base or other layers"
        if kind == "lora"
        else "saved generator does not fit this teacher"
    )
    if missing := sorted(set(own) ^ set(weights)):
        raise UserError(f"the {what}: {missing[0]} is on one side only")
    for name, value in weights.items():
        if own[name].shape != value.shape:
            raise UserError(f"the {what}: {name} is {tuple(value.shape)}, not {tuple(own[name].shape)}")
    with torch.no_grad():
        for name, value in weights.items():
            own[name].copy_(value)


def saved_weights(source: Path) -> Path:
    """The checkpoint folder or .safetensors file that ``source`` (a run, a checkpoint, a file) means.

    Raises UserError for what holds no generator, before anything heavy is loaded.
    """
    from safetensors import safe_open

    if source.is_dir():
        folder = source if (source / "checkpoint.json").exists() else checkpoint.newest_whole(source / "checkpoints")
        if folder is None:
            raise UserError(f"generator.init: {source} holds no whole checkpoint")
        return folder
    if not source.exists():
        raise UserError(f'generator.init "{source}" is neither "teacher" nor a path that exists')
    try:
        with safe_open(source, "pt"):
            return source
    except Exception as error:
        raise UserError(f"cannot read generator weights from {source}: {error}") from error


def load_generator(generator: Generator, source: Path) -> None:
    """Start from a saved generator: a run folder, a checkpoint folder, or a .safetensors file."""
    from safetensors.torch import load_file

    place = saved_weights(source)
    weights = checkpoint.load(place, ["ema"]).weights["ema"] if place.is_dir() else load_file(place)
    apply_weights(generator, weights)
