"""A small CLIP of the real transformers classes with random weights, in a folder as ``from_pretrained`` reads it."""

from pathlib import Path

import torch

from tests.teachers.families import clip_tokenizer

SIDE, PATCH, WIDTH, HEADS, LAYERS, JOINT, TOKENS = 32, 8, 32, 2, 2, 16, 24


def clip_config(act: str = "quick_gelu", width: int = WIDTH):
    from transformers import CLIPConfig

    vocabulary = len(clip_tokenizer(TOKENS))
    shape = {"hidden_size": width, "intermediate_size": 4 * width, "num_hidden_layers": LAYERS}
    shape |= {"num_attention_heads": HEADS, "hidden_act": act}
    text = {"vocab_size": vocabulary, "max_position_embeddings": TOKENS, "eos_token_id": vocabulary - 1}
    text |= {"bos_token_id": vocabulary - 2, "pad_token_id": vocabulary - 1}
    vision = {"image_size": SIDE, "patch_size": PATCH}
    return CLIPConfig(text_config=shape | text, vision_config=shape | vision, projection_dim=JOINT)


def write_clip(folder: Path, seed: int = 0, act: str = "quick_gelu", processor: bool = True) -> Path:
    """The folder, with weights large enough that pictures and texts differ."""
    from transformers import CLIPImageProcessor, CLIPModel, CLIPProcessor

    torch.manual_seed(seed)
    model = CLIPModel(clip_config(act)).eval()
    with torch.no_grad():
        for value in model.parameters():
            value += 0.2 * torch.randn_like(value)
        model.logit_scale.fill_(3.0)
    model.save_pretrained(folder)
    if processor:
        sizes = {"size": {"shortest_edge": SIDE}, "crop_size": {"height": SIDE, "width": SIDE}}
        CLIPProcessor(CLIPImageProcessor(**sizes), clip_tokenizer(TOKENS)).save_pretrained(folder)
    return folder
