"""Which network a run's adapters were trained on: base.json in its folder, compared before they are used again.

A LoRA of another base with the same shapes (a fine-tuned copy, a newer release) loads without a word and makes bad
pictures. The digest is of the weights in bfloat16, so that it does not depend on ``teacher.dtype``.
"""

from pathlib import Path

import torch
from torch import nn

from scorefield.errors import UserError
from scorefield.files import read_json, write_json
from scorefield.prompts import fingerprint

NAME = "base.json"


def digest(denoiser: nn.Module) -> str:
    """12 hex digits of a denoiser's network without adapters, whatever precision it was loaded in."""
    return fingerprint.of_module(getattr(denoiser, "network", denoiser), torch.bfloat16)


def note(run: Path, teacher: str, found: str) -> None:
    """Write down that the adapters of a run lie on the network ``found``, which the teacher ``teacher`` gave."""
    write_json(run / NAME, {"teacher": teacher, "network": found})


def check(source: Path, teacher: str, found: str) -> None:
    """Raise UserError where the adapters of ``source``, a run or one of its checkpoints, lie on another network.

    Silent where the run did not write it down, and for files of weights alone.
    """
    run = next((folder for folder in (source, source.parent.parent) if (folder / NAME).is_file()), None)
    if run is None or source.is_file():
        return
    base = read_json(run / NAME)
    if base.get("network") != found:
        raise UserError(
            f"the LoRA of {source} is for another base: it was trained on the weights {base.get('network')} of "
            f"{base.get('teacher')}, and {teacher} has {found}; give that teacher as teacher.path"
        )
