"""Any diffusers text-to-image pipeline as a peer in a run's table: opened, called as it wants, and timed.

SDXL-Turbo, Lightning, Hyper and their like differ in steps, guidance, scheduler and LoRA; all of it is an option here.
"""

import inspect
import re
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from scorefield.errors import UserError, check_number, suggest
from scorefield.teachers import hub

NAMED = ("prompt", "num_inference_steps", "guidance_scale", "generator", "output_type", "latents")


@dataclass
class PeerConfig:
    """A pipeline and how it is called.

    Attributes:
        pipeline: folder or hub id. name: of its row; the path's last part if left out.
        steps, guidance: as the pipeline counts them; its own default if left out. Guidance 1 (SDXL: and 0) is off.
        scheduler: class of diffusers, made of the pipeline's own settings and ``scheduler_options``; "": its own.
        lora: file or folder, or ORG/REPOSITORY/FILE of the hub, laid on with strength 1.
        call: further arguments of the call. variant: of the weight files. dtype: of all networks.
        batch: pictures at a time. keep: pictures on disk, for looking and for the preference page.
    """

    pipeline: str = ""
    name: str = ""
    steps: int | None = None
    guidance: float | None = None
    scheduler: str = ""
    scheduler_options: dict[str, Any] = field(default_factory=dict, metadata={"free": True})
    lora: str = ""
    call: dict[str, Any] = field(default_factory=dict, metadata={"free": True})
    variant: str = ""
    dtype: str = "float32"
    batch: int = 16
    keep: int = 24

    def __post_init__(self) -> None:
        if not self.pipeline:
            raise UserError("a peer needs a pipeline: a diffusers folder or a hub id")
        if self.dtype not in ("float32", "bfloat16", "float16"):
            raise UserError(f'dtype "{self.dtype}" is none of float32, bfloat16, float16')
        if self.steps is not None:
            check_number("steps", self.steps, 1)
        if self.guidance is not None:
            check_number("guidance", self.guidance, 0)
        check_number("batch", self.batch, 1)
        check_number("keep", self.keep, 1)
        if taken := [key for key in self.call if key in NAMED]:
            raise UserError(f"call.{taken[0]} is set by this command itself: see --steps and --guidance")
        self.name = self.name or Path(self.pipeline).name
        if self.name in ("real", "teacher", "start", "student") or not re.fullmatch(r"\w[\w .()+-]*", self.name):
            raise UserError(f'"{self.name}" cannot be the name of a peer: give another as name=, of letters and digits')


def is_adapted(part: Any) -> bool:
    """Whether a part of a pipeline is a network with adapters on it."""
    from peft.tuners.tuners_utils import BaseTunerLayer

    return isinstance(part, torch.nn.Module) and any(isinstance(layer, BaseTunerLayer) for layer in part.modules())


