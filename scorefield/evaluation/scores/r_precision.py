"""CLIP R-precision: whether a picture finds its own prompt among others (Park et al. 2021; Jain et al. 2022 for 3D)."""

from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from scorefield.errors import UserError
from scorefield.evaluation.scores import reading
from scorefield.evaluation.scores.base import SCORES, PictureScore
from scorefield.evaluation.scores.clip_model import VIT_L, open_clip_model

PATH = "evaluation.score_options.r_precision.path"
PROMPTS = "evaluation.score_options.r_precision.prompts"


def read_pool(path: str) -> list[str]:
    """Prompts of a text file, one a line, without repetitions. Raises UserError for a file that cannot be read."""
    reading.check_file(PROMPTS, path, "a text file with one prompt a line")
    try:
        lines = Path(path).read_text(encoding="utf-8").splitlines()
    except UnicodeDecodeError as error:
        raise UserError(f"{PROMPTS}={path} is not UTF-8 text: {error.reason} at byte {error.start}") from error
    found = list(dict.fromkeys(text for line in lines if (text := line.strip())))
    if not found:
        raise UserError(f"{PROMPTS}={path} holds no prompt")
    return found


@SCORES.register("r_precision")
class RPrecision(PictureScore):
    """Share of pictures to which no other prompt of the pool is as near, in CLIP's space, as their own.

    It depends on the pool: name it beside the figure, and compare figures of one pool only.

    Args:
        path: a ``CLIPModel`` folder, a hub id in the cache, or "hub:ID" to download it.
        prompts: the pool, a text file with one prompt a line; the prompts that are measured are always in it. Without
            a file they are all of it.
    """

    title = "CLIP R-precision"

    def __init__(self, device: str = "cpu", path: str = VIT_L, prompts: str = ""):
        super().__init__(device)
        self.key = "clip_r_precision"
        self.pool = read_pool(prompts) if prompts else []
        self.clip = open_clip_model(path, device)
        self.model = self.clip.name
        among = f"{len(self.pool)} prompts of {Path(prompts).name}" if prompts else "the prompts that are measured"
        self.definition = f"share of pictures nearest to their own prompt among {among}"

    @classmethod
    def check(cls, path: str = VIT_L, prompts: str = "", **options: Any) -> None:
        reading.check_folder(PATH, path)
        if prompts:
            read_pool(prompts)

    def read(self, images: Tensor, prompts: list[str]) -> Tensor:
        pool = list(dict.fromkeys([*self.pool, *prompts]))
        if len(pool) < 2:
            raise UserError(f"R-precision needs other prompts: give {PROMPTS}, a text file with one prompt a line")
        near = self.clip.images(images) @ self.clip.texts(pool).T
        place = {prompt: k for k, prompt in enumerate(pool)}
        own = torch.tensor([place[prompt] for prompt in prompts])
        mine = near.gather(1, own[:, None])
        others = near.scatter(1, own[:, None], -torch.inf).amax(1, keepdim=True)
        return (mine > others)[:, 0].float()
