"""The two networks whose published weights are converted, in their authors' layout, from plain torch.

Their state dicts have the names of the files (open_clip's CLIP, ImageReward.pt), and their forward passes use nothing
of transformers, so that they are an independent computation.
"""

import math
from collections import OrderedDict

import torch
import torch.nn.functional as F
from torch import nn

from tests.evaluation import clips


def shaken(module: nn.Module, seed: int, by: float = 0.2) -> nn.Module:
    """The module with weights, biases and norms all different from their starts."""
    draws = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for value in module.parameters():
            value += by * torch.randn(value.shape, generator=draws)
    return module.eval()


class OpenBlock(nn.Module):
    def __init__(self, width, heads):
        super().__init__()
        self.ln_1, self.ln_2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.attn = nn.MultiheadAttention(width, heads, batch_first=True)
        wide = [("c_fc", nn.Linear(width, 4 * width)), ("gelu", nn.GELU()), ("c_proj", nn.Linear(4 * width, width))]
        self.mlp = nn.Sequential(OrderedDict(wide))

    def forward(self, x, mask=None):
        seen = self.ln_1(x)
        x = x + self.attn(seen, seen, seen, attn_mask=mask, need_weights=False)[0]
        return x + self.mlp(self.ln_2(x))


class Tower(nn.Module):
    def __init__(self, width, heads, layers):
        super().__init__()
        self.resblocks = nn.ModuleList(OpenBlock(width, heads) for _ in range(layers))

    def forward(self, x, mask=None):
        for block in self.resblocks:
            x = block(x, mask)
        return x


