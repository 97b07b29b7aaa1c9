"""Particles of one prompt: the parts of the run, its previews, and what is done with the result."""

from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from scorefield import noise_laws, resources
from scorefield.denoiser import Condition, Denoiser
from scorefield.errors import UserError
from scorefield.files import write_atomically, write_folder, write_json, write_text
from scorefield.generators.base import Generator
from scorefield.generators.particles import Particles
from scorefield.images import save_grid, save_image
from scorefield.monitors import Probe
from scorefield.task import Players, Task
from scorefield.teachers import known, online
from scorefield.teachers.auto import open_teacher
from scorefield.teachers.base import Teacher
from scorefield.teachers.pipeline import rehearsable
from scorefield.teachers.shared import Adapter, check_targets

from . import evaluate
from .settings import ParticlesTaskConfig

USAGE = """# {count} particles of "{prompt}"

`000.png` … are the particles as pictures, `particles.png` all of them. `latents.safetensors` holds them as the teacher
sees them (`points`, one row each):

```python
from safetensors.torch import load_file

points = load_file("latents.safetensors")["points"]
```
"""


class ParticlesTask(Task):
    """Optimise K pictures of one prompt until their noised crowd scores like the teacher."""

    name = "particles"
    summary = "K pictures of one prompt optimised directly: see a loss collapse or keep the modes in a minute"
    Config = ParticlesTaskConfig
    config: ParticlesTaskConfig
    stood_in: str = ""  # the hub id whose configuration is a stand-in's

    def check(self) -> None:
        loss = self.config.build_loss()
        if "teacher_negative" in loss.needs and not self.config.negative_prompt.strip():
            raise UserError(f'loss {self.config.loss["name"]} needs a negative prompt: give negative_prompt="…"')
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
            if warning := evaluate.unseen(self.config.prompt):
                print(f"warning: {warning}")

    def open_pipeline(self) -> Teacher:
        """The teacher of the configuration."""
        return open_teacher(self.config.teacher, self.device)

    # ------------------------------------------------------------------ training

    def build(self) -> Players:
        config = self.config
        teacher = self.pipeline.denoiser()
        told = self.pipeline.encode([config.prompt])
        negative = self.pipeline.encode([config.negative_prompt]) if config.negative_prompt.strip() else {}
        self.pipeline.release_text_encoder()
        return self.players(teacher, told, negative)

    def players(self, teacher: Denoiser, told: Condition, negative: Condition) -> Players:
        """The three roles for a prompt and a negative one, one row each."""
        config, settings = self.config, self.config.online
        generator = Particles.scattered(
            config.particles.count,
            self.pipeline.latent_shape,
            config.particles.init_std,
            config.training.seed,
            condition=told,
            negative=negative,
        )
        if settings.kind == "lora":
            online_score, teacher = online.with_lora(teacher, settings.lora_rank, tuple(settings.lora_targets))
        else:
            online_score = online.full_copy(teacher).float()
        return Players(teacher, online_score, generator)

    def stand_in(self) -> None:
        named = self.config.teacher.path
        if (folder := known.stand_in(self.config.teacher)) is not None:
            self.configuration, self.stood_in = folder, named  # as long as the task: parts are read when asked for

    def rehearse(self) -> Players:
        self.stand_in()
        self.pipeline = pipeline = rehearsable(self.open_pipeline(), self.config.teacher.name)
        told = pipeline.random_condition(1)
        negative = told if self.config.negative_prompt.strip() else {}
        return self.players(pipeline.random_denoiser(), told, negative)

    def plan(self) -> list[str]:
        return [
            f'{self.config.particles.count} particles of "{self.config.prompt}"',
            f"teacher {self.stood_in or self.config.teacher.path}: {self.pipeline.prediction} prediction, "
            f"latents {tuple(self.pipeline.latent_shape)}",
        ]

    @torch.no_grad()
    def preview(self, generator: Generator, iteration: int) -> dict[str, float]:
        assert isinstance(generator, Particles)
        pictures = self.pipeline.decode(generator.points)
        columns = min(8, len(pictures))
        save_grid(pictures, self.folder.samples / f"iteration-{iteration:06d}.png", columns)
        names = [f"particle {number}" for number in range(len(pictures))]
        layout = {"prompts": names, "columns": columns, "tile": pictures.shape[-1]}
        write_json(self.folder.samples / "layout.json", layout)
        if self.config.evaluation.judge == "none":
            return {}
        found = evaluate.figures(self, pictures)
        return {f"eval/{key}": found[key] for key in ("prompt_accuracy", "diversity") if found[key] is not None}

    @torch.no_grad()
    def probe(self, generator: Generator) -> Probe:
        assert isinstance(generator, Particles)
        x0 = generator.points.detach()
        return Probe(x0[None], self.pipeline.decode(x0)[None], generator.all().online_condition)

    # ------------------------------------------------------------------ afterwards

    def finish(self, generator: Generator) -> dict[str, Any]:
        assert isinstance(generator, Particles)
        return evaluate.full(self, generator.points.detach())

    def restore(self, weights: dict[str, Tensor]) -> Tensor:
        """The averaged particles of a checkpoint, [K, …]."""
        self.pipeline = self.open_pipeline()
        points = weights.get("points")
        if points is None or tuple(points.shape[1:]) != tuple(self.pipeline.latent_shape):
            raise UserError(f"the saved particles do not fit the teacher {self.config.teacher.path}")
        return points.to(self.device)

    def sample(self, weights: dict[str, Tensor], prompts: list[str], seed: int, out: Path) -> list[Path]:
        """Pictures of particles by number, or of "all"; they were made for one prompt, and no other can be asked."""
        points = self.restore(weights)
        numbers = list(range(len(points))) if prompts == ["all"] else [self._number(word, points) for word in prompts]
        paths = [out / f"particle-{number:03d}.png" for number in numbers]
        for picture, path in zip(self.pipeline.decode(points)[numbers], paths, strict=True):
            save_image(picture, path)
        return paths

    def _number(self, word: str, points: Tensor) -> int:
        if not word.isdecimal() or int(word) >= len(points):
            raise UserError(
                f'"{word}" is no particle of "{self.config.prompt}": give numbers from 0 to {len(points) - 1}, or all'
            )
        return int(word)

    def evaluate(self, weights: dict[str, Tensor], samples: int) -> dict[str, Any]:
        return evaluate.full(self, self.restore(weights))

    def export(self, weights: dict[str, Tensor], out: Path) -> Path:
        """A folder of PNG files and the latents."""
        from safetensors.torch import save_file

        if out.exists() and any(out.iterdir()) and not (out / "latents.safetensors").exists():
            raise UserError(f"{out} exists and holds no particles: name another with --out")
        points = self.restore(weights)
        pictures = self.pipeline.decode(points)

        def write(part: Path) -> None:
            for number, picture in enumerate(pictures):
                save_image(picture, part / f"{number:03d}.png")
            save_grid(pictures, part / "particles.png", min(8, len(pictures)))
            tensors = {"points": points.cpu().contiguous()}
            write_atomically(part / "latents.safetensors", lambda file: save_file(tensors, file))
            write_text(part / "README.md", USAGE.format(count=len(points), prompt=self.config.prompt))

        write_folder(out, write)
        return out
