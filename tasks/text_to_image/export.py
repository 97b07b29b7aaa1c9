"""Export the generator for stock diffusers: a whole pipeline, a LoRA's files, and a model card."""

import inspect
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from scorefield.errors import UserError, suggest
from scorefield.export import lora as lora_files
from scorefield.export import usage
from scorefield.export.card import Base, Card, base_of
from scorefield.export.lora import Lora, lora_of
from scorefield.export.schedule import Schedule, schedule_for, steps_of
from scorefield.files import read_json, write_folder, write_text
from scorefield.generators.one_step import OneStepGenerator
from scorefield.runfolder import RunFolder
from scorefield.teachers.pipeline import PipelineTeacher
from scorefield.teachers.shared import AdapterView, merged

ONLY = ("pipeline", "lora", "kohya")
SAMPLES = 8
FOLDED = """ The stock pipeline starts from unit noise: the factor of the generator's start is folded into the network's
first layer, and that of its result into the autoencoder's `scaling_factor`, so exchange neither part for another's."""
LATENTS = """ The start noise is handed over with a factor: the generator's input is pure noise of its own level."""


@dataclass
class Wanted:
    """What is to be written, and what its card says beside the run.

    Attributes:
        teacher: as the configuration names it.
        only: "" for all that the run has, else "pipeline", "lora" or "kohya".
        base_model: hub id of the teacher, where the card cannot tell. license, license_link: of the result.
    """

    only: str = ""
    base_model: str = ""
    license: str = ""
    license_link: str = ""
    teacher: str = ""

    def __post_init__(self) -> None:
        if self.only and self.only not in ONLY:
            raise UserError(f'--only "{self.only}" is unknown: {suggest(self.only, ONLY)}')

    def has(self, part: str) -> bool:
        return not self.only or part == self.only


def write(teacher: PipelineTeacher, generator: OneStepGenerator, folder: RunFolder, out: Path, wanted: Wanted) -> Path:
    """Write the folder ``out``, whole or not at all; an adapter is merged where it becomes a pipeline.

    Raises UserError if ``out`` is there and holds something else, and for what the student or its family does not have.
    """
    if out.exists() and any(out.iterdir()) and not ((out / "model_index.json").exists() or (out / "lora").exists()):
        raise UserError(f"{out} exists and is no export: name another with --out")
    given, levels = wanted, steps_of(generator)
    view = generator.denoiser if isinstance(generator.denoiser, AdapterView) else None
    if given.only in ("lora", "kohya") and view is None:
        raise UserError(f"--only {given.only} needs a student that is an adapter: this run has generator.kind=full")
    base = base_of(given.teacher or teacher.path, given.base_model, given.license, given.license_link)
    lora = lora_of(view) if view is not None and (given.has("lora") or given.has("kohya")) else None
    laid = lora and lora_schedule(teacher, generator, strict=bool(given.only))
    whole = schedule_for(teacher, generator) if given.has("pipeline") else None
    stock = None
    if whole is not None:
        generator.denoiser = merged(view) if view is not None else generator.denoiser
        stock = assembled(teacher, generator.denoiser.network, whole)

    def fill(part: Path) -> None:
        texts = []
        if stock is not None and whole is not None:
            with folded(generator.denoiser.network, teacher.input_layer, teacher.part("vae"), whole):
                stock.save_pretrained(part)
            texts.append(pipeline_usage(teacher, whole, out.name))
        if lora and laid:
            texts.append(write_adapter(teacher, lora, laid, part / "lora", out.name, base, given.only))
        card = make_card(teacher, folder, out.name, len(levels), stock is None, base, "\n\n".join(texts))
        card.samples = copy_samples(folder, part)
        write_text(part / "README.md", card.text())

    write_folder(out, fill)
    return out


# ---------------------------------------------------------------------- the pipeline


@contextmanager
def folded(network: Any, layer: str, vae: Any, schedule: Schedule) -> Iterator[None]:
    """Within, the network's input and the autoencoder's are multiplied by the schedule's factors."""
    weight, scaling = network.get_submodule(layer).weight, vae.config.scaling_factor
    kept = weight.detach().clone()
    try:
        with torch.no_grad():
            weight.mul_(schedule.into)
        vae.register_to_config(scaling_factor=scaling / schedule.out)
        yield
    finally:
        with torch.no_grad():
            weight.copy_(kept)
        vae.register_to_config(scaling_factor=scaling)


