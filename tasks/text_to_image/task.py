"""Text to image in one step: the parts of the run, its previews, and what is done with the result."""

import copy
import tempfile
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from scorefield import noise_laws, resources
from scorefield.denoiser import Condition, Denoiser, pick
from scorefield.errors import UserError
from scorefield.generators.base import GENERATORS, Generator
from scorefield.generators.one_step import OneStepGenerator, no_condition
from scorefield.generators.weights import apply_weights, load_generator, saved_weights
from scorefield.images import save_grid, save_image
from scorefield.monitors import Probe
from scorefield.processes import is_main
from scorefield.random import Draws
from scorefield.registry import check_options, construct
from scorefield.task import Players, Task
from scorefield.teachers import shared
from scorefield.teachers.auto import open_teacher
from scorefield.teachers.base import Teacher
from scorefield.teachers.known import KNOWN, write_known
from scorefield.teachers.pipeline import PipelineTeacher

from . import cost, evaluate, export
from .prompts import make_cache, read_prompts, warn_of_cuts
from .settings import TextToImageConfig

PREVIEW_SEED = 20  # start noise of the grids over time
WATCH_SEED, WATCHED_PROMPTS, WATCHED_SAMPLES = 21, 4, 4  # what the monitors see


class TextToImage(Task):
    """Distil a diffusers pipeline into x = D(s z, s, text), from prompts alone."""

    name = "text_to_image"
    summary = "one-step text-to-image from a many-step diffusion teacher, prompts only"
    Config = TextToImageConfig
    config: TextToImageConfig
    watched: tuple[Tensor, dict[str, Tensor]] | None = None
    running: evaluate.Running | None = None  # made by build
    stood_in: str = ""  # the hub id whose configuration is a stand-in's

    def check(self) -> None:
        self.config.build_loss()
        self.pipeline = self.open_pipeline()
        named = self.config.generator
        low, high = self.pipeline.sigma_min, self.pipeline.sigma_max
        if not low <= named.init_sigma <= high:
            raise UserError(
                f"generator.init_sigma {named.init_sigma:g} is beyond what the teacher knows, {low:.3g} to {high:.3g}"
            )
        steps, most = self.config.evaluation.teacher_steps, getattr(self.pipeline.process, "steps", None)
        if steps and most and steps > most:
            raise UserError(f"evaluation.teacher_steps {steps} is more than the teacher's {most} timesteps")
        check_options("generator", named.name, GENERATORS.get(named.name), named.options, given=4)
        for law in (self.config.training.generator_noise, self.config.training.online_noise):
            noise_laws.build(law, self.pipeline)
        noise_laws.online_weighting(self.config.training.online_weighting)
        self.prompts = read_prompts(self.config)
        if self.config.evaluation.judge != "none":
            resources.asset(self.config.evaluation.judge)
        start = Path(self.config.generator.init)
        if self.config.generator.init != "teacher" and not start.is_dir():  # a run may still have to save its first
            saved_weights(start)

    def open_pipeline(self) -> Teacher:
        """The teacher of the configuration."""
        return open_teacher(self.config.teacher, self.device)

    def make_generator(self, denoiser, conditions=no_condition) -> Generator:
        """The named generator around a trainable copy of the teacher's denoiser."""
        settings = self.config.generator
        given = denoiser, self.pipeline.latent_shape, self.init_sigma(), conditions
        return construct("generator", settings.name, GENERATORS.get(settings.name), settings.options, *given)

    def init_sigma(self) -> float:
        """The configured input noise level, moved to the nearest timestep of the teacher's own schedule.

        There the exported folder, which can only name timesteps, computes exactly what the generator computes.
        """
        return self.pipeline.nearest_sigma(self.config.generator.init_sigma)

    # ------------------------------------------------------------------ training

    def build(self) -> Players:
        warn_of_cuts(self.pipeline, self.prompts.train)
        file = self.folder.path / "cache" / "text.safetensors" if is_main() else None
        cache = make_cache(self.pipeline, self.prompts.train, file, self.device)
        players = self.players(self.pipeline.denoiser(), cache)
        self._prepare_previews()
        self.pipeline.release_text_encoder()
        return players

    def players(self, teacher: Denoiser, conditions) -> Players:
        """The three roles, each a network of its own or an adapter on the teacher's weights."""
        # master weights stay float32 for what is trained, whatever the frozen teacher is kept in
        roles: dict[str, Denoiser] = {
            role: copy.deepcopy(teacher).float().requires_grad_(True)
            for role, settings in (("generator", self.config.generator), ("online", self.config.online))
            if settings.kind == "full"
        }
        teacher, views = shared.share(teacher, self.adapters(), self.config.training.seed)
        roles |= views
        generator = self.make_generator(roles["generator"], conditions)
        if self.config.generator.init != "teacher":
            load_generator(generator, Path(self.config.generator.init))
        return Players(teacher, roles["online"], generator)

    def stand_in(self) -> None:
        settings = self.config.teacher
        if settings.path in KNOWN:
            self.configuration = tempfile.TemporaryDirectory()  # as long as the task: parts are read when asked for
            self.stood_in = settings.path
            settings.path = str(write_known(settings.path, Path(self.configuration.name)))

    def rehearse(self) -> Players:
        self.stand_in()
        self.pipeline = self.open_pipeline()
        if not isinstance(self.pipeline, PipelineTeacher):
            named = self.config.teacher.name
            raise UserError(f"only diffusers pipelines are timed and estimated, not teacher.name={named}")
        told = self.pipeline.random_condition(8)

        def conditions(draws: Draws) -> tuple[Condition, Condition]:
            chosen = pick(told, draws.indices % 8)
            return chosen, chosen

        return self.players(self.pipeline.random_denoiser(), conditions)

    def memory_beside(self) -> dict[str, int]:
        return cost.memory_beside(self.pipeline, self.prompts.train)

    def adapters(self) -> dict[str, shared.Adapter]:
        """Roles that live on the teacher's own weights."""
        kinds = (("generator", self.config.generator), ("online", self.config.online))
        return {
            role: shared.Adapter(settings.lora_rank, tuple(settings.lora_targets))
            for role, settings in kinds
            if settings.kind == "lora"
        }

    def plan(self) -> list[str]:
        return [
            f"teacher {self.stood_in or self.config.teacher.path}: {self.pipeline.prediction} prediction, "
            f"latents {tuple(self.pipeline.latent_shape)}",
            f"prompts: {len(self.prompts.train)} from {self.config.prompts.path}, measured on "
            + ("the same ones" if self.prompts.shared else f"{len(self.prompts.held_out)} others"),
            f"generator: x = D(s z, s, text), s = {self.init_sigma():.4f}, from {self.config.generator.init}",
        ]

    def _prepare_previews(self) -> None:
        prompts = evaluate.repeated(self.prompts.held_out, self.config.evaluation.preview)
        self.preview_prompts = prompts
        self.preview_text = self.pipeline.encode(prompts)
        self.preview_z = evaluate.start_noise(self.pipeline, len(prompts), PREVIEW_SEED, self.device)
        self.running = evaluate.Running(self) if evaluate.Running.wanted(self.config) else None

    def preview(self, generator: Generator, iteration: int) -> dict[str, float]:
        latents = evaluate.one_step(generator, self.preview_z, self.preview_text)
        images = self.pipeline.decode(latents)
        path = self.folder.samples / f"iteration-{iteration:06d}.png"
        columns = min(8, len(images))
        save_grid(images, path, columns)
        if not (self.folder.samples / "layout.json").exists():
            from scorefield.files import write_json

            layout = {"prompts": self.preview_prompts, "columns": columns, "tile": images.shape[-1]}
            write_json(self.folder.samples / "layout.json", layout)
        if self.running is not None:
            return self.running.of_generator(self, generator)
        if self.config.evaluation.judge == "none":
            return {}
        return evaluate.grid_accuracy(self.config, images, self.preview_prompts)

    def probe(self, generator: Generator) -> Probe:
        count = WATCHED_PROMPTS * WATCHED_SAMPLES
        if self.watched is None:
            rows = torch.arange(count, device=self.device) // WATCHED_SAMPLES % len(self.preview_prompts)
            text = {key: value[rows] for key, value in self.preview_text.items()}
            self.watched = evaluate.start_noise(self.pipeline, count, WATCH_SEED, self.device), text
        z, text = self.watched
        x0 = evaluate.one_step(generator, z, text)
        shape = (WATCHED_PROMPTS, WATCHED_SAMPLES)
        return Probe(x0.unflatten(0, shape), self.pipeline.decode(x0).unflatten(0, shape), text)

    # ------------------------------------------------------------------ afterwards

    def finish(self, generator: Generator) -> dict[str, Any]:
        return evaluate.full(self, generator, self.config.evaluation.samples)

    def restore(self, weights: dict[str, Tensor]) -> Generator:
        """The averaged generator of a checkpoint, without its prompt cache."""
        self.pipeline = self.open_pipeline()
        denoiser: Denoiser = self.pipeline.denoiser()
        adapters = {role: adapter for role, adapter in self.adapters().items() if role == "generator"}
        views = shared.share(denoiser, adapters)[1]
        generator = self.make_generator(views["generator"] if views else denoiser.float())
        apply_weights(generator, weights)
        return generator.eval().requires_grad_(False)

    def sample(self, weights: dict[str, Tensor], prompts: list[str], seed: int, out: Path) -> list[Path]:
        generator = self.restore(weights)
        warn_of_cuts(self.pipeline, prompts)
        z = evaluate.start_noise(self.pipeline, len(prompts), seed, self.device)
        images = self.pipeline.decode(evaluate.one_step(generator, z, self.pipeline.encode(prompts)))
        paths = []
        for number, (image, prompt) in enumerate(zip(images, prompts, strict=True)):
            words = "-".join("".join(c if c.isalnum() else " " for c in prompt.lower()).split())[:60]
            paths.append(out / f"{number:03d}-{words or 'empty'}.png")
            save_image(image, paths[-1])
        return paths

    def evaluate(self, weights: dict[str, Tensor], samples: int) -> dict[str, Any]:
        generator = self.restore(weights)
        self.prompts = read_prompts(self.config, samples)
        return evaluate.full(self, generator, samples)

    def export(self, weights: dict[str, Tensor], out: Path) -> Path:
        generator = self.restore(weights)
        if type(generator) is not OneStepGenerator or not isinstance(self.pipeline, PipelineTeacher):
            named = f"teacher.name={self.config.teacher.name} generator.name={self.config.generator.name}"
            raise UserError(f"stock diffusers runs no {named}: only one_step of a diffusers pipeline is exported")
        if isinstance(generator.denoiser, shared.AdapterView):
            generator.denoiser = shared.merged(generator.denoiser)
        return export.write_pipeline(self.pipeline, generator, out)
