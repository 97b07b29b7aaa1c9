"""CLIP score: how well pictures match their prompts (Hessel et al. 2021, arXiv:2104.08718; here times 100)."""

from typing import Any

from torch import Tensor

from scorefield.evaluation.scores import reading
from scorefield.evaluation.scores.base import SCORES, PictureScore
from scorefield.evaluation.scores.clip_model import VIT_L, open_clip_model

PATH = "evaluation.score_options.clip.path"


@SCORES.register("clip")
class ClipScore(PictureScore):
    """100 max(cos(picture, prompt), 0), as torchmetrics and most tables state it; Hessel's own is 2.5 max(cos, 0).

    Args:
        path: a ``CLIPModel`` folder, a hub id in the cache, or "hub:ID" to download it.
    """

    title = "CLIP score"
    definition = "mean of 100 max(cos(picture, prompt), 0), 0 to 100"

    def __init__(self, device: str = "cpu", path: str = VIT_L):
        super().__init__(device)
        self.key = "clip_score"
        self.clip = open_clip_model(path, device)
        self.model = self.clip.name

    @classmethod
    def check(cls, path: str = VIT_L, **options: Any) -> None:
        reading.check_folder(PATH, path)

    def read(self, images: Tensor, prompts: list[str]) -> Tensor:
        return 100 * self.clip.cosines(images, prompts).clamp_min(0)
