"""Measure and show: real pictures, the many-step teacher and the one-step student on held-out prompts."""

import copy
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from scorefield import resources
from scorefield.data import toybox as world
from scorefield.denoiser import Condition
from scorefield.errors import UserError
from scorefield.evaluation import sweep, toybox
from scorefield.evaluation.judge import Judge
from scorefield.evaluation.metrics import diversity as feature_diversity
from scorefield.evaluation.scores import facts, measure, open_scores
from scorefield.files import write_json
from scorefield.generators.base import Batch, Generator
from scorefield.generators.weights import load_generator
from scorefield.images import save_grid, save_image
from scorefield.random import Draws
from scorefield.teachers.base import Teacher

from .settings import TextToImageConfig
from .start import described, first_weights

if TYPE_CHECKING:
    from .task import TextToImage

EVALUATION_SEED = 10  # start noise of everything that is measured
RUNNING_SEED = 21  # and of the figures on the way
REFERENCE_START, CEILING_START, DIVERSITY_START, RUNNING_START = 20_000_000, 30_000_000, 40_000_000, 50_000_000
DIVERSITY_PROMPTS, DIVERSITY_SAMPLES = 10, 8
SHOWN, WORST = 24, 20


def repeated(prompts: list[str], count: int) -> list[str]:
    """``count`` prompts, from the start again when there are fewer."""
    return [prompts[k % len(prompts)] for k in range(count)]


def start_noise(pipeline: Teacher, count: int, seed: int, device: str) -> Tensor:
    """N(0, I) [count, C, h, w]; row n depends on (seed, n) only."""
    return Draws(seed, -1, torch.arange(count, device=device)).normal("z", *pipeline.latent_shape)


@torch.no_grad()
def one_step(generator: Generator, z: Tensor, text: Condition, batch: int = 128) -> Tensor:
    """Latents of the generator, in pieces."""
    pieces = []
    for start in range(0, len(z), batch):
        rows = slice(start, start + batch)
        condition = {key: value[rows] for key, value in text.items()}
        pieces.append(generator(Batch({"z": z[rows]}, condition, condition)))
    return torch.cat(pieces)


def load_judge(config: TextToImageConfig, device: str) -> Judge:
    """The judge that comes with the asset."""
    return Judge.load(resources.asset(config.evaluation.judge) / "judge", device)


class Running:
    """Figures on the way, on two pictures each of some held-out prompts; shown, never used to choose anything.

    They are biased by the small number of pictures (a Fréchet distance upwards, recall downwards): compare them with
    ``ceilings``, which are measured alike, and not with the final figures.
    """

    def __init__(self, task: "TextToImage"):
        settings = task.config.evaluation
        pairs = min(settings.running, settings.samples) // 2
        self.prompts = [p for p in repeated(task.prompts.held_out, pairs) for _ in range(2)]
        self.judge = load_judge(task.config, task.device)
        self.text = task.pipeline.encode(self.prompts)
        self.z = start_noise(task.pipeline, len(self.prompts), RUNNING_SEED, task.device)
        self.device = task.device
        self.reference: Tensor | None = None  # features of real pictures, made when the resolution is seen

    @staticmethod
    def wanted(config: TextToImageConfig) -> bool:
        """Whether there is a judge, and enough pictures for recall's third neighbour."""
        settings = config.evaluation
        return settings.judge != "none" and min(settings.running, settings.samples) >= 8

    def real(self, start: int, resolution: int) -> Tensor:
        return toybox.real_pictures(self.prompts, world.TEST_SEED, start, self.device, resolution)

    def figures(self, images: Tensor) -> dict[str, float]:
        """Prompt accuracy, Fréchet distance, precision, recall and diversity of pictures [N, 3, H, W]."""
        if self.reference is None:
            self.reference = self.judge.read(self.real(RUNNING_START, images.shape[-1])).features
        verdict = toybox.judge_pictures(self.judge, images, self.prompts)
        return toybox.figures(verdict, self.reference) | {
            "diversity": feature_diversity(verdict.reading.features, self.prompts)
        }

    def of_generator(self, task: "TextToImage", generator: Generator) -> dict[str, float]:
        """Figures of a generator as metrics.jsonl names them."""
        images = task.pipeline.decode(one_step(generator, self.z, self.text))
        return {f"eval/{key}": value for key, value in self.figures(images).items()}

    def ceilings(self, pictures: "Pictures") -> dict[str, Any]:
        """What real pictures and the teacher reach on the same prompts, for the summary."""
        teacher = pictures.teacher(self.prompts, self.z)
        real = self.real(RUNNING_START + len(self.prompts), teacher.shape[-1])
        return {"pictures": len(teacher), "real": self.figures(real), "teacher": self.figures(teacher)}


