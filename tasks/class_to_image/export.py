"""Export the one-step generator: a network file of our own, and a state dict for the official classes."""

from pathlib import Path
from typing import Any

import torch

from scorefield import networks
from scorefield.files import write_atomically, write_text
from scorefield.networks.store import state_of
from scorefield.teachers.pixel_unet import PixelUNet

from .generator import LabelledOneStep

USAGE = """# A one-step generator

`generator.safetensors` and `generator.json` are read by scorefield wherever it takes a network. `generator.pt` holds
the same tensors under the official names, for the network of the official code that the teacher's file holds:

```python
net.load_state_dict(torch.load("generator.pt", weights_only=True))
images = net({sigma} * z, {sigma} * torch.ones(len(z)){labels})
```

with z ~ N(0, 1) [B, {shape}]{told}; images come out about [-1, 1].
"""


PIPELINE = """# A one-step generator in diffusers' format

The folder is a pipeline of the teacher's kind whose network is the student; it is called once, not by the pipeline:

```python
import torch
from diffusers import DDPMPipeline

unet = DDPMPipeline.from_pretrained("FOLDER").unet
z = torch.randn(4, {shape})
timestep, alpha, sigma = torch.full((4,), {timestep:.6f}), {alpha:.9g}, {sigma:.9g}
x_t = sigma * z
output = unet(x_t, timestep{labels}).sample[:, :{channels}]
images = {x0}
```

Images come out about [-1, 1]{told}.
"""
X0 = {
    "eps": "(x_t - sigma * output) / alpha",
    "v": "alpha * x_t - sigma * output",
    "x0": "output",
}


def write_pipeline(network: PixelUNet, generator: LabelledOneStep, out: Path) -> Path:
    """A pipeline's folder with the student as its network."""
    network.save(out)
    level = torch.tensor([generator.init_sigma])
    alpha, sigma = network.process.scales(level)
    text = PIPELINE.format(
        shape=", ".join(str(side) for side in generator.shape),
        timestep=float(network.process.timestep(level)),
        alpha=float(alpha),
        sigma=float(sigma),
        labels=", class_labels=labels" if network.label_dim else "",
        channels=network.img_channels,
        x0=X0[network.prediction],
        told=f"; labels are int64 [B] from 0 to {network.label_dim - 1}" if network.label_dim else "",
    )
    write_text(out / "README.md", text)
    return out


def write(generator: LabelledOneStep, out: Path) -> Path:
    """Write the files into the folder ``out``."""
    denoiser: Any = generator.denoiser
    out.mkdir(parents=True, exist_ok=True)
    if isinstance(denoiser.network, PixelUNet):
        return write_pipeline(denoiser.network, generator, out)
    networks.save(denoiser.network, out / "generator")
    state = state_of(denoiser.network)
    write_atomically(out / "generator.pt", lambda part: torch.save(state, part))
    told = f" and labels one-hot [B, {denoiser.label_dim}]" if denoiser.label_dim else ""
    text = USAGE.format(
        sigma=f"{generator.init_sigma:g}",
        labels=", labels" if told else "",
        shape=", ".join(str(side) for side in generator.shape),
        told=told,
    )
    write_text(out / "README.md", text)
    return out
