"""What a discriminator holds against generated pictures: real ones, drawn like everything else."""

import torch.nn.functional as F
from torch import Tensor

from scorefield.denoiser import Condition
from scorefield.errors import UserError
from scorefield.generators.base import Batch
from scorefield.images import to_float
from scorefield.pretrain.labelled import LabelledImages
from scorefield.prompts.sources import Conditions
from scorefield.random import Draws

STREAM = "adversarial-rows"  # of the random numbers that say which ones


class Real:
    """Base of real data.

    Attributes:
        shape: of a sample in the scores' space.
    """

    shape: tuple[int, ...]

    def draw(self, draws: Draws) -> dict[str, Tensor]:
        """What ``take`` needs to know of a batch, under names that begin with adversarial."""
        raise NotImplementedError

    def take(self, batch: Batch) -> tuple[Tensor, Condition]:
        """(samples float32 [B, *shape], what the online score is told of them)."""
        raise NotImplementedError


class LabelledReal(Real):
    """Pictures with labels, which are told where the scores have classes.

    Args:
        classes: of the scores, 0 for none.

    Raises:
        UserError: pictures of another shape or with other classes.
    """

    def __init__(self, pictures: LabelledImages, shape: tuple[int, ...], classes: int):
        if pictures.images.shape[1:] != shape:
            raise UserError(f"terms.adversarial.data has pictures {list(pictures.images.shape[1:])}, not {list(shape)}")
        if classes and pictures.classes != classes:
            raise UserError(f"terms.adversarial.data has {pictures.classes} classes, the teacher {classes}")
        self.pictures, self.shape, self.classes = pictures, shape, classes

    def draw(self, draws: Draws) -> dict[str, Tensor]:
        return {"adversarial_rows": draws.integers(STREAM, len(self.pictures), 1)[:, 0]}

    def take(self, batch: Batch) -> tuple[Tensor, Condition]:
        rows = batch.latents["adversarial_rows"]
        x0 = to_float(self.pictures.images[rows])
        if not self.classes:
            return x0, {}
        return x0, {"label": F.one_hot(self.pictures.labels[rows], self.classes).float()}


class CaptionedReal(Real):
    """Latents of pictures with the embeddings of their captions.

    Args:
        source: draws ``latents`` [B, *shape] beside the keys of a condition.
    """

    def __init__(self, source: Conditions, shape: tuple[int, ...]):
        self.source, self.shape = source, shape

    def draw(self, draws: Draws) -> dict[str, Tensor]:
        return {f"adversarial_real_{key}": value for key, value in self.source(draws)[0].items()}

    def take(self, batch: Batch) -> tuple[Tensor, Condition]:
        start = "adversarial_real_"
        told = {key.removeprefix(start): value for key, value in batch.latents.items() if key.startswith(start)}
        return told.pop("latents"), told
