"""LoRA keys as kohya's sd-scripts and ComfyUI have them: the names of the networks' original code.

A layout takes {path of a layer in diffusers: (A [r, inputs], B [outputs, r])} and the diffusers network, and gives
PREFIX.lora_down.weight, PREFIX.lora_up.weight and PREFIX.alpha. Where the original network has one layer in place of
several (q, k and v in one), the factors are stacked: down is [A_q; A_k; A_v], up is block-diagonal, and alpha is the
stacked rank, so that the scale stays 1 and the change is exact.
"""

import re
from collections.abc import Callable, Mapping

import torch
from torch import Tensor, nn

from scorefield.errors import UserError

Factors = Mapping[str, tuple[Tensor, Tensor]]


def entry(name: str, down: Tensor, up: Tensor) -> dict[str, Tensor]:
    """The three tensors of one layer; the scale alpha / rank is 1."""
    prefix = f"lora_unet_{name.replace('.', '_')}"
    return {
        f"{prefix}.lora_down.weight": down.contiguous(),
        f"{prefix}.lora_up.weight": up.contiguous(),
        f"{prefix}.alpha": torch.tensor(float(len(down))),
    }


def unet(factors: Factors, network: nn.Module) -> dict[str, Tensor]:
    """Stable Diffusion 1 and 2: diffusers' own paths, their dots underscores (kohya trains the diffusers network)."""
    from diffusers.utils.state_dict_utils import convert_state_dict_to_kohya

    state = {
        f"unet.{path}.lora_{k}.weight": v for path, pair in factors.items() for k, v in zip("AB", pair, strict=True)
    }
    made = convert_state_dict_to_kohya(state)
    return {key: value.float() if key.endswith(".alpha") else value.contiguous() for key, value in made.items()}


def sgm(factors: Factors, network: nn.Module) -> dict[str, Tensor]:
    """Stable Diffusion XL: blocks numbered as in the original UNet."""
    made: dict[str, Tensor] = {}
    for path, (down, up) in factors.items():
        made |= entry(sgm_path(path, network.config.layers_per_block), down, up)  # type: ignore[union-attr, arg-type]
    return made


def sgm_path(path: str, per_block: int) -> str:
    """The original UNet's path of a layer in an attention block; UserError for another layer.

    Input block 0 is the first convolution; each stage has ``per_block`` blocks and a downsampler, and one block more
    on the way up.
    """
    found = re.fullmatch(r"(?:(down|up)_blocks\.(\d+)|mid_block)\.attentions\.(\d+)\.(.+)", path)
    if found is None:
        raise UserError(f"kohya's layout is known here for SDXL's attention blocks, not for {path}: see lora_targets")
    side, stage, place, rest = found.groups()
    if side is None:
        return f"middle_block.1.{rest}"
    number = int(stage) * (per_block + 1) + int(place)
    return f"output_blocks.{number}.1.{rest}" if side == "up" else f"input_blocks.{number + 1}.1.{rest}"


# original layer -> the diffusers layers that it holds, in order
MMDIT = {
    "x_block.attn.qkv": ("attn.to_q", "attn.to_k", "attn.to_v"),
    "x_block.attn.proj": ("attn.to_out.0",),
    "x_block.attn2.qkv": ("attn2.to_q", "attn2.to_k", "attn2.to_v"),
    "x_block.attn2.proj": ("attn2.to_out.0",),
    "x_block.mlp.fc1": ("ff.net.0.proj",),
    "x_block.mlp.fc2": ("ff.net.2",),
    "context_block.attn.qkv": ("attn.add_q_proj", "attn.add_k_proj", "attn.add_v_proj"),
    "context_block.attn.proj": ("attn.to_add_out",),
    "context_block.mlp.fc1": ("ff_context.net.0.proj",),
    "context_block.mlp.fc2": ("ff_context.net.2",),
}
FLUX_DOUBLE = {
    "img_attn.qkv": ("attn.to_q", "attn.to_k", "attn.to_v"),
    "img_attn.proj": ("attn.to_out.0",),
    "img_mlp.0": ("ff.net.0.proj",),
    "img_mlp.2": ("ff.net.2",),
    "img_mod.lin": ("norm1.linear",),
    "txt_attn.qkv": ("attn.add_q_proj", "attn.add_k_proj", "attn.add_v_proj"),
    "txt_attn.proj": ("attn.to_add_out",),
    "txt_mlp.0": ("ff_context.net.0.proj",),
    "txt_mlp.2": ("ff_context.net.2",),
    "txt_mod.lin": ("norm1_context.linear",),
}
FLUX_SINGLE = {
    "linear1": ("attn.to_q", "attn.to_k", "attn.to_v", "proj_mlp"),
    "linear2": ("proj_out",),
    "modulation.lin": ("norm.linear",),
}
Blocks = tuple[tuple[str, str, dict[str, tuple[str, ...]]], ...]  # (blocks in diffusers, in the original, their layers)


def transformer(blocks: Blocks) -> Callable[[Factors, nn.Module], dict[str, Tensor]]:
    """The layout of a transformer whose layers are those of ``blocks``."""

    def layout(factors: Factors, network: nn.Module) -> dict[str, Tensor]:
        made: dict[str, Tensor] = {}
        left = set(factors)
        for ours, theirs, table in blocks:
            for number in range(len(getattr(network, ours, ()))):
                for original, layers in table.items():
                    paths = [f"{ours}.{number}.{layer}" for layer in layers]
                    if left.isdisjoint(paths):
                        continue
                    made |= entry(f"{theirs}.{number}.{original}", *stacked(paths, factors, network))
                    left.difference_update(paths)
        if left:
            raise UserError(f"kohya's layout is not known here for {sorted(left)[0]}: see lora_targets")
        return made

    return layout


def stacked(paths: list[str], factors: Factors, network: nn.Module) -> tuple[Tensor, Tensor]:
    """(down [n r, inputs], up [sum of outputs, n r]) of n layers that are one; those without adapter are zero."""
    down = next(factors[path][0] for path in paths if path in factors)
    downs, ups = [], []
    for path in paths:
        if path in factors:
            a, b = factors[path]
        else:
            outputs: int = network.get_submodule(path).out_features  # type: ignore[assignment]
            a, b = torch.zeros_like(down), down.new_zeros(outputs, len(down))
        downs.append(a)
        ups.append(b)
    return torch.cat(downs), torch.block_diag(*ups)


LAYOUTS: dict[str, Callable[[Factors, nn.Module], dict[str, Tensor]]] = {
    "unet": unet,
    "sgm": sgm,
    "mmdit": transformer((("transformer_blocks", "joint_blocks", MMDIT),)),
    "flux": transformer(
        (
            ("transformer_blocks", "double_blocks", FLUX_DOUBLE),
            ("single_transformer_blocks", "single_blocks", FLUX_SINGLE),
        )
    ),
}
