"""CLIP through transformers: pictures and texts as unit vectors of one space."""

from functools import lru_cache
from typing import Any

import torch
from torch import Tensor

from scorefield.evaluation.scores import reading
from scorefield.evaluation.scores.base import in_pieces, unit

VIT_L = "openai/clip-vit-large-patch14"
VIT_H = "laion/CLIP-ViT-H-14-laion2B-s32B-b79K"
BATCH = 32


def processor_class() -> Any:
    """CLIP's resizing and normalisation by Pillow, which published figures rest on."""
    try:
        from transformers import CLIPImageProcessorPil as Processor
    except ImportError:  # older releases have Pillow's under the plain name
        from transformers import CLIPImageProcessor as Processor  # type: ignore[assignment]
    return Processor


def pixels(processor: Any, images: Tensor) -> Tensor:
    """float32 [N, 3, S, S] as a network takes them, of uint8 pictures [N, 3, H, W]."""
    from PIL import Image

    pictures = [Image.fromarray(image) for image in images.permute(0, 2, 3, 1).cpu().numpy()]
    return processor(pictures, return_tensors="pt")["pixel_values"]


class Clip:
    """A CLIP with its tokenizer and its preprocessing.

    Args:
        path: a ``CLIPModel`` folder or hub id.
        processor: where tokenizer and preprocessing lie, if elsewhere. network: a ``CLIPModel`` in place of the
            folder's own.

    Attributes:
        name: for people. dimensions: of the vectors. logit_scale: exp of the learned temperature.
    """

    def __init__(self, path: str, device: str, processor: str = "", network: Any = None):
        from transformers import CLIPModel, CLIPTokenizer

        self.device, self.name = device, reading.folder_name(path)
        self.network = (reading.model(CLIPModel, path) if network is None else network).float().to(device)
        beside = processor or path
        self.tokenizer = reading.pretrained(CLIPTokenizer, beside)
        self.processor = reading.pretrained(processor_class(), beside)
        self.dimensions = self.network.config.projection_dim
        self.most = self.network.config.text_config.max_position_embeddings
        self.logit_scale = self.network.logit_scale.exp().item()
        self.told: set[str] = set()

    def prepare(self, images: Tensor) -> Tensor:
        """float32 pixels as the network takes them, of uint8 pictures [N, 3, H, W]."""
        return pixels(self.processor, images)

    @torch.no_grad()
    def images(self, images: Tensor) -> Tensor:
        """float32 [N, D] of length one, on the CPU, of uint8 pictures [N, 3, H, W]."""
        parts = []
        for part in images.split(BATCH):
            seen = self.network.vision_model(pixel_values=self.prepare(part).to(self.device)).pooler_output
            parts.append(unit(self.network.visual_projection(seen)).cpu())
        return torch.cat(parts)

    @torch.no_grad()
    def texts(self, prompts: list[str]) -> Tensor:
        """float32 [N, D] of length one, on the CPU; what lies beyond the network's tokens is cut, and said once."""
        self.tell_of_cuts(prompts)
        parts = []
        for start in range(0, len(prompts), BATCH):
            tokens = self.tokenizer(
                prompts[start : start + BATCH],
                padding="max_length",
                truncation=True,
                max_length=self.most,
                return_tensors="pt",
            ).to(self.device)
            seen = self.network.text_model(input_ids=tokens["input_ids"], attention_mask=tokens["attention_mask"])
            parts.append(unit(self.network.text_projection(seen.pooler_output)).cpu())
        return torch.cat(parts)

    def tell_of_cuts(self, prompts: list[str]) -> int:
        """Say how many new prompts are longer than the network reads; returns the number."""
        fresh = [prompt for prompt in dict.fromkeys(prompts) if prompt not in self.told]
        self.told.update(fresh)
        long = [prompt for prompt in fresh if len(prompt) > self.most - 2 and self._tokens(prompt) > self.most]
        if long:
            print(f"{len(long)} of {len(fresh)} prompts are longer than the {self.most} tokens that {self.name} reads")
        return len(long)

    def _tokens(self, prompt: str) -> int:
        return len(self.tokenizer(prompt, verbose=False)["input_ids"])

    def cosines(self, images: Tensor, prompts: list[str]) -> Tensor:
        """float32 [N]: cosine of each uint8 picture [N, 3, H, W] with its own prompt."""
        parts = [(self.images(i) * self.texts(p)).sum(-1) for i, p in in_pieces(images, prompts, BATCH)]
        return torch.cat(parts)


@lru_cache(maxsize=2)
def open_clip_model(path: str, device: str) -> Clip:
    """A CLIP of a folder or hub id; the last two are kept, since several scores ask for the same."""
    return Clip(path, device)
