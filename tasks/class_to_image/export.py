"""Export the one-step generator: a network file of our own, and a state dict for the official classes."""

from pathlib import Path
from typing import Any

import torch

from scorefield import networks
from scorefield.files import write_atomically, write_text
from scorefield.networks.store import state_of

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


def write(generator: LabelledOneStep, out: Path) -> Path:
    """Write the files into the folder ``out``."""
    denoiser: Any = generator.denoiser
    out.mkdir(parents=True, exist_ok=True)
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
