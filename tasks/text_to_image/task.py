"""Text to image in one step: the parts of the run, its previews, and what is done with the result."""

import copy
import dataclasses
import hashlib
import math
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from scorefield import noise_laws, processes, resources
from scorefield.denoiser import Condition, Denoiser, pick
from scorefield.errors import UserError
from scorefield.evaluation import sweep
from scorefield.evaluation.peers import PeerConfig
from scorefield.generators.base import GENERATORS, Generator
from scorefield.generators.few_step import FewStepGenerator
from scorefield.generators.one_step import OneStepGenerator, no_condition
from scorefield.generators.paired import Paired
from scorefield.generators.terms.anchor import need_lpips, perceptual
from scorefield.generators.weights import apply_weights, load_generator
from scorefield.images import save_grid, save_image
from scorefield.losses.base import Loss
from scorefield.losses.regression import Regression
from scorefield.monitors import Probe
from scorefield.prompts.sources import Conditions, Resident
from scorefield.random import Draws
from scorefield.registry import check_options, construct
from scorefield.task import Players, Task
from scorefield.teachers import base_weights, known, shared
from scorefield.teachers.auto import open_teacher
from scorefield.teachers.base import Teacher
from scorefield.teachers.pairs import describe, make_pairs, refuse_stochastic, stored
from scorefield.teachers.pipeline import PipelineTeacher, rehearsable
from scorefield.training.evaluations import PAIRED

from . import cost, evaluate, export, peers, real
from .prompts import open_conditions, read_prompts, warn_of_cuts
from .settings import TextToImageConfig
from .start import described, first_weights

PREVIEW_SEED = 20  # start noise of the grids over time
WATCH_SEED, WATCHED_PROMPTS, WATCHED_SAMPLES = 21, 4, 4  # what the monitors see


