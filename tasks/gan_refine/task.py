"""Refinement of a StyleGAN2: the parts of the run, its previews, and what is done with the result."""

from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from scorefield import noise_laws
from scorefield.errors import UserError
from scorefield.evaluation.measure import Running
from scorefield.files import write_json, write_text
from scorefield.generators.base import Batch, Generator
from scorefield.generators.labels import label_law
from scorefield.generators.stylegan2 import StyleGAN2Generator
from scorefield.generators.terms import build_terms, plain
from scorefield.images import save_grid, save_image
from scorefield.importer.rehearsal import open_located, open_or_build
from scorefield.monitors import Probe
from scorefield.networks import stylegan2
from scorefield.random import Draws
from scorefield.task import Players, Task
from scorefield.teachers import online
from scorefield.teachers.edm import EDMDenoiser
from scorefield.teachers.ranged import RangedTeacher

from . import evaluate, start
from .settings import GANRefineConfig, GeneratorConfig, TeacherConfig

PREVIEW_SEED, WATCH_SEED = 20, 21
WATCHED_CLASSES, WATCHED_SAMPLES = 4, 4

USAGE = """# A refined StyleGAN2 generator

`G_ema.safetensors` and `G_ema.json` are read by scorefield wherever it takes a generator. `G_ema.pt` holds the same
tensors under the official names; NVIDIA's code takes them into the network that was refined:

```python
G_ema.load_state_dict(torch.load("G_ema.pt", weights_only=True))
```
"""