def assembled(teacher: PipelineTeacher, network: Any, schedule: Schedule) -> Any:
    """The stock pipeline; parts that no picture needs (a safety checker) are left out."""
    import diffusers

    kind = getattr(diffusers, teacher.index["_class_name"])
    taken = inspect.signature(kind.__init__).parameters
    found: dict[str, Any] = {teacher.network_part: network, "scheduler": schedule.scheduler}
    for name, value in teacher.index.items():
        if name.startswith("_") or name in found or name not in taken:
            continue
        if not isinstance(value, list):
            found[name] = value  # a setting of the pipeline
        else:
            found[name] = teacher.part(name) if name.startswith(("tokenizer", "text_encoder", "vae")) else None
    if "requires_safety_checker" in taken:
        found["requires_safety_checker"] = False
    stock = kind(**found)
    if "id2label" in teacher.index:  # DiTPipeline takes it but does not keep it
        stock.register_to_config(id2label=teacher.index["id2label"])
    return stock


def place_of(path: str) -> str:
    """Where a base lies, as Python is told: an asset by its place in this repository."""
    asset = "/" not in path and not Path(path).is_dir()
    return f"assets/{path}/pipeline" if asset else path


def prompt_of(teacher: PipelineTeacher) -> str:
    """A prompt as Python, for the card."""
    if teacher.index["_class_name"] == "DiTPipeline":
        return repr(next(iter(getattr(teacher, "labels", {})), "0"))
    return '"a blue robot, front view"'


def pipeline_usage(teacher: PipelineTeacher, schedule: Schedule, name: str) -> str:
    code = usage.whole(teacher, schedule, name, prompt_of(teacher))
    told = f"## Use\n\n```python\n{code}```\n\nKeep the steps and the guidance as above."
    return told + (FOLDED if schedule.into != 1 else "") + (LATENTS if schedule.start is not None else "")


# ---------------------------------------------------------------------- the LoRA


def lora_schedule(teacher: PipelineTeacher, generator: OneStepGenerator, strict: bool) -> Schedule | None:
    """How the stock pipeline runs with the LoRA on it; None (unless ``strict``) where it cannot."""
    try:
        return schedule_for(teacher, generator, fold=False)
    except UserError:
        if strict:
            raise
        return None


def write_adapter(
    teacher: PipelineTeacher, lora: Lora, schedule: Schedule, folder: Path, name: str, base: Base, only: str
) -> str:
    """Write the LoRA's files and its scheduler into ``folder``; returns the card's section on them."""
    schedule.scheduler.save_pretrained(folder / "scheduler")
    parts, missing = ["## The LoRA alone"], ""
    if only == "kohya":
        lora_files.write_kohya(teacher, lora, folder)
    else:
        layout, missing = lora_files.write_lora(teacher, lora, folder)
        code = usage.adapter(
            teacher, schedule, base.hub or place_of(base.path), f"{name}/lora", layout, prompt_of(teacher)
        )
        parts.append(f"```python\n{code}```")
        if layout == "peft":
            parts.append(f"{teacher.index['_class_name']} has no `load_lora_weights`: the layout is peft's.")
    parts.append(f"{missing[0].upper()}{missing[1:]}." if missing else usage.comfy(teacher, schedule.levels))
    return "\n\n".join(parts)


# ---------------------------------------------------------------------- the card


def make_card(
    teacher: PipelineTeacher, folder: RunFolder, name: str, steps: int, bare: bool, base: Base, text: str
) -> Card:
    """The card of the export; ``bare``: there is no pipeline, only a LoRA for one."""
    many = "one step" if steps == 1 else f"{steps} steps"
    labels = teacher.index["_class_name"] == "DiTPipeline"
    title = f"A student of {base.name} that makes a picture in {many}, distilled by matching scores with scorefield."
    tags = ["one-step" if steps == 1 else "few-step", "distillation", "score-distillation", "scorefield"]
    if not labels:
        tags.insert(0, "text-to-image")
    return Card(
        name=name,
        title=title,
        usage=text,
        base=base,
        folder=folder,
        relation="adapter" if bare else "finetune",
        tags=[*tags, "lora"] if bare else tags,
        task="" if labels else "text-to-image",
    )


def copy_samples(folder: RunFolder, out: Path) -> list[tuple[str, dict[str, str]]]:
    """The run's first pairs of pictures, copied to ``out``/samples."""
    record = folder.evaluation / "pairs.json"
    found = []
    for entry in (read_json(record) if record.exists() else [])[:SAMPLES]:
        files = {}
        for who in ("teacher", "student"):
            source = folder.path / str(entry.get(who))
            if source.is_file():
                files[who] = f"samples/{source.name}"
                (out / "samples").mkdir(parents=True, exist_ok=True)
                shutil.copyfile(source, out / files[who])
        if "student" in files:
            found.append((str(entry.get("prompt", "")), files))
    return found
