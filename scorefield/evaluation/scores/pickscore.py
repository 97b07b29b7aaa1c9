"""PickScore: which picture of a prompt people would pick (Kirstain et al. 2023, arXiv:2305.01569)."""

from typing import Any

import torch
from torch import Tensor

from scorefield.evaluation.scores import reading
from scorefield.evaluation.scores.base import SCORES, PictureScore, summary
from scorefield.evaluation.scores.clip_model import VIT_H, Clip

PATH = "evaluation.score_options.pickscore.path"
PROCESSOR = "evaluation.score_options.pickscore.processor"
MODEL = "yuvalkirstain/PickScore_v1"
CANDIDATES = ("teacher", "student")  # of these a picture is picked


def processor_of(path: str, processor: str) -> str:
    """Where tokenizer and preprocessing come from; downloaded only where the model is."""
    if processor or reading.holds(path, reading.PROCESSOR):
        return processor or path
    return f"{reading.HUB}{VIT_H}" if reading.where(path)[1] else VIT_H


@SCORES.register("pickscore")
class PickScore(PictureScore):
    """logit_scale cos(picture, prompt) by a CLIP-H that was tuned on people's picks, about 15 to 25.

    Between teacher and student of one prompt the softmax of the two numbers is the probability that people pick the
    one (the paper's equation 1): its mean over prompts is ``pickscore_probability``.

    Args:
        path: PickScore_v1 as a ``CLIPModel`` folder, a hub id in the cache, or "hub:ID" to download it.
        processor: where tokenizer and preprocessing lie; "" for ``path`` if it holds them, else for LAION's CLIP-H,
            which it was made from.
    """

    title = "PickScore"
    definition = "mean of logit_scale cos(picture, prompt); probability: softmax between teacher and student"

    def __init__(self, device: str = "cpu", path: str = MODEL, processor: str = ""):
        super().__init__(device)
        self.key = "pickscore"
        self.clip = Clip(path, device, processor_of(path, processor))
        self.model = self.clip.name

    @classmethod
    def check(cls, path: str = MODEL, processor: str = "", **options: Any) -> None:
        reading.check_folder(PATH, path)
        reading.check_folder(PROCESSOR, processor_of(path, processor), reading.PROCESSOR)

    def read(self, images: Tensor, prompts: list[str]) -> Tensor:
        return self.clip.logit_scale * self.clip.cosines(images, prompts)

    def between(self, made: dict[str, Tensor], prompts: list[str]) -> dict[str, dict[str, Any]]:
        values = {who: self.read(images, prompts) for who, images in made.items()}
        found = {who: summary(self.key, value) for who, value in values.items()}
        picked = [who for who in CANDIDATES if who in values]
        if len(picked) == len(CANDIDATES):
            chance = torch.stack([values[who].double() for who in picked]).softmax(0)
            for who, row in zip(picked, chance, strict=True):
                found[who] |= summary(f"{self.key}_probability", row)
        return found
