"""Fréchet distance to real pictures (Heusel et al. 2017): FID with FID's own network, else named after its network."""

from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from scorefield.errors import UserError
from scorefield.evaluation import features as networks
from scorefield.evaluation.measure import read_statistics
from scorefield.evaluation.metrics import FeatureStatistics, frechet_distance
from scorefield.evaluation.scores.base import SCORES, Score, in_pieces
from scorefield.images import load_image, to_uint8
from scorefield.pretrain.sources import IMAGE_SUFFIXES

FEATURES, REFERENCE = "evaluation.score_options.fid.features", "evaluation.score_options.fid.reference"
BATCH = 64


def pictures_in(folder: Path) -> list[Path]:
    """All pictures below a folder, by name. Raises UserError when there are fewer than two."""
    found = sorted(path for path in folder.rglob("*") if path.suffix.lower() in IMAGE_SUFFIXES)
    if len(found) < 2:
        raise UserError(f"{REFERENCE}={folder} holds {len(found)} pictures, and a Fréchet distance needs 2 at least")
    return found


@SCORES.register("fid")
class FrechetScore(Score):
    """Squared Fréchet distance of features to those of a reference; biased upwards where pictures are few.

    Args:
        features: the feature network, as ``scorefield.evaluation.features.open_features`` takes it.
        reference: an .npz with mu and sigma of the same network, or a folder of pictures.
    """

    better = "lower"

    def __init__(self, device: str = "cpu", features: str = "", reference: str = ""):
        super().__init__(device)
        self.check(features, reference)
        self.network = networks.open_features(features, device)
        self.key = self.network.distance.lower().replace("-", "_")
        self.title, self.model = self.network.distance, self.network.name
        path = Path(reference)
        if path.is_dir():
            files = pictures_in(path)
            self.reference = self.of_files(files)
            name = f"{len(files)} pictures of {path.resolve().name}"
        else:
            self.reference, name = read_statistics(path, self.network), path.name
        self.definition = f"squared Fréchet distance of features to those of {name}"

    @classmethod
    def check(cls, features: str = "", reference: str = "", **options: Any) -> None:
        if not features:
            raise UserError(
                f"{FEATURES} is missing: give Inception weights of torch-fidelity (.pth) or another feature network"
            )
        networks.check(features)
        if not reference or not Path(reference).exists():
            said = f"{REFERENCE}={reference} does not exist" if reference else f"{REFERENCE} is missing"
            raise UserError(f"{said}: give a folder of pictures, or an .npz with mu and sigma")
        if Path(reference).is_dir():
            pictures_in(Path(reference))

    def of_files(self, files: list[Path]) -> FeatureStatistics:
        """Statistics of pictures of any size, each as it is on disk."""
        found = FeatureStatistics(self.network.identity)
        batch: list[Tensor] = []
        for path in [*files, None]:
            picture = None if path is None else to_uint8(load_image(path))
            if batch and (picture is None or len(batch) == BATCH or picture.shape != batch[0].shape):
                found.update(self.network.read(torch.stack(batch).to(self.device))[0])
                batch = []
            if picture is not None:
                batch.append(picture)
        return found

    def figures(self, images: Tensor, prompts: list[str]) -> dict[str, Any]:
        found = FeatureStatistics(self.network.identity)
        for part, _ in in_pieces(images, prompts, BATCH):
            found.update(self.network.read(part.to(self.device))[0])
        return {self.key: frechet_distance(self.reference, found)}