class OpenVision(nn.Module):
    def __init__(self, width, heads, layers, side, patch, joint):
        super().__init__()
        self.conv1 = nn.Conv2d(3, width, patch, patch, bias=False)
        self.class_embedding = nn.Parameter(torch.zeros(width))
        self.positional_embedding = nn.Parameter(torch.zeros((side // patch) ** 2 + 1, width))
        self.ln_pre, self.ln_post = nn.LayerNorm(width), nn.LayerNorm(width)
        self.transformer = Tower(width, heads, layers)
        self.proj = nn.Parameter(torch.zeros(width, joint))

    def forward(self, pictures):
        x = self.conv1(pictures).flatten(2).mT
        x = torch.cat([self.class_embedding.expand(len(x), 1, -1), x], 1) + self.positional_embedding
        return self.ln_post(self.transformer(self.ln_pre(x))[:, 0]) @ self.proj


class OpenClip(nn.Module):
    """CLIP-H's structure in open_clip's layout, small."""

    def __init__(self, vocabulary):
        super().__init__()
        width, heads, layers = clips.WIDTH, clips.HEADS, clips.LAYERS
        self.visual = OpenVision(width, heads, layers, clips.SIDE, clips.PATCH, clips.JOINT)
        self.token_embedding = nn.Embedding(vocabulary, width)
        self.positional_embedding = nn.Parameter(torch.zeros(clips.TOKENS, width))
        self.transformer, self.ln_final = Tower(width, heads, layers), nn.LayerNorm(width)
        self.text_projection = nn.Parameter(torch.zeros(width, clips.JOINT))
        self.logit_scale = nn.Parameter(torch.tensor(1.0))

    def encode_text(self, tokens):
        length = tokens.shape[1]
        causal = torch.full((length, length), -math.inf).triu(1)
        x = self.transformer(self.token_embedding(tokens) + self.positional_embedding, causal)
        return self.ln_final(x)[torch.arange(len(tokens)), tokens.argmax(1)] @ self.text_projection


class RewardReference(nn.Module):
    """ImageReward's structure in the layout of ImageReward.pt, small: 2 heads of 64, 2 layers a tower."""

    width, heads, side, patch, layers, joint = 128, 2, 32, 16, 2, 256

    def __init__(self, vocabulary):
        super().__init__()
        w = self.width
        norm = lambda: nn.LayerNorm(w)  # noqa: E731
        vision: dict[str, nn.Module] = {"patch_embed.proj": nn.Conv2d(3, w, self.patch, self.patch), "norm": norm()}
        text: dict[str, nn.Module] = {"embeddings.word_embeddings": nn.Embedding(vocabulary, w)}
        text |= {"embeddings.position_embeddings": nn.Embedding(64, w), "embeddings.LayerNorm": norm()}
        for k in range(self.layers):
            at = f"blocks.{k}."
            vision |= {f"{at}attn.qkv": nn.Linear(w, 3 * w), f"{at}attn.proj": nn.Linear(w, w)}
            vision |= {f"{at}mlp.fc1": nn.Linear(w, 4 * w), f"{at}mlp.fc2": nn.Linear(4 * w, w)}
            vision |= {f"{at}norm1": norm(), f"{at}norm2": norm()}
            at = f"encoder.layer.{k}."
            for kind in ("attention", "crossattention"):
                text |= {f"{at}{kind}.self.{name}": nn.Linear(w, w) for name in ("query", "key", "value")}
                text |= {f"{at}{kind}.output.dense": nn.Linear(w, w), f"{at}{kind}.output.LayerNorm": norm()}
            text |= {f"{at}intermediate.dense": nn.Linear(w, 2 * w), f"{at}output.dense": nn.Linear(2 * w, w)}
            text |= {f"{at}output.LayerNorm": norm()}
        parts = {f"blip.visual_encoder.{k}": v for k, v in vision.items()}
        parts |= {f"blip.text_encoder.{k}": v for k, v in text.items()}
        parts |= {"blip.vision_proj": nn.Linear(w, self.joint), "blip.text_proj": nn.Linear(w, self.joint)}
        sizes = ((0, w, 24), (2, 24, 16), (4, 16, 8), (6, 8, 4), (7, 4, 1))
        parts |= {f"mlp.layers.{place}": nn.Linear(a, b) for place, a, b in sizes}
        self.parts = nn.ModuleDict({key.replace(".", "/"): value for key, value in parts.items()})
        self.cls = nn.Parameter(torch.zeros(1, 1, w))
        self.place = nn.Parameter(torch.zeros(1, (self.side // self.patch) ** 2 + 1, w))

    def file(self):
        """What the published file holds."""
        state = {key.removeprefix("parts.").replace("/", "."): v for key, v in self.state_dict().items()}
        state["blip.visual_encoder.cls_token"], state["blip.visual_encoder.pos_embed"] = (
            state.pop("cls"),
            state.pop("place"),
        )
        return state | {"blip.text_encoder.embeddings.position_ids": torch.arange(64)[None]}

    def at(self, name):
        return self.parts[name.replace(".", "/")]

    def attend(self, q, k, v, mask=None):
        q, k, v = (x.unflatten(-1, (self.heads, -1)).transpose(1, 2) for x in (q, k, v))
        logits = q @ k.mT / math.sqrt(q.shape[-1])
        if mask is not None:
            logits = logits.masked_fill(mask[:, None, None] == 0, -math.inf)
        return (logits.softmax(-1) @ v).transpose(1, 2).flatten(2)

    def look(self, pictures):
        part = lambda name: self.at(f"blip.visual_encoder.{name}")  # noqa: E731
        exact = lambda x, name: F.layer_norm(x, x.shape[-1:], part(name).weight, part(name).bias, 1e-6)  # noqa: E731
        x = part("patch_embed.proj")(pictures).flatten(2).mT
        x = torch.cat([self.cls.expand(len(x), -1, -1), x], 1) + self.place
        for k in range(self.layers):
            at = f"blocks.{k}."
            x = x + part(f"{at}attn.proj")(self.attend(*part(f"{at}attn.qkv")(exact(x, f"{at}norm1")).chunk(3, -1)))
            x = x + part(f"{at}mlp.fc2")(F.gelu(part(f"{at}mlp.fc1")(exact(x, f"{at}norm2"))))
        return exact(x, "norm")

    def forward(self, pictures, tokens, mask):
        """The reward before it is put to mean 0 and deviation 1, [N]."""
        part = lambda name: self.at(f"blip.text_encoder.{name}")  # noqa: E731
        exact = lambda x, name: F.layer_norm(x, x.shape[-1:], part(name).weight, part(name).bias, 1e-12)  # noqa: E731
        seen = self.look(pictures)
        x = (
            part("embeddings.word_embeddings")(tokens)
            + part("embeddings.position_embeddings").weight[: tokens.shape[1]]
        )
        x = exact(x, "embeddings.LayerNorm")
        for k in range(self.layers):
            at = f"encoder.layer.{k}."
            for kind, source, hidden in (("attention", None, mask), ("crossattention", seen, None)):
                own = x if source is None else source
                q = part(f"{at}{kind}.self.query")(x)
                keys, values = (part(f"{at}{kind}.self.{name}")(own) for name in ("key", "value"))
                told = part(f"{at}{kind}.output.dense")(self.attend(q, keys, values, hidden))
                x = exact(told + x, f"{at}{kind}.output.LayerNorm")
            wide = F.gelu(part(f"{at}intermediate.dense")(x))
            x = exact(part(f"{at}output.dense")(wide) + x, f"{at}output.LayerNorm")
        x = x[:, 0]
        for place in (0, 2, 4, 6, 7):
            x = self.at(f"mlp.layers.{place}")(x)
        return x[:, 0]
