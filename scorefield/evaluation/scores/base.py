"""What a score is: a named model's opinion of pictures, one number a picture or one for all of them."""

from typing import Any, ClassVar

import torch
from torch import Tensor

from scorefield.registry import Registry

NORMAL = 1.96  # standard errors either side of a mean that hold 95 %


class Score:
    """A figure of pictures and their prompts, by a model that is read from disk.

    A subclass is one file here, or in an installed package's entry point ``scorefield.scores``; its options are the
    keyword arguments of ``__init__``, set by ``evaluation.score_options.NAME``.

    Attributes:
        key: of the figure in the summary. title: in tables. definition: what the number is, in words.
        model: what reads the pictures, named beside each figure. better: "higher" or "lower".
    """

    key: str = ""
    title: str = ""
    definition: str = ""
    better: ClassVar[str] = "higher"
    model: str = ""

    def __init__(self, device: str = "cpu"):
        self.device = device

    @classmethod
    def check(cls, **options: Any) -> None:
        """Raise UserError for options under which ``__init__`` would find no weights; nothing heavy is loaded."""

    def figures(self, images: Tensor, prompts: list[str]) -> dict[str, Any]:
        """{key: number, …} of uint8 pictures [N, 3, H, W] on any device, picture n made of prompt n."""
        raise NotImplementedError

    def between(self, made: dict[str, Tensor], prompts: list[str]) -> dict[str, dict[str, Any]]:
        """Figures of each set of pictures, as ``figures``; all sets are of the same prompts.

        A score that compares pictures of one prompt with each other extends this.
        """
        return {who: self.figures(images, prompts) for who, images in made.items()}


class PictureScore(Score):
    """A score of single pictures; its figure is their mean, with a 95 % interval of the mean."""

    def read(self, images: Tensor, prompts: list[str]) -> Tensor:
        """float32 [N] on the CPU, of uint8 pictures [N, 3, H, W] and their prompts."""
        raise NotImplementedError

    def figures(self, images: Tensor, prompts: list[str]) -> dict[str, Any]:
        return summary(self.key, self.read(images, prompts))


def summary(key: str, values: Tensor) -> dict[str, Any]:
    """{key: mean of values [N], "key_interval": [low, high]}; the interval is left out for a single value."""
    values = values.double()
    found: dict[str, Any] = {key: values.mean().item()}
    if len(values) > 1:
        half = NORMAL * (values.std() / len(values) ** 0.5).item()
        found[f"{key}_interval"] = [found[key] - half, found[key] + half]
    return found


def in_pieces(images: Tensor, prompts: list[str], size: int):
    """(images, prompts) of ``size`` rows at a time."""
    for start in range(0, len(prompts), size):
        yield images[start : start + size], prompts[start : start + size]


def unit(rows: Tensor) -> Tensor:
    """Rows [N, D] of length one, as float32; a row of zeros stays."""
    return torch.nn.functional.normalize(rows.float(), dim=-1, eps=1e-12)


SCORES: Registry[type[Score]] = Registry(
    "score",
    group="scorefield.scores",
    package="scorefield.evaluation.scores",
    wanted=(
        "a subclass of scorefield.evaluation.scores.Score",
        lambda part: isinstance(part, type) and issubclass(part, Score),
    ),
)
