"""Which teacher a task with prompts takes; light, so that a configuration is read without the libraries of networks."""

from dataclasses import dataclass, field
from typing import Any

from scorefield.errors import UserError, check_number

FREE = {"free": True}


@dataclass
class TeacherConfig:
    """The diffusion pipeline that is distilled."""

    name: str = "auto"  # told by the pipeline's class; or one of scorefield.teachers, or an installed plugin's
    path: str = "toybox"  # an asset's name, a local diffusers folder, or a hub id
    dtype: str = "float32"  # of the frozen teacher's weights: float32 or bfloat16
    max_tokens: int = 64  # prompts are cut here; PixArt-alpha: 120
    options: dict[str, Any] = field(default_factory=dict, metadata=FREE)  # further ones of the named teacher

    def __post_init__(self) -> None:
        if self.dtype not in ("float32", "bfloat16"):
            raise UserError(f'teacher.dtype "{self.dtype}" is unknown: use float32 or bfloat16')
        check_number("teacher.max_tokens", self.max_tokens, 1)
