"""What a refinement did to the pictures of the embedded GAN, in plain numbers: the list in docs/results/gan.md.

    python scripts/gan_statistics.py runs/gan_refine-TIME …

A row for real pictures, one for the GAN as it is embedded, one a run: shares of the four grounds, spread of all values,
and the finest scale (what a 3x3 mean takes away, root mean square), of 3,000 pictures.
"""

import argparse
from pathlib import Path

import torch
import torch.nn.functional as F
from safetensors.torch import load_file
from torch import Tensor, nn

from scorefield.data import toybox
from scorefield.images import to_float, to_uint8
from scorefield.importer.rehearsal import open_located
from scorefield.pretrain import gan, labelled

COUNT, CLASSES = 3000, 14
GROUNDS = {"navy": (-1.0, -0.5), "grey": (-0.5, 0.25), "beige": (0.25, 0.75), "white": (0.75, 1.1)}
COLUMNS = (*GROUNDS, "spread", "finest")


def row(pictures: Tensor) -> list[float]:
    """The figures of pictures [B, 3, 32, 32] in [-1, 1]; grounds are told by the mean of the upper corners."""
    corners = torch.stack([pictures[:, :, 0, 0], pictures[:, :, 0, -1], pictures[:, :, 1, 1], pictures[:, :, 1, -2]])
    ground = corners.mean((0, 2))
    shares = [((ground >= low) & (ground < high)).float().mean().item() for low, high in GROUNDS.values()]
    fine = pictures - F.avg_pool2d(pictures, 3, 1, 1)
    return [*shares, pictures.std().item(), fine.square().mean().sqrt().item()]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", type=Path, nargs="*", help="run folders of gan_refine, from the embedded GAN")
    arguments = parser.parse_args()
    labels = torch.randint(CLASSES, (COUNT,), generator=torch.Generator().manual_seed(2))

    def show(name: str, pictures: Tensor) -> None:
        print(f"| {name} | " + " | ".join(f"{value:.3f}" for value in row(pictures)) + " |", flush=True)

    def drawn(network: nn.Module) -> Tensor:
        return to_float(to_uint8(gan.sampler(network.eval(), "cpu", 256)(labels, 3)))

    print("| pictures | " + " | ".join(COLUMNS) + " |\n|---|" + "---:|" * len(COLUMNS))
    real = labelled.read("toybox", count=COUNT, seed=toybox.TEST_SEED, resolution=32, label="object")
    show("real", to_float(real.images))
    network = open_located("toybox32/gan")
    show("embedded", drawn(network))
    for run in arguments.runs:
        newest = sorted((run / "checkpoints").glob("iteration-*/ema.safetensors"))[-1]
        weights = {name.removeprefix("network."): value for name, value in load_file(newest).items()}
        network.load_state_dict(network.state_dict() | weights)
        show(run.name, drawn(network))


if __name__ == "__main__":
    main()
