"""``scorefield train-teacher``: make a small teacher pipeline from Toybox or a folder of captioned pictures."""

import argparse
import os
from pathlib import Path

from scorefield import config as configuration
from scorefield.files import write_text

HELP = "train a small diffusion teacher (a diffusers PixArt folder) on Toybox or on captioned pictures"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The verb's own flags."""
    parser.add_argument("--data", help='"toybox" or a folder of captioned pictures')
    parser.add_argument("--config", type=Path, help="YAML file with the keys of PretrainConfig")
    parser.add_argument("--out", type=Path, required=True, help="folder for the pipeline and the resumable state")
    parser.add_argument(
        "overrides", nargs="*", default=[], metavar="key=value", help="for example transformer.steps=5000"
    )


def execute(arguments: argparse.Namespace) -> int:
    """Run or resume the training; returns the exit status."""
    from scorefield.pretrain.build import PretrainConfig, train_teacher

    overrides = list(arguments.overrides) + ([f"data={arguments.data}"] if arguments.data else [])
    config = configuration.load(PretrainConfig, arguments.config, overrides)
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    write_text(arguments.out / "config.yaml", configuration.to_yaml(config))
    with (arguments.out / "log.txt").open("a") as log:

        def say(text: str) -> None:
            print(text, flush=True)
            print(text, file=log, flush=True)

        folder = train_teacher(config, arguments.out, say)
    if config.until == "transformer":
        print(f"the teacher is in {folder}; use it with teacher.path={folder}")
    return 0