class TextToImage(Task):
    """Distil a diffusers pipeline into x = D(s z, s, text), from prompts alone."""

    name = "text_to_image"
    summary = "one-step text-to-image from a many-step diffusion teacher, prompts only"
    Config = TextToImageConfig
    gives = frozenset({PAIRED})
    config: TextToImageConfig
    watched: tuple[Tensor, dict[str, Tensor]] | None = None
    running: evaluate.Running | None = None  # made by build
    stood_in: str = ""  # the hub id whose configuration is a stand-in's

    def check(self) -> None:
        loss = self.config.build_loss()
        self.config.terms.check(loss)
        self.pipeline = self.open_pipeline()
        named = self.config.generator
        if loss.one_step and issubclass(GENERATORS.get(named.name), FewStepGenerator):
            raise UserError(
                f"loss.name={self.config.loss['name']} trains students of several steps on noised data only, and there "
                f"is none here: use generator.name=one_step in place of {named.name}"
            )
        low, high = self.pipeline.sigma_min, self.pipeline.sigma_max
        if not low <= named.init_sigma <= high:
            raise UserError(
                f"generator.init_sigma {named.init_sigma:g} is beyond what the teacher knows, {low:.3g} to {high:.3g}"
            )
        steps, most = self.config.evaluation.teacher_steps, getattr(self.pipeline.process, "steps", None)
        if steps and most and steps > most:
            raise UserError(f"evaluation.teacher_steps {steps} is more than the teacher's {most} timesteps")
        check_options("generator", named.name, GENERATORS.get(named.name), named.options, given=4)
        shared.check_targets(self.pipeline, self.adapters())
        for law in (self.config.training.generator_noise, self.config.training.online_noise):
            noise_laws.build(law, self.pipeline)
        noise_laws.online_weighting(self.config.training.online_weighting)
        self.prompts = read_prompts(self.config)
        if processes.world() > len(self.prompts.train):
            processes.refuse(
                f"{processes.world()} processes are more than the {len(self.prompts.train)} prompts of "
                f"{self.config.prompts.path}: start fewer, or give more prompts"
            )
        self.pictures = real.open_pictures(self.config, self.pipeline) if self.config.terms.discriminates else None
        if self.config.evaluation.judge != "none":
            resources.asset(self.config.evaluation.judge)
        self._check_pairs(loss)
        self.config.evaluation.check_scores()
        first_weights(self.config)

    def inputs(self) -> dict[str, str]:
        digest = hashlib.sha256("\n".join(self.prompts.train).encode()).hexdigest()
        return {"prompts.path": f"{len(self.prompts.train)} prompts, sha256 {digest}"}

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
        if self.config.generator.init == "auto" and first_weights(self.config) is None:
            self.say(
                "no generator lies beside this teacher, or none that fits: the student starts from the teacher's own"
                " weights; --config from_teacher has rates for that"
            )
        warn_of_cuts(self.pipeline, self.prompts.train)
        if not self.prompts.shared:
            warn_of_cuts(self.pipeline, self.prompts.held_out, "held-out prompts")
        config, cache, thread = self.config, self.folder.cache, ThreadPoolExecutor(1, "ahead")
        conditions = open_conditions(config, self.pipeline, self.prompts.train, cache, self.device, thread)
        self.opened, streams = [conditions], config.prompts.embeddings == "streamed"
        if config.training.sharding != "none" and isinstance(self.pipeline, PipelineTeacher):
            # sharding moves it block by block: no device holds it whole
            teacher: Denoiser = self.pipeline.denoiser(device="cpu")
        else:
            teacher = self.pipeline.denoiser()
        if self.adapters():
            self.check_base(teacher)
        players = self.players(teacher, conditions)
        if PAIRED in config.build_loss().needs:
            players.generator = self.pair(players, conditions)
        if self.pictures is not None:
            pictures = real.open_real(config, self.pipeline, self.pictures, cache, self.device, thread)
            self.opened.append(pictures)
            online = players.online.to(self.device)
            players.generator = real.with_terms(config, self.pipeline, players.generator, online, pictures)
            streams = streams or config.terms.adversarial.latents == "streamed"
        self._prepare_previews()
        if not streams:
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
        if (start := first_weights(self.config)) is not None:
            load_generator(generator, start)
        return Players(teacher, roles["online"], generator)

    def check_base(self, teacher: Denoiser) -> None:
        """Refuse adapters of another base, this run's own or those that it starts from; note which this one is."""
        found, named, start = base_weights.digest(teacher), self.config.teacher.path, first_weights(self.config)
        if any(self.folder.checkpoints.glob("iteration-*")):
            base_weights.check(self.folder.path, named, found)
        if start is not None and self.config.generator.kind == "lora":
            base_weights.check(start, named, found)
        base_weights.note(self.folder.path, named, found)

    def stand_in(self) -> None:
        named = self.config.teacher.path
        if (folder := known.stand_in(self.config.teacher)) is not None:
            self.configuration, self.stood_in = folder, named  # as long as the task: parts are read when asked for

    def rehearse(self) -> Players:
        self.stand_in()
        self.pipeline = pipeline = rehearsable(self.open_pipeline(), self.config.teacher.name)
        told = pipeline.random_condition(8)

        def conditions(draws: Draws) -> tuple[Condition, Condition]:
            chosen = pick(told, draws.indices % 8)
            return chosen, chosen

        players = self.players(pipeline.random_denoiser(), conditions)
        if PAIRED in self.config.build_loss().needs:
            z = torch.zeros(8, *pipeline.latent_shape, device=self.device)
            players.generator = Paired(players.generator, z, z, lambda rows: pick(told, rows))
        return players

    def memory_beside(self) -> dict[str, int]:
        found = cost.memory_beside(self.config, self.pipeline, self.prompts.train)
        if PAIRED in self.config.build_loss().needs:
            found["pairs"] = 2 * 4 * self.config.pairs.count * math.prod(self.pipeline.latent_shape)
        return found

    def adapters(self) -> dict[str, shared.Adapter]:
        """Roles that live on the teacher's own weights."""
        kinds = (("generator", self.config.generator), ("online", self.config.online))
        return {
            role: shared.Adapter(settings.lora_rank, tuple(settings.lora_targets))
            for role, settings in kinds
            if settings.kind == "lora"
        }

    # ------------------------------------------------------------------ pairs, for a loss that needs them

    def _check_pairs(self, loss: Loss) -> None:
        if PAIRED not in loss.needs:
            return
        if self.config.prompts.embeddings == "streamed":
            raise UserError("pairs are drawn with embeddings that are kept: use prompts.embeddings=cached")
        refuse_stochastic(self.pipeline)
        if self.config.pairs.path:
            wanted = describe(self.pipeline, self.prompts.train, **self.pair_settings())
            stored(self.pairs_folder(), wanted, "cpu")
        if isinstance(loss, Regression) and loss.distance == "lpips":
            need_lpips()
            if loss.trunk != "random" and not Path(loss.trunk).is_file():
                raise UserError(f'loss.trunk "{loss.trunk}" does not exist')

    def pair(self, players: Players, conditions: Conditions) -> Paired:
        """The generator, told to draw from the teacher's pairs."""
        if not isinstance(conditions, Resident):
            size = self.config.prompts.resident_gb
            raise UserError(
                "pairs are drawn with embeddings that stay on the device, and these take more than "
                f"prompts.resident_gb={size:g}: raise it, or set a smaller prompts.count"
            )
        folder, rows = self.pairs_folder(), conditions.rows
        given = self.pipeline, players.teacher, rows, self.prompts.train, folder
        pairs = make_pairs(*given, write=processes.is_main(), device=self.device, **self.pair_settings())
        return Paired(players.generator, pairs.z, pairs.x0, lambda places: rows(pairs.rows[places]))

    def pairs_folder(self) -> Path:
        """Where they are kept."""
        return Path(self.config.pairs.path) if self.config.pairs.path else self.folder.cache

    def pair_settings(self) -> dict[str, Any]:
        """How they are drawn."""
        settings, training = self.config.pairs, self.config.training
        return {
            "count": settings.count,
            "steps": settings.steps or sweep.best(Path(self.pipeline.path)).get("steps", 20),
            "guidance_scale": training.guidance_scale if settings.guidance_scale is None else settings.guidance_scale,
            "seed": settings.seed,
        }

    def make_loss(self) -> Loss:
        """LPIPS is taken of decoded pictures."""
        loss = super().make_loss()
        if not (isinstance(loss, Regression) and loss.distance == "lpips"):
            return loss
        metric, decode = perceptual(loss.trunk, loss.net, self.device), self.pipeline.decode_with_graph
        return dataclasses.replace(loss, distance=lambda x0, y: metric(decode(x0), decode(y)))

    def plan(self) -> list[str]:
        pairs = []
        if PAIRED in self.config.build_loss().needs:
            drawn = self.pair_settings()
            pairs = [f"pairs: {drawn['count']} of the teacher in {drawn['steps']} steps, before training"]
        return [
            *pairs,
            f"teacher {self.stood_in or self.config.teacher.path}: {self.pipeline.prediction} prediction, "
            f"latents {tuple(self.pipeline.latent_shape)}",
            f"prompts: {len(self.prompts.train)} from {self.config.prompts.path}, measured on "
            + ("the same ones" if self.prompts.shared else f"{len(self.prompts.held_out)} others"),
            f"generator: x = D(s z, s, text), s = {self.init_sigma():.4f}, from {described(self.config)}",
        ]

    def _prepare_previews(self) -> None:
        prompts = evaluate.repeated(self.prompts.held_out, self.config.evaluation.preview)
        self.preview_prompts = prompts
        self.preview_text = self.pipeline.encode(prompts)
        self.preview_z = evaluate.start_noise(self.pipeline, len(prompts), PREVIEW_SEED, self.device)
        self.running = evaluate.Running(self) if evaluate.Running.wanted(self.config) else None

    def preview(self, generator: Generator, iteration: int) -> dict[str, float]:
        try:
            return self._preview(generator, iteration)
        finally:
            self._rest()

    def _rest(self) -> None:
        """The autoencoder leaves the device to training, unless a thread encodes real pictures with it meanwhile."""
        if self.pictures is None:
            self.pipeline.rest_decoder()

    def _preview(self, generator: Generator, iteration: int) -> dict[str, float]:
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
        pictures = self.pipeline.decode(x0).unflatten(0, shape)
        self._rest()
        return Probe(x0.unflatten(0, shape), pictures, text)

    # ------------------------------------------------------------------ afterwards

    def finish(self, generator: Generator) -> dict[str, Any]:
        for source in self.opened:
            source.close()
        return evaluate.full(self, generator, self.config.evaluation.samples)

    def restore(self, weights: dict[str, Tensor]) -> Generator:
        """The averaged generator of a checkpoint, without its prompt cache."""
        self.pipeline = self.open_pipeline()
        denoiser: Denoiser = self.pipeline.denoiser()
        adapters = {role: adapter for role, adapter in self.adapters().items() if role == "generator"}
        if adapters:
            base_weights.check(self.folder.path, self.config.teacher.path, base_weights.digest(denoiser))
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

    def pairs(self, weights: dict[str, Tensor], count: int) -> list[dict[str, Any]]:
        generator = self.restore(weights)
        self.prompts = read_prompts(self.config, count)
        return evaluate.more_pairs(self, generator, count)

    def evaluate_peer(self, settings: PeerConfig, samples: int) -> dict[str, Any]:
        self.prompts = read_prompts(self.config, samples)
        return peers.measure(self, settings, samples)

    def export(
        self,
        weights: dict[str, Tensor],
        out: Path,
        only: str = "",
        base_model: str = "",
        license: str = "",
        license_link: str = "",
    ) -> Path:
        wanted = export.Wanted(only, base_model, license, license_link, self.config.teacher.path)
        generator = self.restore(weights)
        if not isinstance(generator, OneStepGenerator) or not isinstance(self.pipeline, PipelineTeacher):
            named = f"teacher.name={self.config.teacher.name} generator.name={self.config.generator.name}"
            raise UserError(f"stock diffusers runs no {named}: only students of a diffusers pipeline are exported")
        return export.write(self.pipeline, generator, self.folder, out, wanted)
