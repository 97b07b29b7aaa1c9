"""``scorefield train-gan``: a small class-conditional StyleGAN2 from labelled pictures, to be refined later."""

import argparse
from pathlib import Path

from scorefield.commands.common import add_training_flags, start_training

HELP = "train a class-conditional StyleGAN2 on Toybox or on labelled pictures"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The verb's own flags."""
    add_training_flags(parser, "GANTrainConfig", "training.minutes=5")


def execute(arguments: argparse.Namespace) -> int:
    """Run or resume the training; returns the exit status."""
    from scorefield.pretrain.gan import GANTrainConfig, train_gan

    config, say = start_training(arguments, GANTrainConfig)
    path: Path = train_gan(config, arguments.out, say)
    print(f"the generator is in {path}.safetensors and {path.name}.json, with G and D beside it")
    return 0
