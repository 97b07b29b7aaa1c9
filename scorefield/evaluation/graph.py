"""MobileNetV2 from a list of operations: a .safetensors file whose metadata holds the graph, as mobile converters give.

Metadata: ``input``, the number of the input value; ``ops``, JSON [[place, kind, inputs, output, options] …] in order.
Tensors: ``opN.weight`` [out, in per group, k, k] and ``opN.bias`` [out] of the convolution at place N, with batch norms
folded in. Options: ``stride``; ``same`` (pad as TensorFlow does, more at the end); ``act``: 0 none, 1 relu, 3 relu6.
"""

import json
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

from scorefield.errors import UserError
from scorefield.evaluation.features import FeatureNetwork
from scorefield.files import digest

SIDE = 96
CONVOLUTIONS = ("CONV_2D", "DEPTHWISE_CONV_2D")
PASSED = ("QUANTIZE", "DEQUANTIZE", "RESHAPE")  # nothing is left of them in floating point


class MobileNetFeatures(FeatureNetwork):
    """Pooled features of MobileNetV2 at 96 px; the convolution after the pooling gives the class scores."""

    distance = "FD-MobileNetV2"
    resize = f"bicubic to {SIDE} px, antialiased where that is smaller"

    def __init__(self, path: Path, device: str):
        from safetensors import safe_open

        try:
            with safe_open(path, "pt", device=device) as file:
                record = file.metadata() or {}
                self.tensors = {key: file.get_tensor(key).float() for key in file.keys()}  # noqa: SIM118
            self.ops = json.loads(record["ops"])
            self.source = int(record["input"])
        except Exception as error:
            raise UserError(f"{path} is no network as a list of operations (metadata input, ops): {error}") from error
        self.identity = f"mobilenet-v2 {digest(path)[:16]}"
        try:
            features, _ = self.read(torch.zeros(1, 3, SIDE, SIDE, dtype=torch.uint8, device=device))
        except (KeyError, IndexError, RuntimeError, TypeError) as error:
            raise UserError(f"the operations in {path} do not fit together: {error}") from error
        self.dimensions = features.shape[1]
        if self.dimensions != 1280:
            raise UserError(f"{path} gives {self.dimensions} features and is no MobileNetV2, which gives 1280")
        self.name = f"{self.identity}, 1280 features at {SIDE} px"

    @torch.no_grad()
    def read(self, images: Tensor) -> tuple[Tensor, Tensor]:
        x = images.float() / 127.5 - 1
        x = F.interpolate(x, size=(SIDE, SIDE), mode="bicubic", antialias=x.shape[-1] > SIDE).clamp(-1, 1)
        values, pooled = {self.source: x}, None
        for place, kind, inputs, output, options in self.ops:
            x = values[inputs[0]]
            if kind == "SOFTMAX":
                break
            if kind in CONVOLUTIONS:
                x = self._convolve(x, place, kind, options)
            elif kind == "ADD":
                x = x + values[inputs[1]]
            elif kind in ("MEAN", "AVERAGE_POOL_2D"):
                x = pooled = x.mean((2, 3), keepdim=True)
            elif kind not in PASSED:
                raise KeyError(f"operation {kind} is unknown")
            act = options.get("act", 0)
            values[output] = x.clamp(0, 6) if act == 3 else x.relu() if act == 1 else x
        if pooled is None:
            raise KeyError("there is no pooling")
        return pooled.flatten(1), x.flatten(1)

    def _convolve(self, x: Tensor, place: int, kind: str, options: dict) -> Tensor:
        weight, bias = self.tensors[f"op{place}.weight"], self.tensors[f"op{place}.bias"]
        stride, taps = options["stride"], weight.shape[-1]
        if options["same"]:
            short = [max((-(-side // stride) - 1) * stride + taps - side, 0) for side in x.shape[2:]]
            x = F.pad(x, (short[1] // 2, -(-short[1] // 2), short[0] // 2, -(-short[0] // 2)))
        return F.conv2d(x, weight, bias, stride=stride, groups=len(weight) if kind == CONVOLUTIONS[1] else 1)
