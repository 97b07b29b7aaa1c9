"""Keep the averaged generator of a (perhaps unfinished) train-gan run as the GAN that gan_refine starts from.

    python scripts/keep_gan.py runs/gan32 assets/toybox32/gan --hardware "one CPU core, beside other work"

Writes gan.safetensors and gan.json from the run's state file, adversaries/ with the generator that it is the average of
and the discriminator, and gan-figures.json: what it was trained with, for how long, and its figures against held-out
pictures. --state names another state file of the same training.
"""

import argparse
from pathlib import Path

import torch

from scorefield import config as configuration
from scorefield.data import toybox
from scorefield.evaluation.judge import Judge
from scorefield.files import write_json
from scorefield.images import to_float, to_uint8
from scorefield.pretrain import gan, labelled, labelled_run


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path)
    parser.add_argument("target", type=Path, help="path without suffix")
    parser.add_argument("--state", type=Path, help="RUN/state-gan.pt if left out")
    parser.add_argument("--judge", type=Path, default=Path("assets/toybox32/judge"))
    parser.add_argument("--samples", type=int, default=10_000)
    parser.add_argument("--hardware", required=True, help="what it was trained on, in words")
    arguments = parser.parse_args()
    config = configuration.load(gan.GANTrainConfig, arguments.run / "config.yaml")
    state = torch.load(arguments.state or arguments.run / "state-gan.pt", map_location="cpu", weights_only=True)
    held_out = labelled.read(
        config.data, count=config.held_out, seed=toybox.TEST_SEED, resolution=config.resolution, label=config.label
    )
    parts = state.get("training", state)
    network, _ = gan.make_networks(config.network, config.resolution, held_out.classes)
    for name, trained in zip(
        ("G", "D"), gan.make_networks(config.network, config.resolution, held_out.classes), strict=True
    ):
        trained.load_state_dict(parts[name])
        labelled_run.store(trained, arguments.target.parent / "adversaries" / name, config.storage)
    network.load_state_dict(parts["G_ema"])
    saved = labelled_run.store(network, arguments.target, config.storage)

    judge = Judge.load(arguments.judge, "cpu")
    reference = torch.cat([judge.read(to_float(part)).features for part in held_out.images.split(1024)])
    labels = torch.randint(held_out.classes, (arguments.samples,), generator=torch.Generator().manual_seed(2))
    drawn = to_uint8(gan.sampler(saved, "cpu", 256)(labels, config.seed + 3))
    found = labelled_run.figures(judge, drawn, labels, reference, held_out.truth)
    steps = state["step"]
    facts = {
        "command": f"scorefield train-gan --config configs/gan/toybox32.yaml training.steps={steps}",
        "hardware": arguments.hardware,
        "seed": config.seed,
        "parameters": sum(p.numel() for p in saved.parameters()),
        "images": steps * config.training.batch,
        "seconds": round(state["seconds"]),
        "classes": held_out.names,
        "samples": arguments.samples,
        "held_out": len(held_out),
        "figures": {"gan": found},
    }
    write_json(arguments.target.with_name(f"{arguments.target.name}-figures.json"), facts)
    print(", ".join(f"{key} {value:.4f}" for key, value in found.items()))


if __name__ == "__main__":
    main()