class GANRefine(Task):
    """Refine a pretrained StyleGAN2 so that its noised pictures score like the teacher's."""

    name = "gan_refine"
    summary = "a better StyleGAN2 from a diffusion teacher in pixel space, without data"
    Config = GANRefineConfig
    config: GANRefineConfig
    running: Running | None = None  # made by build
    begun: dict[str, Any] | None = None  # what was learnt before the loss, told by build
    first: EDMDenoiser  # the teacher, or that of the lowest noise: what the online score starts as
    open = staticmethod(open_located)

    def check(self) -> None:
        loss = self.config.build_loss()
        self.teacher = self.open_teacher()
        fresh = self.open_generator()
        self.check_fit(fresh)
        start.check(self, fresh)
        self.config.online.check(self.first, self.config.teacher.path)
        for law in (self.config.training.generator_noise, self.config.training.online_noise):
            noise_laws.build(law, self.teacher)
        noise_laws.online_weighting(self.config.training.online_weighting)
        self.config.terms.check(loss)
        self.config.evaluation.check()
        if notice := self.config.evaluation.notice:
            self.say(notice)

    @classmethod
    def usual_preset(cls, given: dict[str, str]) -> str:
        """The default's rates, length and real pictures are those of the embedded networks only."""
        embedded = {"generator.path": GeneratorConfig.path, "teacher.path": TeacherConfig.path}
        whole = {"generator", "teacher"} & set(given)  # given as sections
        others = [key for key, path in embedded.items() if given.get(key, path) != path]
        return "official" if whole or others else "default"

    def check_fit(self, generator: StyleGAN2Generator) -> None:
        """Raise UserError when teacher and generator are not of one kind of picture and label."""
        channels, side, _ = self.teacher.shape
        if generator.shape[0] != channels:
            raise UserError(f"the generator's pictures have {generator.shape[0]} channels, the teacher's {channels}")
        if generator.network.img_resolution < side:
            raise UserError(
                f"the generator's pictures are {generator.network.img_resolution} px and the teacher's {side} px: "
                "larger ones are resized down to the teacher, smaller ones cannot be refined by it"
            )
        classes = generator.network.c_dim
        if self.teacher.label_dim and classes != self.teacher.label_dim:
            raise UserError(
                f"the teacher knows {self.teacher.label_dim} classes and the generator {classes}: take a teacher of "
                "the same classes, or an unconditional one"
            )

    def open_teacher(self) -> EDMDenoiser | RangedTeacher:
        """The frozen teacher: a preconditioned denoiser, or several, each for its noise levels."""
        settings = self.config.teacher
        self.first = self.open_denoiser(settings.path, settings.network)
        if not settings.further:
            return self.first
        others = [(other.above, self.open_denoiser(other.path, other.network)) for other in settings.further]
        return RangedTeacher([(0.0, self.first), *others]).eval()

    def open_denoiser(self, path: str, key: str | None) -> EDMDenoiser:
        """One teacher."""
        settings = self.config.teacher
        network = self.open(path, key)
        if isinstance(network, stylegan2.Generator):
            raise UserError(f'teacher.path "{path}" holds a StyleGAN2 generator, not a diffusion teacher')
        native = self.config.training.dropout != "none"
        told = bool(self.config.online.augment)
        return EDMDenoiser(
            network, settings.sigma_min, settings.sigma_max, native_training=native, learns_augmentation=told
        ).eval()

    def open_generator(self) -> StyleGAN2Generator:
        """The unrefined generator, its trainable parameters chosen."""
        settings = self.config.generator
        network = self.open(settings.path, settings.network)
        if not isinstance(network, stylegan2.Generator):
            raise UserError(
                f'generator.path "{settings.path}" holds a {type(network).__name__}, not a StyleGAN2 generator: '
                "ask for G_ema with generator.network=G_ema"
            )
        side = self.teacher.shape[-1]
        return StyleGAN2Generator(
            network,
            trainable=settings.trainable,
            noise_mode=settings.noise_mode,
            output_size=side if side < network.img_resolution else None,
            resize=settings.resize,
            labels=label_law(network.c_dim, settings.labels),
            tell_labels=bool(network.c_dim and self.teacher.label_dim),
            truncation_psi=settings.truncation_psi,
            update_w_avg=settings.update_w_avg,
            mapping_lr_scale=settings.mapping_lr_scale,
            augment=self.config.online.augment,
            mirror=self.config.online.mirror,
        )

    # ------------------------------------------------------------------ training

    def build(self) -> Players:
        settings = self.config.evaluation
        if settings.running and settings.network:
            self.running = Running(evaluate.make_meter(self), settings.running)
        generator = self.open_generator().to(self.device)
        self.begun = start.prepare(self, generator)
        return self.players(generator)

    def players(self, generator: StyleGAN2Generator) -> Players:
        """The three roles, and the terms around the generator."""
        score = online.full_copy(self.first).to(self.device)
        wrapped = build_terms(self.config.terms, generator, score, self.config.training, self.device)
        return Players(self.teacher, score, wrapped)

    def stand_in(self) -> None:
        self.open = open_or_build

    def rehearse(self) -> Players:
        self.stand_in()
        self.teacher = self.open_teacher().to(self.device)
        return self.players(self.open_generator().to(self.device))

    def plan(self) -> list[str]:
        settings = self.config
        return [
            f"teacher {settings.teacher.path}: {tuple(self.teacher.shape)}, {self.teacher.label_dim or 'no'} classes, "
            f"sigma {self.teacher.sigma_min:g} to {self.teacher.sigma_max:g}",
            f"generator {settings.generator.path}: trains {settings.generator.trainable}",
            *start.plan(self),
        ]

    def batch(self, generator: Generator, places: Tensor, seed: int, labels: Tensor | None = None) -> Batch:
        """Latents of ``places`` int64 [B] that depend on ``seed`` and place alone; with class numbers [B] if given."""
        batch = plain(generator).draw(Draws(seed, -1, places))
        if labels is not None and "label" in batch.latents:
            told = torch.nn.functional.one_hot(labels, batch.latents["label"].shape[1]).float()
            batch.latents["label"] = told
            for condition in (batch.teacher_condition, batch.online_condition):
                if "label" in condition:
                    condition["label"] = told  # type: ignore[index]
        return batch

    def classes(self, count: int) -> Tensor:
        """Class numbers [count], in turns."""
        known = max(1, getattr(self.open_generator_shape(), "c_dim", 0))
        return torch.arange(count, device=self.device) % known

    def open_generator_shape(self) -> stylegan2.Generator:
        if not hasattr(self, "_plain"):
            self._plain = self.open_generator().to(self.device).eval().requires_grad_(False)
        return self._plain.network

    @torch.no_grad()
    def preview(self, generator: Generator, iteration: int) -> dict[str, float]:
        count = self.config.evaluation.preview
        places = torch.arange(count, device=self.device)
        pictures = generator(self.batch(generator, places, PREVIEW_SEED, self.classes(count))).clamp(-1, 1)
        columns = min(8, count)
        save_grid(pictures, self.folder.samples / f"iteration-{iteration:06d}.png", columns)
        words = [f"latent {place}, class {number}" for place, number in enumerate(self.classes(count).tolist())]
        layout = {"prompts": words, "columns": columns, "tile": pictures.shape[-1]}
        write_json(self.folder.samples / "layout.json", layout)
        if self.running is None:
            return {}
        return self.running.figures(evaluate.source(self, plain(generator), evaluate.RUNNING_SEED))

    @torch.no_grad()
    def probe(self, generator: Generator) -> Probe:
        count = WATCHED_CLASSES * WATCHED_SAMPLES
        places = torch.arange(count, device=self.device)
        batch = self.batch(generator, places, WATCH_SEED, self.classes(count) // WATCHED_SAMPLES)
        x0 = generator(batch)
        shape = (WATCHED_CLASSES, WATCHED_SAMPLES)
        return Probe(x0.unflatten(0, shape), x0.clamp(-1, 1).unflatten(0, shape), batch.online_condition)

    # ------------------------------------------------------------------ afterwards

    def finish(self, generator: Generator) -> dict[str, Any]:
        found = evaluate.before_and_after(self, plain(generator), self.config.evaluation.samples)
        return found | ({"learnt_before": self.begun} if self.begun else {})

    def restore(self, weights: dict[str, Tensor]) -> StyleGAN2Generator:
        """The averaged generator of a checkpoint."""
        self.teacher = self.open_teacher().to(self.device)
        generator = start.started(self, self.open_generator().to(self.device))
        own = dict(generator.named_parameters()) | dict(generator.named_buffers())
        if missing := sorted(set(weights) - set(own)):
            raise UserError(f"the saved generator does not fit {self.config.generator.path}: it has {missing[0]}")
        with torch.no_grad():
            for name, value in weights.items():
                own[name].copy_(value)
        return generator.eval().requires_grad_(False)

    def sample(self, weights: dict[str, Tensor], prompts: list[str], seed: int, out: Path) -> list[Path]:
        """One picture a word: its class number ("any" where the generator has no classes)."""
        generator = self.restore(weights)
        known = generator.network.c_dim
        numbers = [0] * len(prompts)
        if known:
            for place, word in enumerate(prompts):
                if not word.isdecimal() or int(word) >= known:
                    raise UserError(f'"{word}" is not a class of this generator: give numbers from 0 to {known - 1}')
                numbers[place] = int(word)
        labels = torch.tensor(numbers, device=self.device)
        places = torch.arange(len(prompts), device=self.device)
        pictures = generator(self.batch(generator, places, seed, labels)).clamp(-1, 1)
        paths = [out / f"{place:03d}-{word}.png" for place, word in enumerate(prompts)]
        for picture, path in zip(pictures, paths, strict=True):
            save_image(picture, path)
        return paths

    def evaluate(self, weights: dict[str, Tensor], samples: int) -> dict[str, Any]:
        return evaluate.before_and_after(self, self.restore(weights), samples)

    def export(self, weights: dict[str, Tensor], out: Path) -> Path:
        from scorefield.files import write_atomically
        from scorefield.networks.store import state_of

        generator = self.restore(weights)
        out.mkdir(parents=True, exist_ok=True)
        generator.export(out / "G_ema")
        state = state_of(generator.network)
        write_atomically(out / "G_ema.pt", lambda part: torch.save(state, part))
        write_text(out / "README.md", USAGE)
        return out
