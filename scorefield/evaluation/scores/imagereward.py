"""ImageReward: a reward learnt from people's rankings (Xu et al. 2023, arXiv:2304.05977), without its package.

The package (1.5, 2023) pins timm 0.6.13 and fairscale and imports what transformers has dropped; its weights, those of
a BLIP with a small head, are put into transformers' ``BlipVisionModel`` and ``BlipTextModel`` here.
"""

import re
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from scorefield.errors import UserError
from scorefield.evaluation.scores import reading
from scorefield.evaluation.scores.base import SCORES, PictureScore, in_pieces
from scorefield.evaluation.scores.clip_model import pixels, processor_class

WEIGHTS = "evaluation.score_options.imagereward.weights"
TOKENIZER = "evaluation.score_options.imagereward.tokenizer"
WHAT = "the file ImageReward.pt"
MEAN, STD = 0.16717362830052426, 1.0333394966054072  # of the raw reward over the authors' data
TOKENS, HEAD_WIDTH, BATCH = 35, 64, 16
UNUSED = re.compile(r"blip\.(vision_proj|text_proj|itm_head|temp|.*position_ids)")
VISION = (  # ImageReward's names of the picture network's parts, and transformers'
    ("cls_token", "embeddings.class_embedding"),
    ("pos_embed", "embeddings.position_embedding"),
    ("patch_embed.proj.", "embeddings.patch_embedding."),
    ("blocks.", "encoder.layers."),
    (".attn.qkv.", ".self_attn.qkv."),
    (".attn.proj.", ".self_attn.projection."),
    (".norm1.", ".layer_norm1."),
    (".norm2.", ".layer_norm2."),
)


def split(state: dict[str, Tensor], path: str) -> tuple[dict[str, Tensor], dict[str, Tensor], dict[str, Tensor]]:
    """(vision, text, head): the tensors under the names of transformers' two models, and of the head's layers.

    Raises UserError for a file that is none of ImageReward.
    """
    vision, text, head = {}, {}, {}
    for key, value in state.items():
        if key.startswith("blip.visual_encoder."):
            name = re.sub(r"^norm\.", "post_layernorm.", key.removeprefix("blip.visual_encoder."))
            for theirs, ours in VISION:
                name = name.replace(theirs, ours)
            vision[name] = value
        elif key.startswith("mlp.layers."):
            head[key.removeprefix("mlp.layers.")] = value
        elif UNUSED.match(key):
            continue
        elif key.startswith("blip.text_encoder."):
            text[key.removeprefix("blip.text_encoder.")] = value
        else:
            raise UserError(f'{path} is no ImageReward: it holds "{key}"')
    if not (vision and text and head):
        raise UserError(f"{path} is no ImageReward: give {WHAT}")
    return vision, text, head


def layers_of(state: dict[str, Tensor], place: str) -> int:
    return 1 + max(int(found[1]) for key in state if (found := re.match(rf"{re.escape(place)}\.(\d+)\.", key)))


