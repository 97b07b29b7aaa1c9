"""The judge: a small classifier that reads object, colour and view off a picture, and gives features."""

from dataclasses import dataclass
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from scorefield.errors import UserError
from scorefield.files import read_json, write_atomically, write_json


class Residual(nn.Module):
    """Two 3×3 convolutions with group norm around a skip; the first may halve the resolution."""

    def __init__(self, inputs: int, outputs: int, stride: int):
        super().__init__()
        self.norm1, self.norm2 = nn.GroupNorm(8, inputs), nn.GroupNorm(8, outputs)
        self.conv1 = nn.Conv2d(inputs, outputs, 3, stride, 1)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, 1, 1)
        self.skip = nn.Conv2d(inputs, outputs, 1, stride)

    def forward(self, x: Tensor) -> Tensor:
        y = self.conv1(F.silu(self.norm1(x)))
        return self.skip(x) + self.conv2(F.silu(self.norm2(y)))


@dataclass
class Reading:
    """What the judge read: per head the class [B] and its probability [B], and features [B, D]."""

    labels: dict[str, Tensor]
    probability: dict[str, Tensor]
    features: Tensor


class Judge(nn.Module):
    """Classifier with one head per attribute over a shared feature vector.

    Args:
        heads: class names of each attribute, for example {"object": ["mug", …], "color": […]}.
        widths: channels of the four stages; the last is the feature dimension.
    """

    def __init__(self, heads: dict[str, list[str]], widths: tuple[int, ...] = (32, 64, 96, 128)):
        super().__init__()
        self.names, self.widths = heads, tuple(widths)
        self.stem = nn.Conv2d(3, widths[0], 3, 1, 1)
        pairs = zip(widths[:1] + tuple(widths[:-1]), widths, strict=True)
        self.stages = nn.Sequential(*(Residual(a, b, 2) for a, b in pairs))
        self.norm = nn.GroupNorm(8, widths[-1])
        self.heads = nn.ModuleDict({key: nn.Linear(widths[-1], len(names)) for key, names in heads.items()})

    def features(self, images: Tensor) -> Tensor:
        """Pooled features [B, D] of images [B, 3, H, W] in [-1, 1]."""
        return F.silu(self.norm(self.stages(self.stem(images)))).mean((2, 3))

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        """Logits [B, classes] of every head."""
        features = self.features(images)
        return {key: head(features) for key, head in self.heads.items()}

    @torch.no_grad()
    def read(self, images: Tensor, batch: int = 256) -> Reading:
        """Labels, their probabilities and features of images [N, 3, H, W] in [-1, 1]."""
        labels: dict[str, list[Tensor]] = {key: [] for key in self.heads}
        probability: dict[str, list[Tensor]] = {key: [] for key in self.heads}
        features = []
        for part in images.split(batch):
            rows = self.features(part.float())
            features.append(rows)
            for key, head in self.heads.items():
                best = head(rows).softmax(-1).max(-1)
                labels[key].append(best.indices)
                probability[key].append(best.values)
        cat = lambda parts: {key: torch.cat(rows) for key, rows in parts.items()}  # noqa: E731
        return Reading(cat(labels), cat(probability), torch.cat(features))

    def save(self, folder: Path) -> None:
        """Write judge.safetensors (float16) and, once that is there, judge.json into ``folder``."""
        from safetensors.torch import save_file

        state = {key: value.half().contiguous().cpu() for key, value in self.state_dict().items()}
        write_atomically(Path(folder) / "judge.safetensors", lambda part: save_file(state, part))
        write_json(Path(folder) / "judge.json", {"heads": self.names, "widths": list(self.widths)})

    @classmethod
    def load(cls, folder: Path, device: str = "cpu") -> "Judge":
        """Read what ``save`` wrote; raises UserError when a file is missing or does not fit."""
        from safetensors.torch import load_file

        settings = read_json(Path(folder) / "judge.json")
        judge = cls(settings["heads"], tuple(settings["widths"]))
        path = Path(folder) / "judge.safetensors"
        try:
            judge.load_state_dict({key: value.float() for key, value in load_file(path).items()})
        except Exception as error:
            raise UserError(f"cannot load the judge from {path}: {error}") from error
        return judge.to(device).eval().requires_grad_(False)
