"""Networks of the presets' published files, with random weights where the file is not here: for timing and plans."""

from pathlib import Path

from torch import nn

from scorefield import networks
from scorefield.importer.open import locate, open_network, stored
from scorefield.networks.official import official

FILES = {
    "edm-cifar10-32x32-cond-vp.pkl": "edm-cifar10-cond-vp",
    "edm-cifar10-32x32-uncond-vp.pkl": "edm-cifar10-uncond-vp",
    "edm-ffhq-64x64-uncond-vp.pkl": "edm-ffhq64-uncond-vp",
    "edm-afhqv2-64x64-uncond-vp.pkl": "edm-afhqv2-64-uncond-vp",
    "edm-imagenet-64x64-cond-adm.pkl": "edm-imagenet64-cond-adm",
}


def open_located(path: str, network: str | None = None) -> nn.Module:
    """The network at ``path`` or below assets/; see ``open_network``."""
    return open_network(locate(path), network)


def open_or_build(path: str, network: str | None = None) -> nn.Module:
    """The same, or where a published file is not here, its network with random weights.

    Raises UserError for a path at which there is nothing and which is no such file.
    """
    name = Path(path).name
    if stored(locate(path)) or name not in FILES:
        return open_located(path, network)
    return networks.build(*official(FILES[name]))
