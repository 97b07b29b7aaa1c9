"""The parts of a run with random weights and made-up text, for ``scorefield bench`` and ``--dry-run``.

The field, its cameras and its renderer are the run's own; teacher and autoencoder have the configured sizes.
"""

import dataclasses
import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch

from scorefield.cost.scene import ShadowNerf
from scorefield.denoiser import Condition
from scorefield.errors import UserError
from scorefield.generators.nerf import NerfGenerator
from scorefield.task import Players
from scorefield.teachers.base import Teacher
from scorefield.teachers.pipeline import PipelineTeacher, rehearsable
from scorefield.three_d.camera_law import VIEWS

from .prompts import PromptViews
from .settings import TextTo3DConfig

if TYPE_CHECKING:
    from .task import TextTo3D

PROMPT = "an object"  # where none is given: its words are never read


class MadeUpText(Teacher):
    """What ``PromptViews`` asks of a teacher, with random embeddings."""

    def __init__(self, pipeline: PipelineTeacher):
        self.pipeline = pipeline

    def encode(self, prompts: Sequence[str]) -> Condition:
        return self.pipeline.random_condition(len(prompts))


def players(task: "TextTo3D") -> Players:
    """The three roles and the autoencoder, rendering at the largest of the configured sizes.

    Raises UserError for a teacher that is no diffusers pipeline and, on the meta device, for scenes whose size only a
    run can tell.
    """
    if not task.config.teacher.path:
        raise UserError("no teacher: give teacher.path, a folder, a hub id or one of those known here (docs/scale.md)")
    task.stand_in()
    config = task.config
    task.pipeline = pipeline = rehearsable(task.open_pipeline(), config.teacher.name)
    task.prompt = " ".join((config.prompt or PROMPT).split())
    largest = {0: max(config.render.size.values())}
    config.render = dataclasses.replace(config.render, size=largest)
    autoencoder = pipeline.random_autoencoder()
    torch.manual_seed(config.training.seed)
    views = PromptViews(config, task.prompt, MadeUpText(pipeline))
    pixels = pipeline.compression() * pipeline.latent_shape[-1]
    generator: NerfGenerator
    if task.device == "meta":
        check_known_size(config)
        config.field = dataclasses.replace(config.field, compile=False)  # there is nothing to run it on
        given = config.nerf(), views, pipeline.encode_images, pipeline.decode, pixels
        generator = ShadowNerf(*given).to(task.device)
    else:
        generator = task.make_generator(views, pixels)
    made = task.players(pipeline.random_denoiser(), generator)
    made.beside["autoencoder"] = autoencoder
    return made


def check_known_size(config: TextTo3DConfig) -> None:
    """Raise UserError for scenes that are timed but not estimated."""
    if config.generator.kind != "nerf" or config.texture_of:
        kind = "texture_of" if config.texture_of else f"generator.kind={config.generator.kind}"
        raise UserError(f"only radiance fields are estimated, not {kind}: scorefield bench measures it")


def embedding_bytes(task: "TextTo3D") -> int:
    """Of the text conditions of all views and backgrounds, float32, which stay on the device."""
    if not isinstance(task.pipeline, PipelineTeacher):
        return 0
    told = task.pipeline.random_condition(1)
    rows = (len(VIEWS) + 1) * (len(task.config.background.named) + 1)
    return rows * sum(math.prod(value.shape) * value.element_size() for value in told.values())
