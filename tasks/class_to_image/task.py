"""Pixels from classes in one step: the parts of the run, its previews, and what is done with the result."""

import copy
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from scorefield import noise_laws
from scorefield.errors import UserError
from scorefield.evaluation.measure import Meter, Running
from scorefield.files import write_json
from scorefield.generators.base import Batch, Generator
from scorefield.generators.labels import label_law
from scorefield.generators.one_step import no_condition
from scorefield.generators.terms import build_terms, plain
from scorefield.generators.weights import apply_weights, load_generator
from scorefield.images import save_grid, save_image
from scorefield.importer.open import open_network, stored
from scorefield.importer.rehearsal import open_located, open_or_build
from scorefield.monitors import Probe
from scorefield.networks import stylegan2
from scorefield.networks.stylegan2_discriminator import Discriminator
from scorefield.random import Draws
from scorefield.task import Players, Task
from scorefield.teachers import online
from scorefield.teachers.edm import EDMDenoiser

from . import evaluate, export
from .generator import LabelledOneStep
from .settings import ClassToImageConfig, TeacherConfig

PRESETS = {
    "edm-cifar10-32x32-cond-vp.pkl": "edm_cifar10_cond",
    "edm-cifar10-32x32-uncond-vp.pkl": "edm_cifar10_uncond",
    "edm-imagenet-64x64-cond-adm.pkl": "imagenet64",
    "edm-ffhq-64x64-uncond-vp.pkl": "ffhq64",
    "edm-afhqv2-64x64-uncond-vp.pkl": "afhq64",
}
PREVIEW_SEED, WATCH_SEED = 20, 21
WATCHED_CLASSES, WATCHED_SAMPLES = 4, 4


