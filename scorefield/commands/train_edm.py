"""``scorefield train-edm``: a small class-conditional EDM teacher in pixel space from labelled pictures."""

import argparse
from pathlib import Path

from scorefield.commands.common import add_training_flags, start_training

HELP = "train a class-conditional EDM teacher on Toybox or on labelled pictures"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The verb's own flags."""
    add_training_flags(parser, "EDMTrainConfig", "training.steps=5000")


def execute(arguments: argparse.Namespace) -> int:
    """Run or resume the training; returns the exit status."""
    from scorefield.pretrain.edm import EDMTrainConfig, train_edm

    config, say = start_training(arguments, EDMTrainConfig)
    path: Path = train_edm(config, arguments.out, say)
    print(f"the teacher is in {path}.safetensors and {path.name}.json")
    return 0