class Peer:
    """The pipeline, loaded. Raises UserError for what cannot be had, takes no prompt or knows no such option."""

    def __init__(self, settings: PeerConfig, device: str):
        import diffusers

        self.settings = settings
        try:
            index = hub.read_settings(settings.pipeline, "", "model_index.json")
        except UserError as error:
            raise UserError(str(error).replace("teacher.path", "pipeline")) from error
        kind = getattr(diffusers, str(index.get("_class_name")), None)
        if kind is None:
            raise UserError(f"{settings.pipeline} is a {index.get('_class_name')}, which diffusers does not have")
        self.takes = inspect.signature(kind.__call__).parameters
        if "prompt" not in self.takes:
            raise UserError(f"{settings.pipeline} is a {kind.__name__}, which takes no prompt")
        if unknown := [key for key in settings.call if key not in self.takes]:
            raise UserError(f'{kind.__name__} has no argument "{unknown[0]}": {suggest(unknown[0], self.takes)}')
        absent = dict.fromkeys(hub.absent(index, kind))
        if "safety_checker" in index:  # it blackens pictures
            absent["safety_checker"] = None
        self.pipe = self._open(kind, absent)
        if settings.scheduler or settings.scheduler_options:
            self.pipe.scheduler = self._scheduler()
        if settings.lora:
            self._lay(settings.lora)
        self.pipe.to(device)
        self.pipe.set_progress_bar_config(disable=True)

    def _open(self, kind: Any, absent: dict[str, None]) -> Any:
        options = {"torch_dtype": getattr(torch, self.settings.dtype), **absent}
        if self.settings.variant:
            options["variant"] = self.settings.variant
        try:
            hub.quiet()
            return kind.from_pretrained(self.settings.pipeline, **options)
        except Exception as error:
            told = hub.explain(error, self.settings.pipeline, "the pipeline", self.settings.variant)
            raise UserError(told.replace("teacher.path", "pipeline")) from error

    def _scheduler(self) -> Any:
        import diffusers

        own = self.pipe.scheduler
        name = self.settings.scheduler or type(own).__name__
        kind = getattr(diffusers, name, None)
        if kind is None or not hasattr(kind, "set_timesteps"):
            known = [k for k in dir(diffusers) if k.endswith("Scheduler")]
            raise UserError(f'diffusers has no scheduler "{name}": {suggest(name, known)}')
        known = [key for key in inspect.signature(kind.__init__).parameters if key != "self"]
        if unknown := [key for key in self.settings.scheduler_options if key not in known]:
            raise UserError(f'{name} has no option "{unknown[0]}": {suggest(unknown[0], known)}')
        return kind.from_config(own.config, **self.settings.scheduler_options)

    def _lay(self, lora: str) -> None:
        if not hasattr(self.pipe, "load_lora_weights"):
            raise UserError(f"a {type(self.pipe).__name__} loads no LoRA")
        place, options = lora, dict[str, Any]()
        if not Path(lora).exists():
            if lora.startswith(("/", ".")) or "/" not in lora:
                raise UserError(f"the LoRA {lora} does not exist: give a file, a folder or ORG/REPOSITORY/FILE")
            if lora.count("/") >= 2:
                place, options["weight_name"] = "/".join(lora.split("/")[:2]), "/".join(lora.split("/")[2:])
            options["local_files_only"] = not hub.reachable()
        base = self.settings.pipeline
        hub.quiet()
        try:
            self.pipe.load_lora_weights(place, **options)
            changed = any(map(is_adapted, self.pipe.components.values()))
            self.pipe.fuse_lora()
        except Exception as error:
            if "size mismatch" in str(error):
                first = str(error).split("size mismatch for ")[1].splitlines()[0]
                raise UserError(f"the LoRA {lora} is for another base than {base}: {first}") from error
            reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
            raise UserError(f"cannot lay the LoRA {lora} on {base}: {reason}") from error
        if not changed:  # diffusers passes over keys of other networks, with a warning at most
            raise UserError(
                f"the LoRA {lora} is for another base than {base}: none of its layers is one of a "
                f"{type(self.pipe).__name__}"
            )

    @property
    def steps(self) -> int:
        """Network passes of a picture, guidance not counted."""
        for key in ("timesteps", "sigmas"):
            if self.settings.call.get(key):
                return len(self.settings.call[key])
        return self.settings.steps or int(self.takes["num_inference_steps"].default)

    @property
    def guidance(self) -> float | None:
        """Scale that the pipeline is called with; None where it takes none."""
        if "guidance_scale" not in self.takes:
            return None
        return self.takes["guidance_scale"].default if self.settings.guidance is None else self.settings.guidance

    @torch.no_grad()
    def draw(self, prompts: Sequence[str], seed: int) -> Tensor:
        """Pictures [N, 3, H, W] in [-1, 1] on the host; picture n depends on ``seed``, n and its prompt alone."""
        settings, parts = self.settings, []
        told = dict(settings.call)
        if not any(told.get(key) for key in ("timesteps", "sigmas")):
            told["num_inference_steps"] = self.steps
        if self.guidance is not None:
            told["guidance_scale"] = self.guidance
        elif settings.guidance is not None:
            raise UserError(f"{type(self.pipe).__name__} takes no guidance scale")
        for start in range(0, len(prompts), settings.batch):
            rows = list(prompts[start : start + settings.batch])
            seeds = [torch.Generator().manual_seed(seed * 10**6 + start + n) for n in range(len(rows))]
            try:
                images = self.pipe(rows, generator=seeds, output_type="pt", **told).images
            except (TypeError, ValueError) as error:
                raise UserError(f"{settings.name} cannot be called so: {error}") from error
            parts.append(images.float().cpu() * 2 - 1)
        return torch.cat(parts).clamp(-1, 1)

    def seconds(self, prompts: Sequence[str], seed: int) -> float:
        """Seconds a picture, text and decoding included; the second of two runs."""
        spent = 0.0
        for _ in range(2):
            start = time.perf_counter()
            self.draw(prompts, seed)
            spent = time.perf_counter() - start
        return spent / len(prompts)

    def facts(self) -> dict[str, Any]:
        """What must stand beside its figures."""
        settings = self.settings
        return {
            "pipeline": settings.pipeline,
            "class": type(self.pipe).__name__,
            "scheduler": type(self.pipe.scheduler).__name__,
            "lora": settings.lora,
            "dtype": settings.dtype,
            "call": settings.call | settings.scheduler_options,
        }
