"""CIFAR-10 as the .npz files that train-edm and train-gan read, from a lent copy that lies beside the repository.

    python scripts/cifar10.py --out data            # data/cifar10.npz and data/cifar10-test.npz

The copy's own reader (tools/lent_data.py beside its data folder) is imported from --lent. The pictures are a JPEG copy
at quality 75, not the lossless original: say so beside every figure. Nothing made from them belongs into the
repository.
"""

import argparse
import importlib.util
from pathlib import Path

import numpy as np

from scorefield.errors import UserError


def reader(lent: Path):
    """The module ``lent``/tools/lent_data.py; raises UserError when it is not there."""
    path = lent / "tools" / "lent_data.py"
    spec = importlib.util.spec_from_file_location("lent_data", path) if path.is_file() else None
    if spec is None or spec.loader is None:
        raise UserError(f"{path} is not there: give the folder of the lent data with --lent")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--lent", type=Path, default=Path("../shared"), help="folder with data/ and tools/")
    parser.add_argument("--out", type=Path, default=Path("data"))
    arguments = parser.parse_args()
    try:
        source = reader(arguments.lent)
    except UserError as error:
        parser.error(str(error))
    arguments.out.mkdir(parents=True, exist_ok=True)
    for split, name in (("train", "cifar10.npz"), ("test", "cifar10-test.npz")):
        images, labels, classes = source.cifar10(split)
        np.savez(arguments.out / name, images=images, labels=labels, classes=np.array(classes))
        print(f"{len(images)} pictures of {len(classes)} classes in {arguments.out / name}")


if __name__ == "__main__":
    main()
