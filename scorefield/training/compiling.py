"""Compiled networks: block by block where they have any, so that one compilation serves all blocks of a kind."""

from collections.abc import Iterable
from typing import Any

import torch
from torch import nn

from scorefield.denoiser import Denoiser
from scorefield.teachers.shared import holder
from scorefield.training.sharding import blocks, innermost

VARIANTS = 64  # of one block: by precision, batch, adapter, and what of it asks for gradients; torch's own limit is 8


def compile_roles(roles: Iterable[object]) -> None:
    """Compile each network among ``roles`` once, for all that is asked of it; a view's is the one that it looks at.

    What lies between the blocks is left as it is. A network without blocks is compiled whole.
    """
    torch._dynamo.config.recompile_limit = max(VARIANTS, torch._dynamo.config.recompile_limit)
    for network in {holder(role) for role in roles if isinstance(role, Denoiser)}:
        for part in parts_of(network):
            part.compile()


def parts_of(network: Denoiser) -> list[nn.Module]:
    """What is compiled of a denoiser: the blocks of the network in it, else itself."""
    inner: Any = innermost(network)
    if hasattr(inner, "down_blocks") and hasattr(inner, "up_blocks"):  # a U-Net: its convolutions too
        middle = getattr(inner, "mid_block", None)
        return [*inner.down_blocks, *([middle] if middle is not None else []), *inner.up_blocks]
    return blocks(inner) or [network]
