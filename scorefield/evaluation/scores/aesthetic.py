"""Aesthetic score: a head on CLIP's picture vector (LAION's aesthetic predictors, linear and MLP)."""

import re
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from scorefield.errors import UserError
from scorefield.evaluation.scores import reading
from scorefield.evaluation.scores.base import SCORES, PictureScore
from scorefield.evaluation.scores.clip_model import VIT_L, open_clip_model

PATH, HEAD = "evaluation.score_options.aesthetic.path", "evaluation.score_options.aesthetic.head"
WHAT = "a head's weights, such as sac+logos+ava1-l14-linearMSE.pth or sa_0_4_vit_l_14_linear.pth"


def head_of(state: dict[str, Tensor], path: Path | str) -> nn.Module:
    """The network whose weights these are.

    Known are LAION-AI/aesthetic-predictor's one linear layer (weight, bias) and improved-aesthetic-predictor's five
    (layers.N.weight): dropout lies between them, and in the files trained with it a ReLU after each, which the
    numbers N tell (0, 2, 4, 6, 7 without and 0, 3, 6, 9, 11 with it).

    Raises UserError for anything else.
    """
    if set(state) == {"weight", "bias"}:
        return reading.fitted(nn.Linear(state["weight"].shape[1], state["weight"].shape[0]), state, path)
    places = sorted(int(found[1]) for key in state if (found := re.fullmatch(r"layers\.(\d+)\.weight", key)))
    layouts = {(0, 2, 4, 6, 7): False, (0, 3, 6, 9, 11): True}
    if tuple(places) not in layouts:
        raise UserError(f"{path} is no aesthetic head that is known: give {WHAT}")
    layers: list[nn.Module] = []
    for place in places:
        while len(layers) < place:  # what lies between two linear layers has no weights
            between = layouts[tuple(places)] and isinstance(layers[-1], nn.Linear)
            layers.append(nn.ReLU() if between else nn.Identity())
        weight = state[f"layers.{place}.weight"]
        layers.append(nn.Linear(weight.shape[1], weight.shape[0]))
    head = nn.Sequential(*layers)
    return reading.fitted(head, {key.removeprefix("layers."): value for key, value in state.items()}, path)


@SCORES.register("aesthetic")
class AestheticScore(PictureScore):
    """How pleasing people would find a picture, about 1 to 10; the prompt plays no part.

    Args:
        path: the ``CLIPModel`` that the head was trained on (OpenAI's ViT-L/14): a folder, a hub id in the cache, or
            "hub:ID" to download it.
        head: the head's weights, a file.
    """

    title = "aesthetic score"
    definition = "mean of the head's rating of the picture, about 1 to 10"

    def __init__(self, device: str = "cpu", path: str = VIT_L, head: str = ""):
        super().__init__(device)
        self.check(path, head)
        self.key = "aesthetic_score"
        self.clip = open_clip_model(path, device)
        self.head = head_of(reading.state_of(Path(head)), head).to(device)
        takes = next(self.head.parameters()).shape[1]
        if takes != self.clip.dimensions:
            raise UserError(f"{head} reads {takes} features, and {self.clip.name} gives {self.clip.dimensions}")
        self.model = f"{reading.file_name(head)} on {self.clip.name}"

    @classmethod
    def check(cls, path: str = VIT_L, head: str = "", **options: Any) -> None:
        reading.check_folder(PATH, path)
        reading.check_file(HEAD, head, WHAT)

    @torch.no_grad()
    def read(self, images: Tensor, prompts: list[str]) -> Tensor:
        return self.head(self.clip.images(images).to(self.device))[:, 0].cpu()
