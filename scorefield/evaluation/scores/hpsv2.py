"""HPSv2: how people prefer a picture for a prompt (Wu et al. 2023, arXiv:2306.09341), without its package.

The weights are those of a fine-tuned CLIP-H in open_clip's layout; they are put into transformers' ``CLIPModel``.
"""

import re
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from scorefield.errors import UserError
from scorefield.evaluation.scores import reading
from scorefield.evaluation.scores.base import SCORES, PictureScore
from scorefield.evaluation.scores.clip_model import VIT_H, Clip

PATH, WEIGHTS = "evaluation.score_options.hpsv2.path", "evaluation.score_options.hpsv2.weights"
WHAT = "the file HPS_v2.1_compressed.pt or HPS_v2_compressed.pt"
WHOLE = {  # open_clip's names of single tensors
    "logit_scale": "logit_scale",
    "positional_embedding": "text_model.embeddings.position_embedding.weight",
    "token_embedding.weight": "text_model.embeddings.token_embedding.weight",
    "ln_final.weight": "text_model.final_layer_norm.weight",
    "ln_final.bias": "text_model.final_layer_norm.bias",
    "visual.class_embedding": "vision_model.embeddings.class_embedding",
    "visual.positional_embedding": "vision_model.embeddings.position_embedding.weight",
    "visual.conv1.weight": "vision_model.embeddings.patch_embedding.weight",
    "visual.ln_pre.weight": "vision_model.pre_layrnorm.weight",
    "visual.ln_pre.bias": "vision_model.pre_layrnorm.bias",
    "visual.ln_post.weight": "vision_model.post_layernorm.weight",
    "visual.ln_post.bias": "vision_model.post_layernorm.bias",
}
TURNED = {"text_projection": "text_projection.weight", "visual.proj": "visual_projection.weight"}
PARTS = {"ln_1": "layer_norm1", "ln_2": "layer_norm2", "attn.out_proj": "self_attn.out_proj"}
PARTS |= {"mlp.c_fc": "mlp.fc1", "mlp.c_proj": "mlp.fc2"}


def from_open_clip(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """open_clip's tensors of a CLIP with two transformers under the names of transformers' ``CLIPModel``.

    Raises UserError for a name that such a CLIP does not have.
    """
    found: dict[str, Tensor] = {}
    for key, value in state.items():
        block = re.fullmatch(r"(visual\.)?transformer\.resblocks\.(\d+)\.(.+?)(?:\.|_)(weight|bias)", key)
        if key in WHOLE:
            found[WHOLE[key]] = value
        elif key in TURNED:
            found[TURNED[key]] = value.T.contiguous()
        elif block is not None:
            tower = "vision_model" if block[1] else "text_model"
            place, part, kind = f"{tower}.encoder.layers.{block[2]}", block[3], block[4]
            if part == "attn.in_proj":
                for name, rows in zip("qkv", value.chunk(3), strict=True):
                    found[f"{place}.self_attn.{name}_proj.{kind}"] = rows.contiguous()
            else:
                found[f"{place}.{PARTS.get(part, part)}.{kind}"] = value
        elif key != "attn_mask":
            raise UserError(f'"{key}" is no tensor of an open_clip CLIP with two transformers')
    return found


class WholePictures(Clip):
    """HPSv2's own preprocessing: the longer side to the network's size, black bars, on floats."""

    def prepare(self, images: Tensor) -> Tensor:
        side = self.network.config.vision_config.image_size
        height, width = images.shape[2:]
        scale = side / max(height, width)
        size = round(height * scale), round(width * scale)
        small = images.float() / 255
        if size != (height, width):
            small = F.interpolate(small, size, mode="bicubic", antialias=True, align_corners=False)
        low, left = side - size[0], side - size[1]
        small = F.pad(small, (left // 2, left - left // 2, low // 2, low - low // 2))
        mean, std = (torch.tensor(v, device=small.device).view(1, 3, 1, 1) for v in self.normalisation())
        return (small - mean) / std

    def normalisation(self) -> tuple[list[float], list[float]]:
        return self.processor.image_mean, self.processor.image_std


@SCORES.register("hpsv2")
class HpsV2(PictureScore):
    """cos(picture, prompt) of HPSv2, about 0.2 to 0.3; the benchmark's tables state it times 100.

    Args:
        weights: HPS_v2_compressed.pt or HPS_v2.1_compressed.pt.
        path: LAION's CLIP-H for shape, tokenizer and preprocessing: a ``CLIPModel`` folder, a hub id in the cache, or
            "hub:ID" to download it.
    """

    title = "HPSv2"
    definition = "mean of cos(picture, prompt)"

    def __init__(self, device: str = "cpu", weights: str = "", path: str = VIT_H):
        from transformers import CLIPConfig, CLIPModel

        super().__init__(device)
        self.check(weights, path)
        self.key = "hpsv2"
        network = CLIPModel(reading.pretrained(CLIPConfig, path))
        reading.fitted(network, from_open_clip(reading.state_of(Path(weights))), weights)
        self.clip = WholePictures(path, device, network=network)
        self.model = reading.file_name(weights)

    @classmethod
    def check(cls, weights: str = "", path: str = VIT_H, **options: Any) -> None:
        reading.check_file(WEIGHTS, weights, WHAT)
        reading.check_folder(PATH, path)

    def read(self, images: Tensor, prompts: list[str]) -> Tensor:
        return self.clip.cosines(images, prompts)
