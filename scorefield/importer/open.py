"""Any stored network as a module: an official pickle, the folder it was converted to, or a file pair of our own."""

import difflib
from pathlib import Path

from torch import nn

from scorefield import networks, resources
from scorefield.errors import UserError
from scorefield.importer.load import load
from scorefield.networks.store import apply_recorded, build_around

DIALECTS = {"stylegan2-ada-pytorch": "stylegan2-ada", "stylegan3": "stylegan3"}


def stored(path: Path) -> bool:
    """Whether ``open_network`` finds something at ``path``."""
    return path.exists() or path.with_name(f"{path.name}.json").is_file()


def locate(path: str) -> Path:
    """A path that exists, or the same below assets/."""
    given = Path(path)
    inside = resources.root() / "assets" / path
    return inside if not stored(given) and stored(inside) else given


def nearest(path: Path) -> str:
    """The embedded network whose name is most like ``path``, "" where none is."""
    here = (resources.root() / "assets").glob("*/*.safetensors")
    return next(iter(difflib.get_close_matches(str(path), [f"{file.parent.name}/{file.stem}" for file in here], 1)), "")


def absent(path: Path, near: str) -> str:
    """What is said of a path with no network; ``near`` is one that is there."""
    meant = f' (did you mean "{near}"?)' if near else ""
    return (
        f'there is no network at "{path}"{meant}: give a .pkl, a converted folder, PATH of PATH.safetensors, or a '
        "diffusers folder or hub id"
    )


def open_network(path: Path | str, network: str | None = None) -> nn.Module:
    """The network at ``path`` on the CPU, in float32, with the settings that were in force where it was trained.

    Args:
        path: an official .pkl, a folder that ``scorefield import`` wrote, PATH of PATH.safetensors and PATH.json, or a
            pixel-space pipeline of diffusers (folder or hub id), which becomes a ``PixelUNet``.
        network: which of a pickle's networks (G_ema, G, D, ema); None takes the first of G_ema, ema, G.

    Raises:
        ImportRefused: a pickle or folder that cannot be imported. UserError: there is nothing of that name, or tensors
            and architecture do not fit.
    """
    path = Path(path)
    if not path.with_name(f"{path.name}.json").is_file():
        from scorefield.teachers.pixel_unet import is_pipeline, open_pixel_unet

        if is_pipeline(path):
            try:
                return open_pixel_unet(path)
            except UserError as error:
                near = nearest(path)
                raise UserError(absent(path, near) if near else str(error).removeprefix("teacher.path ")) from error
    if not stored(path):
        raise UserError(absent(path, nearest(path)))
    if not path.exists():
        return networks.load(path)
    imported = load(path, network)
    dialect = DIALECTS.get(imported.provenance.dialect)
    built = build_around(imported.state, imported.class_name, imported.kwargs, imported.args, dialect)
    apply_recorded(built, {name: module.attributes for name, module in imported.modules.items()})
    return built
