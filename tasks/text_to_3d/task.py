"""Text to 3D: the parts of the run, its previews, and what is done with the result."""

from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from scorefield import noise_laws, resources
from scorefield.denoiser import Denoiser
from scorefield.errors import UserError
from scorefield.files import write_json
from scorefield.generators.base import Generator
from scorefield.generators.nerf import NerfGenerator
from scorefield.generators.splats import SplatGenerator
from scorefield.generators.staged import StagedGenerator
from scorefield.generators.texture import TextureGenerator
from scorefield.images import save_grid, save_image
from scorefield.task import Players, Task
from scorefield.teachers import known, online
from scorefield.teachers.auto import open_teacher
from scorefield.teachers.base import Teacher
from scorefield.teachers.camera import CameraTold, Deaf
from scorefield.teachers.perp_neg import PerpNeg
from scorefield.teachers.shared import Adapter, check_targets
from scorefield.three_d.asset import check_libraries
from scorefield.three_d.camera_law import VIEWS, eight_views, names
from scorefield.three_d.extra import need
from scorefield.three_d.field import Field

from . import assets, look, paint, rehearsal, scores
from .prompts import PromptViews, directional, read_prompt, warn_of_unread, warn_of_unseen, worded
from .settings import TextTo3DConfig


class TextTo3D(Task):
    """A NeRF, or several, whose renders score like the teacher's pictures of the prompt from that side."""

    name = "text_to_3d"
    summary = "a textured 3D asset from a prompt and a 2D diffusion teacher, no data"
    Config = TextTo3DConfig
    config: TextTo3DConfig
    stood_in: str = ""  # the hub id whose configuration is a stand-in's

    def check(self) -> None:
        need("nerfacc")
        check_libraries()
        if self.config.texture_of:
            paint.sources(self)
        self.prompt = read_prompt(self.config)
        if "teacher_negative" in self.config.build_loss().needs and not self.config.negative_prompt.strip():
            raise UserError(f'loss {self.config.loss["name"]} needs a negative prompt: give negative_prompt="…"')
        for view, ground in ((v, g) for v in ("front", None) for g in ("grey", None)):
            worded(self.config.words, self.prompt, view, ground)  # refuses a broken wording early
        if not self.config.teacher.path:
            raise UserError("no teacher: give teacher.path, a pipeline folder in diffusers format or a hub id")
        self.pipeline = self.open_pipeline()
        settings = self.config.online
        if settings.kind == "lora":
            adapter = Adapter(settings.lora_rank, tuple(settings.lora_targets))
            check_targets(self.pipeline, {"online": adapter})
        for law in (self.config.training.generator_noise, self.config.training.online_noise):
            noise_laws.build(law, self.pipeline)
        noise_laws.online_weighting(self.config.training.online_weighting)
        if self.config.evaluation.judge != "none":
            resources.asset(self.config.evaluation.judge)
        scores.check(self.config.evaluation)
        warn_of_unseen(self.prompt, self.config.teacher.path)

    def open_pipeline(self) -> Teacher:
        """The teacher of the configuration."""
        return open_teacher(self.config.teacher, self.device)

    def pixels(self) -> int:
        """Side of the teacher's pictures."""
        blank = torch.zeros(1, *self.pipeline.latent_shape, device=self.device)
        return self.pipeline.decode(blank).shape[-1]

    # ------------------------------------------------------------------ training

    def build(self) -> Players:
        warn_of_unread(self.prompt, self.pipeline)
        torch.manual_seed(self.config.training.seed)
        teacher = self.pipeline.denoiser()
        players = self.players(teacher, self.make_generator())
        self.pipeline.release_text_encoder()
        return players

    def players(self, teacher: Denoiser, generator: NerfGenerator) -> Players:
        """The three roles, the online score on the teacher's own weights or as a copy of it."""
        settings = self.config.online
        score: Denoiser
        if settings.kind == "lora":
            score, teacher = online.with_lora(teacher, settings.lora_rank, tuple(settings.lora_targets))
        else:
            score = online.full_copy(teacher).float()
        score = CameraTold(score) if settings.camera else Deaf(score)
        if generator.conditions.perp_neg:
            teacher = PerpNeg(teacher)
        return Players(teacher, score, generator)

    def stand_in(self) -> None:
        named = self.config.teacher.path
        if (folder := known.stand_in(self.config.teacher)) is not None:
            self.configuration, self.stood_in = folder, named  # as long as the task: parts are read when asked for

    def rehearse(self) -> Players:
        return rehearsal.players(self)

    def memory_beside(self) -> dict[str, int]:
        return {"embeddings": rehearsal.embedding_bytes(self)}

    def make_generator(self, views: PromptViews | None = None, pixels: int = 0) -> NerfGenerator:
        """Fresh fields, or another run's meshes to be painted, under the configured cameras.

        Args:
            views: conditions; those of the encoded prompt if left out. pixels: side of the teacher's pictures; 0 asks
                the teacher.
        """
        views, pipeline = views or PromptViews(self.config, self.prompt, self.pipeline), self.pipeline
        given = self.config.nerf(), views, pipeline.encode_images, pipeline.decode, pixels or self.pixels()
        if self.config.texture_of:
            return TextureGenerator(*given, paint.meshes(self)).to(self.device)
        if self.config.generator.kind == "splats":
            seed = self.config.training.seed
            return SplatGenerator(given[0], self.config.splats, *given[1:], seed=seed).to(self.device)
        if len(self.config.stages) > 1:
            staged = StagedGenerator(
                *given, stages=self.config.stages, geometry=self.config.geometry, assets=self.config.assets
            )
            return staged.to(self.device)
        return NerfGenerator(*given).to(self.device)

    def plan(self) -> list[str]:
        config = self.config
        told = "told the view" if directional(config, self.prompt) else "not told the view"
        if config.words.perp_neg and directional(config, self.prompt):
            told += " with Perp-Neg (four passes in place of two)"
        shape = config.field
        grid = f"dense {shape.resolutions}" if shape.grid == "dense" else f"hash {shape.levels} x 2^{shape.log2_size}"
        if config.generator.kind == "splats":
            made = f"{config.splats.count} Gaussians at the start"
        else:
            made = f"{grid} grid, {config.render.samples} steps a ray"
        named = self.stood_in or config.teacher.path
        return [
            f'prompt "{self.prompt}", teacher {named} {told}: {self.pipeline.prediction} prediction',
            f"{config.particles} particle(s), {made}, pictures {config.render.size}",
            f"online score: {config.online.kind}{', told the camera' if config.online.camera else ''}",
        ]

    def preview(self, generator: Generator, iteration: int) -> dict[str, float]:
        assert isinstance(generator, NerfGenerator)
        cameras, words = eight_views(self.config.cameras, (self.config.evaluation.size,) * 2)
        cameras = cameras.to(self.device)
        rows, pictures = [], []
        for particle in range(self.config.particles):
            seen = look.views(generator, cameras, particle, self.config.background)
            rows += [seen.colour, seen.normal, seen.depth]
            pictures.append(seen.colour)
        save_grid(torch.cat(rows), self.folder.samples / f"iteration-{iteration:06d}.png", len(cameras))
        own = [f"particle {k}, " if self.config.particles > 1 else "" for k in range(self.config.particles)]
        kinds = [f"{whose}{kind}" for whose in own for kind in ("colour", "normals", "depth")]
        sides = [f"{word} {360 * place // len(words)}°" for place, word in enumerate(names(words))]
        layout = {"prompts": sides, "rows": kinds, "columns": len(cameras), "tile": self.config.evaluation.size}
        write_json(self.folder.samples / "layout.json", layout)
        if self.config.evaluation.judge == "none":
            return {}
        return look.judged(self.config, torch.cat(pictures), self.prompt, names(words) * self.config.particles)

    def preview_teacher(self, out: Path) -> Path:
        """What the teacher draws for each view word: a row a view, with the text below each picture."""
        count, steps = self.config.evaluation.teacher_samples, self.config.evaluation.teacher_steps
        views = PromptViews(self.config, self.prompt, self.pipeline)
        seen = [word for word in VIEWS if word != "overhead" or self.config.cameras.elevation[1] > 60]
        if not views.directional:
            seen = seen[:1]
        grounds = torch.arange(count) % len(views.grounds)
        places = torch.cat([views.place(torch.full((count,), VIEWS.index(word)), grounds) for word in seen])
        draws = torch.Generator().manual_seed(self.config.training.seed)
        z = torch.randn(len(places), *self.pipeline.latent_shape, generator=draws).to(self.device)
        with torch.no_grad():
            latents = self.pipeline.sample(
                self.pipeline.denoiser(),
                views.rows(places.to(self.device)),
                z,
                steps=steps,
                guidance_scale=self.config.training.guidance_at(0),
            )
        save_grid(self.pipeline.decode(latents), out, count, [views.texts[place] for place in places.tolist()])
        return out

    # ------------------------------------------------------------------ afterwards

    def finish(self, generator: Generator) -> dict[str, Any]:
        assert isinstance(generator, NerfGenerator)
        return assets.finish(self, generator, self.config.evaluation.views)

    def restore(self, weights: dict[str, Tensor]) -> NerfGenerator:
        """The averaged fields of a checkpoint."""
        self.prompt = read_prompt(self.config)
        self.pipeline = self.open_pipeline()
        generator = self.make_generator()
        generator.fit(weights)
        own = dict(generator.averaged())
        if missing := sorted(set(own) ^ set(weights)):
            raise UserError(f"the saved fields do not fit these settings: {missing[0]} is on one side only")
        with torch.no_grad():
            for name, value in weights.items():
                own[name].copy_(value)
        for grid, scene in zip(generator.grids, generator.fields, strict=False):
            if isinstance(scene, Field):
                grid.renew(scene, 0)  # type: ignore[operator]
        return generator.eval().requires_grad_(False)

    def sample(self, weights: dict[str, Tensor], prompts: list[str], seed: int, out: Path) -> list[Path]:
        """One picture a word: an azimuth in degrees, or front, side, back."""
        generator = self.restore(weights)
        cameras = look.asked(self.config, prompts).to(self.device)
        images = look.views(generator, cameras, 0, self.config.background).colour
        paths = [out / f"{place:03d}-{word}.png" for place, word in enumerate(prompts)]
        for image, path in zip(images, paths, strict=True):
            save_image(image, path)
        return paths

    def evaluate(self, weights: dict[str, Tensor], samples: int) -> dict[str, Any]:
        generator = self.restore(weights)
        return assets.finish(self, generator, samples)

    def export(self, weights: dict[str, Tensor], out: Path) -> Path:
        return assets.export_run(self, weights, out)
