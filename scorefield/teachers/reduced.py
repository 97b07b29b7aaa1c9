"""A small network of a teacher's own class, of random weights, to see on any machine that a preset runs."""

import json
from pathlib import Path
from typing import Any

from scorefield.errors import UserError
from scorefield.files import write_json
from scorefield.teachers import hub
from scorefield.teachers.known import KNOWN, write_known
from scorefield.teachers.pipeline import folder_or_id

LAYERS, HEADS, SIDE = 2, 2, 16  # of a transformer; of a sample, in latents
NARROW = 10  # a U-Net's channels are divided by it: 320 become 32, as few as its 32 groups allow
SIZES = {"training.batch": "4", "training.accumulation": "1"}


def write_reduced(path: str, folder: Path) -> Path:
    """The configuration files of the pipeline at ``path`` with a reduced network; raises UserError as ``hub`` does."""
    if path in KNOWN:
        write_known(path, folder)
    else:
        copy_settings(folder_or_id(path), folder)
    for part in ("unet", "transformer"):
        file = folder / part / "config.json"
        if file.exists():
            write_json(file, reduced(json.loads(file.read_text())))
    return folder


def copy_settings(path: str, folder: Path) -> None:
    """What a pipeline of random weights is made of, as it lies at ``path``."""
    index = hub.read_settings(path, "", "model_index.json")
    part = "unet" if "unet" in index else "transformer"
    kept = {name: index[name] for name in ("_class_name", part, "vae", "id2label") if name in index}
    write_json(folder / "model_index.json", kept)
    write_json(
        folder / "scheduler" / "scheduler_config.json", hub.read_settings(path, "scheduler", "scheduler_config.json")
    )
    for name in (part, "vae"):
        if name in kept:
            write_json(folder / name / "config.json", hub.read_settings(path, name, "config.json"))


def reduced(settings: dict[str, Any]) -> dict[str, Any]:
    """A diffusers network's configuration with few and narrow layers; what it is told keeps its size."""
    found = {**settings, "sample_size": min(SIDE, settings.get("sample_size", SIDE))}
    if "block_out_channels" in settings:
        return found | narrow_unet(settings)
    for name in ("num_layers", "num_single_layers"):
        if name in settings:
            found[name] = min(LAYERS, settings[name])
    heads = min(HEADS, settings.get("num_attention_heads", HEADS))
    found["num_attention_heads"] = heads
    width = heads * settings.get("attention_head_dim", 0)
    if "dual_attention_layers" in settings:
        found["dual_attention_layers"] = [layer for layer in settings["dual_attention_layers"] if layer < LAYERS]
    if "caption_projection_dim" in settings:
        found["caption_projection_dim"] = width
    if "num_cross_attention_heads" in settings:
        found |= {"num_cross_attention_heads": heads, "cross_attention_head_dim": settings["attention_head_dim"]}
    if settings.get("cross_attention_dim"):  # of PixArt and SANA: the width itself
        found["cross_attention_dim"] = width
    return found


def narrow_unet(settings: dict[str, Any]) -> dict[str, Any]:
    """Channels of a U-Net, its heads (which the key calls their size) and its transformers' depths."""
    groups = settings.get("norm_num_groups", 32)
    channels = [max(groups, width // NARROW // groups * groups) for width in settings["block_out_channels"]]
    heads, depths = settings.get("attention_head_dim", 8), settings.get("transformer_layers_per_block", 1)
    return {
        "block_out_channels": channels,
        "attention_head_dim": [max(1, number // 5) for number in heads] if isinstance(heads, list) else heads,
        "transformer_layers_per_block": [1 for _ in depths] if isinstance(depths, list) else depths,
    }


def reduce_teacher(config: Any, folder: Path) -> None:
    """Point ``config.teacher`` to a reduced copy of its pipeline's configuration, written into ``folder``.

    Raises UserError for a task whose teacher is no diffusers pipeline.
    """
    teacher = getattr(config, "teacher", None)
    if not hasattr(teacher, "path") or not hasattr(teacher, "options"):
        raise UserError("--reduced makes small copies of diffusers pipelines, and this task's teacher is none")
    teacher.path = str(write_reduced(teacher.path, folder))
    if teacher.options.get("resolution"):
        teacher.options["resolution"] = 8 * SIDE
