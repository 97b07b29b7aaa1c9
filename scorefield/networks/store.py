"""Networks to and from files and state dicts, with the tensor names of the published checkpoints."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from scorefield.errors import UserError
from scorefield.files import read_json, write_atomically, write_json
from scorefield.networks.fresh import weights_left_out
from scorefield.networks.registry import build

# Settings that checkpoints record on single modules, where they overrule what the keyword arguments imply.
RECORDED = {
    *("conv_clamp", "act_gain", "padding", "up", "down", "activation", "use_noise", "use_fp16", "architecture"),
    *("is_last", "w_avg_beta", "weight_gain", "bias_gain", "group_size", "num_channels"),
    *("sigma_min", "sigma_max", "sigma_data", "skip_scale", "adaptive_scale", "dropout", "label_dropout"),
    *("num_heads", "num_groups", "eps", "fused_resample"),
    *("res_balance", "attn_balance", "label_balance", "concat_balance", "clip_act"),
}


def load_state(network: nn.Module, state: Mapping[str, Tensor]) -> None:
    """Copy ``state`` into ``network``: every name and shape must match; dtypes are converted.

    Raises:
        UserError: names the first tensors that are missing, unknown or of another shape; nothing is changed.
    """
    check_state(network, state)
    network.load_state_dict(dict(state), strict=True)


def check_state(network: nn.Module, state: Mapping[str, Tensor]) -> None:
    """UserError that names the first tensors of ``state`` that are missing, unknown or of another shape."""
    own = network.state_dict()
    missing = [name for name in own if name not in state]
    unknown = [name for name in state if name not in own]
    shapes = [
        f"{name} is {list(state[name].shape)}, not {list(value.shape)}"
        for name, value in own.items()
        if name in state and state[name].shape != value.shape
    ]
    for count, what in ((missing, "missing"), (unknown, "unknown"), (shapes, "of another shape")):
        if count:
            more = f" and {len(count) - 3} more" if len(count) > 3 else ""
            raise UserError(f"{type(network).__name__}: tensors {what}: {', '.join(count[:3])}{more}")


def build_around(
    state: dict[str, Tensor],
    class_name: str,
    kwargs: Mapping[str, Any],
    args: Sequence[Any] = (),
    dialect: str | None = None,
) -> nn.Module:
    """The network of ``build``, on the CPU, with the very tensors of ``state``: no weights are made first or copied.

    Args:
        state: every name and shape must match. It is emptied on the way, so that where a dtype must be converted the
            whole network is never in memory twice.

    Raises:
        UserError: as ``build``'s and ``load_state``'s.
    """
    with torch.device("cpu"), weights_left_out():
        network = build(class_name, kwargs, args, dialect)
    check_state(network, state)
    taken: set[int] = set()
    for name, own in network.state_dict().items():
        value = state.pop(name).to(own.dtype)
        if value.data_ptr() in taken:  # two names of one tensor stay two parameters
            value = value.clone()
        taken.add(value.data_ptr())
        path, _, last = name.rpartition(".")
        module = network.get_submodule(path)
        if last in dict(module.named_parameters(recurse=False)):
            module.register_parameter(last, nn.Parameter(value))
        else:
            module.register_buffer(last, value)
    return network


def state_of(network: nn.Module) -> dict[str, Tensor]:
    """A copy of parameters and buffers on the CPU, by official name and in official order."""
    return {name: value.detach().cpu().contiguous().clone() for name, value in network.state_dict().items()}


def apply_recorded(network: nn.Module, attributes: Mapping[str, Mapping[str, Any]]) -> None:
    """Overrule settings of single modules, for example ``{"synthesis.b32.conv1": {"conv_clamp": 256}}``.

    Only names in ``RECORDED`` that the module has are taken; module "" is the network itself. What was applied
    is kept in ``network.recorded``, so that ``save`` writes it.

    Raises:
        UserError: there is no such module, or a value is no plain number, text or None.
    """
    modules = dict(network.named_modules())
    kept: dict[str, dict[str, Any]] = {}
    for path, values in attributes.items():
        if path not in modules:
            raise UserError(f'{type(network).__name__} has no part called "{path}"')
        for name, value in values.items():
            if name not in RECORDED or not hasattr(modules[path], name):
                continue
            if not (value is None or isinstance(value, (bool, int, float, str))):
                raise UserError(f"setting {name} of {path or 'the network'} must be a plain value, not {value!r}")
            setattr(modules[path], name, value)
            kept.setdefault(path, {})[name] = value
    network.recorded = {**getattr(network, "recorded", {}), **kept}


def save(network: nn.Module, path: Path) -> Path:
    """Write ``path``.safetensors (all tensors) and ``path``.json (how to build the network); returns the JSON's path.

    Raises:
        UserError: the network did not come from ``build``, or the files cannot be written.
    """
    from safetensors.torch import save_file

    recipe = getattr(network, "recipe", None)
    if recipe is None:
        raise UserError(f"this {type(network).__name__} was not made by networks.build, so its recipe is unknown")
    path = Path(path)
    described = {**recipe, "recorded": getattr(network, "recorded", {})}
    write_atomically(path.with_name(f"{path.name}.safetensors"), lambda part: save_file(state_of(network), part))
    target = path.with_name(f"{path.name}.json")
    write_json(target, json.loads(json.dumps(described, default=_plain)))
    return target


def _plain(value: Any) -> Any:
    """Numbers of other libraries as Python's; raises UserError for what JSON cannot hold."""
    if hasattr(value, "tolist"):
        return value.tolist()
    raise UserError(f"keyword value {value!r} cannot be written as JSON")


def load(path: Path) -> nn.Module:
    """The network that ``save`` wrote at ``path``, on the CPU.

    Raises:
        UserError: a file is missing or broken, or tensors and recipe do not fit.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    path = Path(path)
    recipe = read_json(path.with_name(f"{path.name}.json"))
    weights = path.with_name(f"{path.name}.safetensors")
    if not isinstance(recipe, dict) or not {"class_name", "kwargs"} <= set(recipe):
        raise UserError(f"{path}.json does not describe a network: it needs class_name and kwargs")
    try:
        state = load_file(weights)
    except (OSError, SafetensorError) as error:
        raise UserError(f"cannot read {weights}: {error}") from error
    network = build_around(state, recipe["class_name"], recipe["kwargs"], dialect=recipe.get("dialect"))
    apply_recorded(network, recipe.get("recorded", {}))
    return network
