"""Python that runs an exported student with stock diffusers, as it stands in the export's README."""

from typing import Any

from scorefield.export.lora import KOHYA, WEIGHTS
from scorefield.export.schedule import Schedule
from scorefield.teachers import hub
from scorefield.teachers.pipeline import PipelineTeacher


def call(teacher: PipelineTeacher, schedule: Schedule, prompt: str) -> str:
    """The lines that make one picture with ``pipe``."""
    told: dict[str, Any] = schedule.options | teacher.stock_options()
    said = prompt if teacher.index["_class_name"] != "DiTPipeline" else f"pipe.get_label_ids([{prompt}])"
    arguments, lines = [said, *(f"{key}={value!r}" for key, value in told.items())], []
    if schedule.start is not None:
        shape = ", ".join(str(side) for side in (1, *teacher.stock_latents()))
        lines.append(f"noise = torch.randn({shape}, generator=torch.Generator().manual_seed(0))")
        arguments.insert(1, f"latents={schedule.start:.9g} * noise")
    lines.append(f"image = pipe({', '.join(arguments)}).images[0]")
    return "\n".join(lines)


def loading(teacher: PipelineTeacher, path: str) -> str:
    """Arguments of from_pretrained: the path, and None for absent parts that the class does not know as optional."""
    import diffusers

    without = hub.absent(teacher.index, getattr(diffusers, teacher.index["_class_name"]))
    return ", ".join([f'"{path}"', *(f"{part}=None" for part in without)])


def whole(teacher: PipelineTeacher, schedule: Schedule, name: str, prompt: str) -> str:
    """How the exported pipeline ``name`` is run."""
    kind = teacher.index["_class_name"]
    return (
        f"import torch\nfrom diffusers import {kind}\n\n"
        f"pipe = {kind}.from_pretrained({loading(teacher, name)})\n{call(teacher, schedule, prompt)}\n"
    )


def adapter(
    teacher: PipelineTeacher, schedule: Schedule, base: str, folder: str, layout: str, prompt: str, file: str = WEIGHTS
) -> str:
    """How the LoRA in ``folder`` is laid on the stock pipeline ``base``; ``layout`` is "diffusers" or "peft"."""
    kind, scheduler = teacher.index["_class_name"], type(schedule.scheduler).__name__
    load, more = f'pipe.load_lora_weights("{folder}", weight_name="{file}")', ""
    if layout == "peft":
        part = f"pipe.{teacher.network_part}"
        load, more = f'{part} = PeftModel.from_pretrained({part}, "{folder}")', "from peft import PeftModel\n"
    return (
        f"import torch\nfrom diffusers import {kind}, {scheduler}\n{more}\n"
        f"pipe = {kind}.from_pretrained({loading(teacher, base)})\n"
        f'pipe.scheduler = {scheduler}.from_pretrained("{folder}", subfolder="scheduler")\n'
        f"{load}\n{call(teacher, schedule, prompt)}\n"
    )


def comfy(teacher: PipelineTeacher, levels: list[float]) -> str:
    """A sentence on kohya's file; noise levels as ComfyUI counts them (a flow's are its times)."""
    flow = teacher.prediction == "flow"
    sigmas = [level / (1 + level) if flow else level for level in levels]
    told = ", ".join(f"{value:.4f}" for value in [*sigmas, 0.0])
    return (
        f"`{KOHYA}` holds the same LoRA under kohya's keys for ComfyUI: put it on the base model with strength 1, and "
        f"sample with guidance 1 at the noise levels {told} (custom sigmas; `lcm` for several steps, `euler` for one)."
    )
