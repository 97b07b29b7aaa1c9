"""What an import gives."""

from dataclasses import dataclass
from typing import Any

from torch import Tensor

from scorefield.importer.networks import ROLES
from scorefield.importer.structure import Module


@dataclass(frozen=True)
class Provenance:
    """Where a network came from.

    Attributes:
        file: its name, without folders. sha256, size: of the whole file (size in bytes). network: the key it stood
        under. dialect: "stylegan2-ada-pytorch", "stylegan3", "edm" or "edm2", the repository whose defaults apply.
        sources: SHA-256 of each embedded source text -> the network's classes that it defines; the text is not kept.
    """

    file: str
    sha256: str
    size: int
    network: str
    dialect: str
    sources: dict[str, list[str]]


@dataclass(frozen=True)
class Imported:
    """A network as data: enough to build it anew and ``load_state_dict(state, strict=True)``.

    Attributes:
        class_name: as stored, for example "Generator" or "EDMPrecond".
        args, kwargs: its constructor's arguments, plain data with tuples as lists.
        state: official name -> tensor, contiguous, on the CPU, in the stored dtype, in ``state_dict`` order.
        buffers: the names in ``state`` that are buffers and no parameters.
        modules: dotted path -> what that module recorded, "" being the network itself; ``modules["model"].class_name``
            is "SongUNet" or "DhariwalUNet" in EDM's files. Attributes say which settings were in force where the
            arguments leave them to a repository's defaults.
        provenance: where it came from.
    """

    class_name: str
    args: list[Any]
    kwargs: dict[str, Any]
    state: dict[str, Tensor]
    buffers: frozenset[str]
    modules: dict[str, Module]
    provenance: Provenance

    @property
    def role(self) -> str:
        """ "generator", "discriminator" or "denoiser"."""
        return ROLES[self.class_name]