def grid_accuracy(config: TextToImageConfig, images: Tensor, prompts: list[str]) -> dict[str, float]:
    """Prompt accuracy of the pictures of a grid, where nothing more is wanted."""
    verdict = toybox.judge_pictures(load_judge(config, str(images.device)), images, prompts)
    return {"eval/prompt_accuracy": verdict.all_right.float().mean().item()}


def best_teacher(config: TextToImageConfig, pipeline: Teacher) -> tuple[int, float]:
    """Steps and guidance scale that the teacher is measured at: configured, else the best that its sweep found.

    See ``scorefield.evaluation.sweep``.
    """
    settings, found = config.evaluation, sweep.best(Path(pipeline.path))
    steps = settings.teacher_steps or found.get("steps", 20)
    guidance = settings.teacher_guidance
    return steps, found.get("guidance", config.training.guidance_scale) if guidance is None else guidance


class Pictures:
    """Makes pictures of prompts with the teacher and the student of one run."""

    def __init__(self, task: "TextToImage", generator: Generator):
        self.config, self.pipeline, self.device = task.config, task.pipeline, task.device
        self.generator, self.held_out = generator, task.prompts.held_out
        self.denoiser = self.pipeline.denoiser()
        self.steps, self.guidance = best_teacher(self.config, self.pipeline)

    def teacher(self, prompts: list[str], z: Tensor) -> Tensor:
        latents = self.pipeline.sample(
            self.denoiser,
            self.pipeline.encode(prompts),
            z,
            steps=self.steps,
            guidance_scale=self.guidance,
            batch=128,
        )
        return self.pipeline.decode(latents)

    def student(self, prompts: list[str], z: Tensor) -> Tensor:
        return self.pipeline.decode(one_step(self.generator, z, self.pipeline.encode(prompts)))

    def noise(self, count: int, seed: int) -> Tensor:
        return start_noise(self.pipeline, count, seed, self.device)

    def seconds(self, make, count: int = 16) -> float:
        """Seconds per image of a batch of ``count``, text encoding and decoding included; the second of two runs."""
        prompts, z = repeated(self.held_out, count), self.noise(count, EVALUATION_SEED)
        for _ in range(2):
            start = time.perf_counter()
            make(prompts, z)
            if self.device.startswith("cuda"):
                torch.cuda.synchronize()
            spent = time.perf_counter() - start
        return spent / count


def full(task: "TextToImage", generator: Generator, samples: int) -> dict[str, Any]:
    """All figures and pictures at the end of a run; writes evaluation/ and returns what joins summary.json."""
    config, folder = task.config, task.folder
    pictures = Pictures(task, generator)
    settings = config.evaluation
    prompts = repeated(task.prompts.held_out, samples)
    z = pictures.noise(samples, EVALUATION_SEED)
    task.say(f"  {samples} prompts by the teacher in {pictures.steps} steps, then by the student in {generator.steps}")
    made = {"teacher": pictures.teacher(prompts, z), "student": pictures.student(prompts, z)}
    preview = repeated(task.prompts.held_out, settings.preview)
    save_grid(
        pictures.teacher(preview, pictures.noise(len(preview), 20)),
        folder.samples / "teacher.png",
        min(8, len(preview)),
    )
    result: dict[str, Any] = {
        "teacher": {"steps": pictures.steps, "guidance": pictures.guidance},
        "student": {"steps": generator.steps},
        "evaluated_prompts": samples,
        "started_from": described(config),
    }
    for who in ("teacher", "student"):
        result[who]["seconds_per_image"] = pictures.seconds(getattr(pictures, who))
    if settings.judge == "none":
        keys = ("prompt_accuracy", "frechet", "precision", "recall", "diversity")
        result = {"real": {"steps": None, "seconds_per_image": None}} | result
        for who in ("real", "teacher", "student"):
            result[who].update(dict.fromkeys(keys))
        result["feature_network"] = None
        add_scores(task, result, made, prompts)
        save_pairs(folder, prompts, made, None)
        return result
    judge = load_judge(config, task.device)
    resolution = made["student"].shape[-1]
    task.say("  real pictures of the same prompts, and what the judge says of all")
    # both sets show what the prompts say; the second is the ceiling, what real pictures score against real ones
    reference = toybox.real_pictures(prompts, world.TEST_SEED, REFERENCE_START, task.device, resolution)
    made["real"] = toybox.real_pictures(prompts, world.TEST_SEED, CEILING_START, task.device, resolution)
    features = judge.read(reference).features
    verdicts = {who: toybox.judge_pictures(judge, made[who], prompts) for who in ("real", "teacher", "student")}
    result["real"] = {"steps": None, "seconds_per_image": None}
    if (start := first_generator(task, pictures)) is not None:
        images = pictures.pipeline.decode(one_step(start, z, pictures.pipeline.encode(prompts)))
        result["start"] = {"steps": start.steps} | toybox.figures(
            toybox.judge_pictures(judge, images, prompts), features
        )
    for who, verdict in verdicts.items():
        result[who] |= toybox.figures(verdict, features)
        result[who]["diversity"] = diversity(pictures, judge, who, resolution)
    if task.running is not None:
        result["running"] = task.running.ceilings(pictures)
    result["feature_network"] = f"scorefield judge ({settings.judge}), {features.shape[1]} features"
    add_scores(task, result, made, prompts)
    write_json(folder.evaluation / "attributes.json", toybox.attribute_shares(verdicts))
    save_pairs(folder, prompts, made, verdicts)
    return result


