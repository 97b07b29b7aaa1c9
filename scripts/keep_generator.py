"""Keep the averaged generator of a finished text_to_image run beside its embedded teacher, for generator.init=NAME.

    python scripts/keep_generator.py runs/text_to_image-TIME assets/toybox/one-step

Writes generator.safetensors and generator.json, which says how it was made.
"""

import argparse
import json
import re
from pathlib import Path

from safetensors.torch import save_file

from scorefield import config as configuration
from scorefield.files import write_atomically, write_json
from scorefield.training import checkpoint
from tasks.text_to_image.settings import TextToImageConfig


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path)
    parser.add_argument("folder", type=Path)
    arguments = parser.parse_args()
    newest = checkpoint.newest_whole(arguments.run / "checkpoints")
    config = configuration.load(TextToImageConfig, arguments.run / "config.yaml")
    if newest is None or newest.name != f"iteration-{config.training.iterations:06d}":
        parser.error(f"{arguments.run} is not trained to its end")
    environment = json.loads((arguments.run / "environment.json").read_text())
    arguments.folder.mkdir(parents=True, exist_ok=True)
    weights = {name: value.contiguous() for name, value in checkpoint.load(newest, ["ema"]).weights["ema"].items()}
    write_atomically(arguments.folder / "generator.safetensors", lambda place: save_file(weights, place))
    record = {
        "init_sigma": config.generator.init_sigma,
        "images_generated": config.training.iterations * config.training.batch,
        "command": re.sub(r" --out \S+", "", environment["command"] or ""),  # a path of this machine tells nobody
        **{key: environment.get(key) for key in ("machine", "git_revision", "seed")},
    }
    write_json(arguments.folder / "generator.json", record)
    print(f"{len(weights)} tensors in {arguments.folder}")


if __name__ == "__main__":
    main()