class ClassToImage(Task):
    """Distil an EDM teacher, unconditional or of classes, into x = D(2.5 z, 2.5, label) without pictures."""

    name = "class_to_image"
    summary = "one-step pictures of classes from an EDM teacher in pixel space, without data"
    Config = ClassToImageConfig
    config: ClassToImageConfig
    running: Running | None = None  # made by build
    names: list[str] | None = None  # of the classes, where real pictures tell them
    open = staticmethod(open_located)

    def check(self) -> None:
        loss = self.config.build_loss()
        self.teacher = self.open_teacher()
        self.make_generator(self.teacher)
        self.config.online.check(self.teacher, self.config.teacher.path)
        for law in (self.config.training.generator_noise, self.config.training.online_noise):
            noise_laws.build(law, self.teacher)
        noise_laws.online_weighting(self.config.training.online_weighting)
        init = self.config.generator.init
        if init != "teacher" and not stored(Path(init)):
            raise UserError(f'generator.init "{init}" is neither "teacher" nor a path that exists')
        self.config.terms.check(loss)
        self.config.evaluation.check()
        if notice := self.config.evaluation.notice:
            self.say(notice)

    @classmethod
    def usual_preset(cls, given: dict[str, str]) -> str:
        """A published teacher's own preset by its file's name; the default is sized for the embedded teacher only."""
        if "teacher" in given:
            return "official"
        path = given.get("teacher.path", TeacherConfig.path)
        return "default" if path == TeacherConfig.path else PRESETS.get(Path(path).name, "official")

    def open_teacher(self) -> EDMDenoiser:
        """The frozen teacher, a preconditioned denoiser."""
        settings = self.config.teacher
        network = self.open(settings.path, settings.network)
        if isinstance(network, (stylegan2.Generator, Discriminator)):
            raise UserError(
                f'teacher.path "{settings.path}" holds a StyleGAN2 {type(network).__name__.lower()}, not a diffusion '
                "teacher"
            )
        found = EDMDenoiser(
            network,
            settings.sigma_min,
            settings.sigma_max,
            native_training=self.config.training.dropout != "none",
            learns_augmentation=bool(self.config.online.augment),
        ).eval()
        if found.shape[0] != 3:
            raise UserError(f"the teacher's pictures have {found.shape[0]} channels; this task draws pictures of 3")
        return found

    def make_generator(self, denoiser: EDMDenoiser) -> LabelledOneStep:
        """A one-step generator around ``denoiser``, which is not copied."""
        settings, classes = self.config.generator, denoiser.label_dim
        sigma = settings.init_sigma
        if not denoiser.sigma_min <= sigma <= denoiser.sigma_max:
            known = f"{denoiser.sigma_min:g} to {denoiser.sigma_max:g}"
            raise UserError(f"generator.init_sigma {sigma:g} is outside the teacher's noise levels, {known}")
        law = label_law(classes, settings.labels) or no_condition
        augment = self.config.online
        return LabelledOneStep(denoiser, denoiser.shape, sigma, law, augment.augment, augment.mirror)

    def open_student(self) -> LabelledOneStep:
        """A trainable generator that starts as the teacher."""
        student = copy.deepcopy(self.teacher)
        student.learns_augmentation = False  # it always draws pictures as they are
        return self.make_generator(student.requires_grad_(True))

    # ------------------------------------------------------------------ training

    def build(self) -> Players:
        generator = self.open_student()
        if self.config.generator.init != "teacher":
            self.load_init(generator, Path(self.config.generator.init))
        players = self.players(generator)
        if self.config.evaluation.running and self.config.evaluation.network:
            self.running = Running(evaluate.make_meter(self), self.config.evaluation.running)
            self.name_classes(self.running.meter)
        return players

    def players(self, generator: LabelledOneStep) -> Players:
        """The three roles, and the terms around the generator."""
        score = online.full_copy(self.teacher)
        wrapped = build_terms(self.config.terms, generator, score, self.config.training, self.device)
        return Players(self.teacher, score, wrapped)

    def stand_in(self) -> None:
        self.open = open_or_build

    def rehearse(self) -> Players:
        self.stand_in()
        self.teacher = self.open_teacher().to(self.device)
        return self.players(self.open_student())

    def load_init(self, generator: LabelledOneStep, path: Path) -> None:
        """Start from a run or checkpoint folder, or from a stored network of the teacher's kind."""
        if (path / "config.yaml").exists() or (path / "checkpoint.json").exists():
            return load_generator(generator, path)
        found = open_network(path)
        try:
            generator.denoiser.network.load_state_dict(found.state_dict())
        except RuntimeError as error:
            reason = str(error).strip().splitlines()[-1].strip()
            raise UserError(f"{path} is not of the teacher's architecture: {reason}") from error
        return None

    def plan(self) -> list[str]:
        settings = self.config
        side, classes = self.teacher.shape[-1], self.teacher.label_dim
        return [
            f"teacher {settings.teacher.path}: {side} px, {f'{classes} classes' if classes else 'unconditional'}, "
            f"{sum(p.numel() for p in self.teacher.parameters())} parameters",
            f"generator: x = D(s z, s{', label' if classes else ''}), s = {settings.generator.init_sigma:g}, from "
            f"{settings.generator.init}",
        ]

    def batch(self, generator: Generator, places: Tensor, seed: int, labels: Tensor | None = None) -> Batch:
        """Latents that depend on ``seed`` and place alone; with given class numbers where wanted."""
        batch = plain(generator).draw(Draws(seed, -1, places))
        if labels is None or not self.teacher.label_dim:
            return batch
        told = {"label": F.one_hot(labels, self.teacher.label_dim).float()}
        return Batch(batch.latents, told, told)

    def classes(self, count: int) -> Tensor:
        """Class numbers [count], in turns."""
        return torch.arange(count, device=self.device) % max(1, self.teacher.label_dim)

    @torch.no_grad()
    def preview(self, generator: Generator, iteration: int) -> dict[str, float]:
        count = self.config.evaluation.preview
        places = torch.arange(count, device=self.device)
        pictures = plain(generator)(self.batch(generator, places, PREVIEW_SEED, self.classes(count))).clamp(-1, 1)
        columns = min(8, count)
        save_grid(pictures, self.folder.samples / f"iteration-{iteration:06d}.png", columns)
        words = [
            f"start noise {place}, {self.word(number)}" for place, number in enumerate(self.classes(count).tolist())
        ]
        layout = {"prompts": words, "columns": columns, "tile": pictures.shape[-1]}
        write_json(self.folder.samples / "layout.json", layout)
        return evaluate.running_figures(self, self.running, generator) if self.running is not None else {}

    def word(self, number: int) -> str:
        """How a class is called on the page."""
        if not self.teacher.label_dim:
            return "no class"
        return self.names[number] if self.names else f"class {number}"

    def name_classes(self, meter: Meter) -> None:
        """Take the names from the real pictures, if they are of as many classes."""
        if meter.real is not None and len(meter.real.names) == self.teacher.label_dim:
            self.names = meter.real.names

    @torch.no_grad()
    def probe(self, generator: Generator) -> Probe:
        count = WATCHED_CLASSES * WATCHED_SAMPLES
        places = torch.arange(count, device=self.device)
        labels = self.classes(WATCHED_CLASSES).repeat_interleave(WATCHED_SAMPLES)
        batch = self.batch(generator, places, WATCH_SEED, labels)
        x0 = plain(generator)(batch)
        shape = (WATCHED_CLASSES, WATCHED_SAMPLES)
        return Probe(x0.unflatten(0, shape), x0.clamp(-1, 1).unflatten(0, shape), batch.online_condition)

    # ------------------------------------------------------------------ afterwards

    def finish(self, generator: Generator) -> dict[str, Any]:
        return evaluate.full(self, plain(generator), self.config.evaluation.samples)

    def restore(self, weights: dict[str, Tensor]) -> LabelledOneStep:
        """The averaged generator of a checkpoint."""
        self.teacher = self.open_teacher().to(self.device)
        generator = self.open_student()
        fixed = {name: p.detach() for name, p in generator.named_parameters() if not p.requires_grad}
        apply_weights(generator, fixed | weights)
        return generator.eval().requires_grad_(False)

    @torch.no_grad()
    def sample(self, weights: dict[str, Tensor], prompts: list[str], seed: int, out: Path) -> list[Path]:
        """One picture a word: its class number ("any" where there are no classes)."""
        generator = self.restore(weights)
        known = self.teacher.label_dim
        for word in prompts:
            if known and (not word.isdecimal() or int(word) >= known):
                raise UserError(f'"{word}" is not a class of this generator: give numbers from 0 to {known - 1}')
            if not known and word != "any":
                raise UserError(f'"{word}" is no class: this generator is unconditional, say any')
        numbers = torch.tensor([int(word) if known else 0 for word in prompts], device=self.device)
        places = torch.arange(len(prompts), device=self.device)
        pictures = generator(self.batch(generator, places, seed, numbers)).clamp(-1, 1)
        paths = [out / f"{place:03d}-{word}.png" for place, word in enumerate(prompts)]
        for picture, path in zip(pictures, paths, strict=True):
            save_image(picture, path)
        return paths

    def evaluate(self, weights: dict[str, Tensor], samples: int) -> dict[str, Any]:
        return evaluate.full(self, self.restore(weights), samples)

    def export(self, weights: dict[str, Tensor], out: Path) -> Path:
        return export.write(self.restore(weights), out)