def first_generator(task: "TextToImage", pictures: Pictures) -> Generator | None:
    """What the generator was before the run; None where that was the teacher, an adapter, or is gone by now."""
    if task.config.generator.kind != "full":
        return None
    try:
        if (start := first_weights(task.config)) is None:
            return None
        generator = task.make_generator(copy.deepcopy(pictures.denoiser).float())
        load_generator(generator, start)
    except UserError:  # another run's folder may have been moved meanwhile, and this run is worth its figures
        return None
    return generator.eval().requires_grad_(False)


def add_scores(task: "TextToImage", result: dict[str, Any], made: dict[str, Tensor], prompts: list[str]) -> None:
    """Put the figures of ``evaluation.scores`` beside the others, and what reads them into ``result["scores"]``."""
    scores = open_scores(task.config.evaluation, task.device)
    for who, figures in measure(scores, made, prompts).items():
        result[who] |= figures
    result["scores"] = facts(scores)


def diversity(pictures: Pictures, judge: Judge, who: str, resolution: int) -> float:
    """Mean feature distance among several pictures of one prompt."""
    count = DIVERSITY_PROMPTS * DIVERSITY_SAMPLES
    prompts = [p for p in repeated(pictures.held_out, DIVERSITY_PROMPTS) for _ in range(DIVERSITY_SAMPLES)]
    if who == "real":
        images = toybox.real_pictures(prompts, world.TEST_SEED, DIVERSITY_START, pictures.device, resolution)
    else:
        images = getattr(pictures, who)(prompts, pictures.noise(count, EVALUATION_SEED + 1))
    return toybox.diversity_of(judge, images, prompts)


def save_pairs(folder, prompts: list[str], made: dict[str, Tensor], verdicts) -> None:
    """evaluation/pairs.json and worst.json with their pictures, for the report."""
    shown = list(range(min(SHOWN, len(prompts))))
    worst: list[int] = []
    if verdicts is not None:
        score = verdicts["student"].confidence - verdicts["student"].all_right.float().neg().add(1)
        worst = score.argsort()[:WORST].tolist()
    for name, rows in (("pairs", shown), ("worst", worst)):
        records = [record(folder, name, row, prompts[row], made, verdicts) for row in rows]
        write_json(folder.evaluation / f"{name}.json", records)


def more_pairs(task: "TextToImage", generator: Generator, count: int) -> list[dict[str, Any]]:
    """evaluation/more.json: the first ``count`` held-out prompts by both, the first of them as in ``save_pairs``."""
    pictures = Pictures(task, generator)
    prompts, z = repeated(task.prompts.held_out, count), pictures.noise(count, EVALUATION_SEED)
    made = {"teacher": pictures.teacher(prompts, z), "student": pictures.student(prompts, z)}
    records = [record(task.folder, "more", row, prompts[row], made, None) for row in range(count)]
    write_json(task.folder.evaluation / "more.json", records)
    return records


def record(folder, kind: str, row: int, prompt: str, made: dict[str, Tensor], verdicts) -> dict[str, Any]:
    """One prompt with both pictures on disk and what the judge said of them."""
    entry: dict[str, Any] = {"prompt": prompt}
    for who in ("teacher", "student"):
        place = f"evaluation/{kind}/{row:04d}-{who}.png"
        save_image(made[who][row], folder.path / place)
        entry[who] = place
        if verdicts is not None:
            entry[f"{who}_ok"] = bool(verdicts[who].all_right[row])
    if verdicts is not None:
        said, read = toybox.described(verdicts["student"], row)
        entry |= {
            "said": said,
            "student_read": read,
            "confidence": float(verdicts["student"].confidence[row]),
        }
    return entry
