"""Where the weights of a score lie, and one clear sentence where they do not.

A model is a local folder, or a hub id that is already in the hub's cache. Only "hub:ID" ever downloads.
"""

import hashlib
import logging
from pathlib import Path
from typing import Any

from torch import Tensor

from scorefield.errors import UserError
from scorefield.evaluation.features import digest, safe_state

HUB = "hub:"


def where(path: str) -> tuple[str, bool]:
    """(folder or hub id, whether it may be downloaded)."""
    return path.removeprefix(HUB), path.startswith(HUB)


MODEL, PROCESSOR = ("config.json",), ("preprocessor_config.json", "processor_config.json")


def holds(path: str, files: tuple[str, ...]) -> bool:
    """Whether a folder, or the hub's cache of an id, holds one of ``files``."""
    from huggingface_hub import try_to_load_from_cache
    from huggingface_hub.errors import HFValidationError

    name, _ = where(path)
    if Path(name).is_dir():
        return any((Path(name) / file).is_file() for file in files)
    try:
        return any(isinstance(try_to_load_from_cache(name, file), str) for file in files)
    except HFValidationError:
        return False


def check_folder(option: str, path: str, files: tuple[str, ...] = MODEL) -> None:
    """Raise UserError unless a folder or the cache of a hub id holds one of ``files``, or it may be downloaded.

    Args:
        option: the full key of the setting, for the message.
    """
    name, download = where(path)
    if not name:
        raise UserError(f"{option} is missing: give a folder in transformers format, or a hub id")
    if download or holds(path, files):
        return
    if Path(name).is_dir():
        raise UserError(f"{option}={name} is no folder of a transformers model: {files[0]} is missing")
    raise UserError(
        f"{option}={name} is neither a folder nor in the hub's cache: give a folder in transformers format, or "
        f"{HUB}{name} to download it"
    )


def check_file(option: str, path: str, what: str) -> None:
    """Raise UserError unless ``path`` is a file."""
    if not path:
        raise UserError(f"{option} is missing: give {what}")
    if not Path(path).is_file():
        raise UserError(f"{option}={path} does not exist: give {what}")


def pretrained(loader: Any, path: str, **options: Any) -> Any:
    """``loader.from_pretrained`` from a folder or the cache; raises UserError with the reason in one sentence."""
    from scorefield.teachers.hub import quiet

    quiet()
    name, download = where(path)
    logging.getLogger("transformers.modeling_utils").setLevel(logging.ERROR)  # what it warns of is raised below
    try:
        return loader.from_pretrained(name, local_files_only=not download, **options)
    except Exception as error:
        lines = str(error).strip().splitlines()
        raise UserError(
            f"cannot load a {loader.__name__} from {path}: {lines[0] if lines else type(error).__name__}"
        ) from error


def model(loader: Any, path: str) -> Any:
    """A network with all of its weights; raises UserError where some are missing in the folder."""
    network, told = pretrained(loader, path, output_loading_info=True)
    if lost := sorted(told["missing_keys"]):
        raise UserError(
            f"{path} holds no whole {loader.__name__}: {lost[0]} is missing"
            + (f" and {len(lost) - 1} more" if len(lost) > 1 else "")
        )
    return network.eval().requires_grad_(False)


def state_of(path: Path) -> dict[str, Tensor]:
    """Tensors of a .safetensors or torch file, the latter read as data only; a "state_dict" inside is taken.

    Raises UserError for anything that is more than tensors.
    """
    if Path(path).suffix != ".safetensors":
        return safe_state(Path(path))
    from safetensors.torch import load_file

    try:
        return load_file(path)
    except Exception as error:
        raise UserError(f"cannot read weights from {path}: {error}") from error


def fitted(network: Any, state: dict[str, Tensor], path: Path | str) -> Any:
    """``network`` with all of ``state``; raises UserError that names the first key that does not fit."""
    own = network.state_dict()
    if odd := sorted(set(own) ^ set(state)):
        side = "lacks" if odd[0] in own else "has an unknown"
        raise UserError(f"{path} does not fit {type(network).__name__}: it {side} {odd[0]} ({len(odd)} keys differ)")
    for key, value in state.items():
        if value.shape != own[key].shape:
            raise UserError(f"{path}: {key} is {tuple(value.shape)}, and {tuple(own[key].shape)} is wanted")
    network.load_state_dict(state)
    return network.float().eval().requires_grad_(False)


def file_name(path: str | Path) -> str:
    """NAME (first hex digits of its sha256), as a file is told in a summary."""
    return f"{Path(path).name} ({digest(Path(path))[:8]})"


def folder_name(path: str) -> str:
    """A hub id as it is; of a folder its name and the first hex digits of its weights' sha256."""
    name, _ = where(path)
    if not Path(name).is_dir():
        return name
    files = sorted(Path(name).glob("*.safetensors")) or sorted(Path(name).glob("*.bin"))
    seen = hashlib.sha256("".join(digest(file) for file in files).encode()).hexdigest() if files else ""
    return f"{Path(name).resolve().name} ({seen[:8]})" if seen else Path(name).resolve().name