def vision_model(state: dict[str, Tensor], path: str) -> Any:
    """BLIP's picture network whose shape its weights tell; its attention heads are 64 wide, as all of BLIP's."""
    from transformers import BlipVisionConfig, BlipVisionModel

    width, _, patch, _ = state["embeddings.patch_embedding.weight"].shape
    side = int((state["embeddings.position_embedding"].shape[1] - 1) ** 0.5) * patch
    config = BlipVisionConfig(
        hidden_size=width,
        intermediate_size=state["encoder.layers.0.mlp.fc1.weight"].shape[0],
        num_hidden_layers=layers_of(state, "encoder.layers"),
        num_attention_heads=max(1, width // HEAD_WIDTH),
        image_size=side,
        patch_size=patch,
        layer_norm_eps=1e-6,
    )
    return reading.fitted(BlipVisionModel(config), state, path)


def text_model(state: dict[str, Tensor], path: str) -> Any:
    """BLIP's text network, which looks at the picture in every layer, without its pooler."""
    from transformers import BlipTextConfig
    from transformers.models.blip.modeling_blip_text import BlipTextModel

    words, width = state["embeddings.word_embeddings.weight"].shape
    config = BlipTextConfig(
        vocab_size=words,
        hidden_size=width,
        encoder_hidden_size=state["encoder.layer.0.crossattention.self.key.weight"].shape[1],
        intermediate_size=state["encoder.layer.0.intermediate.dense.weight"].shape[0],
        num_hidden_layers=layers_of(state, "encoder.layer"),
        num_attention_heads=max(1, width // HEAD_WIDTH),
        max_position_embeddings=state["embeddings.position_embeddings.weight"].shape[0],
        layer_norm_eps=1e-12,
        is_decoder=True,  # what transformers calls a model with attention to pictures; the mask is not causal
    )
    return reading.fitted(BlipTextModel(config, add_pooling_layer=False), state, path)


def head_of(state: dict[str, Tensor], path: str) -> nn.Module:
    """Linear layers in a row; between them the authors had only dropout."""
    sizes = {int(key.partition(".")[0]): value for key, value in state.items() if key.endswith("weight")}
    layers = [nn.Linear(value.shape[1], value.shape[0]) for _, value in sorted(sizes.items())]
    numbered = {str(place): str(number) for number, place in enumerate(sorted(sizes))}
    renamed = {numbered[key.partition(".")[0]] + "." + key.partition(".")[2]: value for key, value in state.items()}
    return reading.fitted(nn.Sequential(*layers), renamed, path)


@SCORES.register("imagereward")
class ImageReward(PictureScore):
    """The reward of a picture for its prompt, about -2 to 2, mean 0 over the authors' data.

    Args:
        weights: ImageReward.pt. tokenizer: bert-base-uncased's, a folder, a hub id in the cache, or "hub:ID".
    """

    title = "ImageReward"
    definition = "mean reward, 0 on average and 1 its standard deviation over ImageReward's own data"

    def __init__(self, device: str = "cpu", weights: str = "", tokenizer: str = "bert-base-uncased"):
        from transformers import BertTokenizer

        super().__init__(device)
        self.check(weights, tokenizer)
        self.key = "imagereward"
        vision, text, head = split(reading.state_of(Path(weights)), weights)
        self.vision = vision_model(vision, weights).to(device)
        self.text, self.head = text_model(text, weights).to(device), head_of(head, weights).to(device)
        self.tokenizer = reading.pretrained(BertTokenizer, tokenizer)
        self.model = reading.file_name(weights)

    @classmethod
    def check(cls, weights: str = "", tokenizer: str = "bert-base-uncased", **options: Any) -> None:
        reading.check_file(WEIGHTS, weights, WHAT)
        reading.check_folder(TOKENIZER, tokenizer, ("tokenizer.json", "vocab.txt"))

    def prepare(self, images: Tensor) -> Tensor:
        """float32 pixels: shorter side to the network's size by Pillow's bicubic, middle, CLIP's normalisation."""
        side = self.vision.config.image_size
        crop = {"height": side, "width": side}
        return pixels(processor_class()(size={"shortest_edge": side}, crop_size=crop), images)

    @torch.no_grad()
    def read(self, images: Tensor, prompts: list[str]) -> Tensor:
        parts = []
        for pictures, words in in_pieces(images, prompts, BATCH):
            seen = self.vision(pixel_values=self.prepare(pictures).to(self.device)).last_hidden_state
            tokens = self.tokenizer(
                words, padding="max_length", truncation=True, max_length=TOKENS, return_tensors="pt"
            ).to(self.device)
            told = self.text(
                input_ids=tokens["input_ids"],
                attention_mask=tokens["attention_mask"],
                encoder_hidden_states=seen,
                encoder_attention_mask=torch.ones(seen.shape[:2], dtype=torch.long, device=self.device),
                is_decoder=False,
            ).last_hidden_state[:, 0]
            parts.append(((self.head(told.float())[:, 0] - MEAN) / STD).cpu())
        return torch.cat(parts)
