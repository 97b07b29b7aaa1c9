"""Measure and show particles beside the teacher's own samples of the prompt and real pictures of it."""

import html
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from scorefield import resources
from scorefield.data import toybox as world
from scorefield.evaluation import toybox
from scorefield.evaluation.judge import Judge
from scorefield.evaluation.metrics import pairwise_diversity
from scorefield.files import write_json, write_text
from scorefield.images import save_grid, save_image
from scorefield.random import Draws
from scorefield.report.source import data_uri

if TYPE_CHECKING:
    from .task import ParticlesTask

TEACHER_SEED, REAL_START = 11, 60_000_000
ROWS = {
    "real": "Toybox itself: what the prompt leaves open, varies",
    "teacher": "the teacher, sampled in {steps} steps, guidance {guidance:g}",
    "student": "the particles",
}


def unseen(prompt: str) -> str:
    """Why the embedded world's judge cannot read the prompt; "" when it can."""
    if world.parse(prompt) is not None:
        return ""
    return (
        f'"{prompt}" names no Toybox object and colour, so its judge can read nothing: '
        f"objects are {', '.join(world.OBJECTS)}; colours {', '.join(world.COLORS)}"
    )


def judge_of(task: "ParticlesTask") -> Judge:
    return Judge.load(resources.asset(task.config.evaluation.judge) / "judge", task.device)


def figures(task: "ParticlesTask", pictures: Tensor) -> dict[str, Any]:
    """Judged share of the prompt (None where it cannot be read), how far apart the pictures lie, how many views."""
    judge, prompt = judge_of(task), task.config.prompt
    verdict = toybox.judge_pictures(judge, pictures, [prompt] * len(pictures))
    readable = not unseen(prompt)
    right = verdict.all_right
    views = verdict.reading.labels["view"][right]
    return {
        "prompt_accuracy": right.float().mean().item() if readable else None,
        "diversity": pairwise_diversity(verdict.reading.features) if len(pictures) > 1 else None,
        "views": len(views.unique()) if readable else None,
    }


@torch.no_grad()
def teacher_pictures(task: "ParticlesTask", count: int) -> tuple[Tensor, float]:
    """The teacher's own samples of the prompt, and the guidance scale that they were drawn at."""
    settings = task.config.evaluation
    scale = task.config.training.guidance_scale if settings.teacher_guidance is None else settings.teacher_guidance
    z = Draws(TEACHER_SEED, -1, torch.arange(count, device=task.device)).normal("z", *task.pipeline.latent_shape)
    condition = task.pipeline.encode([task.config.prompt] * count)
    latents = task.pipeline.sample(
        task.pipeline.denoiser(), condition, z, steps=settings.teacher_steps, guidance_scale=scale
    )
    return task.pipeline.decode(latents), scale


def full(task: "ParticlesTask", points: Tensor) -> dict[str, Any]:
    """Figures of particles, teacher and real pictures; writes evaluation/ and the report's own section."""
    made = {"student": task.pipeline.decode(points)}
    made["teacher"], guidance = teacher_pictures(task, len(points))
    told: dict[str, Any] = {"steps": task.config.evaluation.teacher_steps, "guidance": guidance}
    judged = task.config.evaluation.judge != "none"
    if judged and not unseen(task.config.prompt):
        prompts = [task.config.prompt] * len(points)
        side = made["student"].shape[-1]
        made["real"] = toybox.real_pictures(prompts, world.TEST_SEED, REAL_START, task.device, side)
    result: dict[str, Any] = {"prompt": task.config.prompt, "particles": len(points)}
    for who in ("real", "teacher", "student"):
        if who in made:
            result[who] = (told if who == "teacher" else {}) | (figures(task, made[who]) if judged else {})
    if judged:
        result["feature_network"] = f"scorefield judge ({task.config.evaluation.judge})"
    show(task, made, result)
    return result


def show(task: "ParticlesTask", made: dict[str, Tensor], result: dict[str, Any]) -> None:
    """Grids of each set, every particle as a picture, and a section for the page."""
    folder = task.folder
    columns = min(8, len(made["student"]))
    for number, picture in enumerate(made["student"]):
        save_image(picture, folder.evaluation / "particles" / f"{number:03d}.png")
    blocks = []
    for who, text in ROWS.items():
        if who not in made:
            continue
        path = folder.evaluation / f"{who}.png"
        save_grid(made[who], path, columns)
        found = result[who]
        notes = [text.format(**result["teacher"])]
        if found.get("diversity") is not None:
            notes.append(f"diversity {found['diversity']:.2f}")
        if found.get("prompt_accuracy") is not None:
            notes.append(f"{100 * found['prompt_accuracy']:.0f} % read as the prompt, {found['views']} of 3 views")
        picture = f'<img src="{data_uri(path.read_bytes(), "image/png")}" style="max-width: 100%" alt="{who}">'
        blocks.append(f'<p class="note">{html.escape("; ".join(notes))}</p>{picture}')
    title = f"{len(made['student'])} particles of “{html.escape(task.config.prompt)}”"
    write_text(folder.path / "report" / "particles.html", f"<h2>{title}</h2>{''.join(blocks)}\n")
    write_json(folder.evaluation / "particles.json", result)
