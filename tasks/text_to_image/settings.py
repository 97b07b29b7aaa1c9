"""Configuration of the task; the core's sections come from ``RunConfig``."""

from dataclasses import dataclass, field
from typing import Any

from scorefield.errors import UserError, check_number, suggest
from scorefield.evaluation.scores import ScoresConfig
from scorefield.generators.terms.settings import CaptionedTerms
from scorefield.teachers.settings import TeacherConfig
from scorefield.teachers.shared import TARGETS
from scorefield.training.settings import FREE, RunConfig

EMBEDDINGS, STORED = ("cached", "streamed"), ("auto", "float32", "bfloat16", "float16")


def check_kind(section: str, kind: str) -> None:
    """Raise UserError unless ``kind`` is "full" or "lora"."""
    if kind not in ("full", "lora"):
        raise UserError(f'{section}.kind "{kind}" is unknown: {suggest(kind, ["full", "lora"])}')


@dataclass
class GeneratorConfig:
    """The student."""

    name: str = "one_step"  # in scorefield.generators, or of an installed plugin
    # "teacher"; "auto", the longer-trained generator that lies beside an embedded teacher, where it fits, and else the
    # teacher; or a run folder, a checkpoint folder or a .safetensors file to go on from
    init: str = "teacher"
    init_sigma: float = 2.5  # noise level of its input; moved to the schedule's nearest timestep
    kind: str = "full"  # "full" copy of the teacher, or "lora" adapters on the teacher's own weights
    lora_rank: int = 64
    lora_targets: list[str] = field(default_factory=lambda: list(TARGETS))
    options: dict[str, Any] = field(default_factory=dict, metadata=FREE)  # further ones of the named generator

    def __post_init__(self) -> None:
        check_number("generator.init_sigma", self.init_sigma, 0, above=True)
        check_kind("generator", self.kind)


@dataclass
class OnlineConfig:
    """The online score."""

    kind: str = "full"  # "full" copy of the teacher, or "lora" adapters on the teacher's own weights
    lora_rank: int = 16
    lora_targets: list[str] = field(default_factory=lambda: list(TARGETS))

    def __post_init__(self) -> None:
        check_kind("online", self.kind)
        check_number("online.lora_rank", self.lora_rank, 1)


@dataclass
class PromptsConfig:
    """What is learned on: text only, no pictures."""

    path: str = (
        "toybox"  # "toybox" (made on the fly), or a file: .txt (one a line), .jsonl, .parquet, .json (COCO), .tsv
    )
    field: str = "caption"  # key or column of jsonl, json, parquet and tsv
    count: int = 4096  # prompts made, or read at most (0: all of a file)
    # "cached": encoded once, kept in shards; "streamed": encoded ahead of every batch, for sets too large to keep
    embeddings: str = "cached"
    cache: str = ""  # folder of the shards, which runs may share; empty: cache/text of the run folder
    stored: str = "auto"  # type of embeddings: float32, bfloat16, float16; auto: teacher.dtype
    resident_gb: float = 4.0  # shards of at most this size stay on the device; larger ones are read ahead from disk

    def __post_init__(self) -> None:
        check_number("prompts.count", self.count, 1 if self.path == "toybox" else 0)
        check_number("prompts.resident_gb", self.resident_gb, 0)
        for key, known in (("embeddings", EMBEDDINGS), ("stored", STORED)):
            if (value := getattr(self, key)) not in known:
                raise UserError(f'prompts.{key} "{value}" is unknown: {suggest(value, known)}')
        if self.cache and self.embeddings == "streamed":
            raise UserError("prompts.cache is of prompts.embeddings=cached: nothing is kept of streamed ones")


@dataclass
class PairsConfig:
    """Start noise with what the teacher's sampler makes of it, for losses that need such pairs (``regression``)."""

    path: str = ""  # folder that keeps them; empty: the run's own. Pairs that are there already are used
    count: int = 2048
    steps: int | None = None  # of the teacher; null: the best of its sweep.json, else 20
    guidance_scale: float | None = None  # null: training.guidance_scale
    seed: int = 0

    def __post_init__(self) -> None:
        check_number("pairs.count", self.count, 1)
        if self.steps is not None:
            check_number("pairs.steps", self.steps, 1)


@dataclass
class EvaluationConfig(ScoresConfig):
    """How the result is measured and shown; ``scores`` by pretrained models are off by default."""

    samples: int = 500  # held-out prompts
    # a file of them (as prompts.path) or toybox:SEED; empty: Toybox's test seed, or a share kept out of training
    prompts: str = ""
    teacher_steps: int | None = None  # null: the best of the teacher's sweep.json, else 20
    teacher_guidance: float | None = None  # null: the same sweep's, else training.guidance_scale
    judge: str = "toybox"  # asset with the judge, or "none" for teachers that it cannot read
    preview: int = 24  # pictures in the grids over time
    running: int = 128  # pictures (at most `samples`) that the figures over time rest on; 0: those of the grids alone


@dataclass
class TextToImageConfig(RunConfig):
    """Everything that ``run tasks/text_to_image`` reads."""

    task: str = "text_to_image"
    teacher: TeacherConfig = field(default_factory=TeacherConfig)
    generator: GeneratorConfig = field(default_factory=GeneratorConfig)
    online: OnlineConfig = field(default_factory=OnlineConfig)
    prompts: PromptsConfig = field(default_factory=PromptsConfig)
    pairs: PairsConfig = field(default_factory=PairsConfig)
    evaluation: EvaluationConfig = field(default_factory=EvaluationConfig)
    terms: CaptionedTerms = field(default_factory=CaptionedTerms)

    @property
    def stored(self) -> str:
        """Name of the type that embeddings are kept in."""
        return self.teacher.dtype if self.prompts.stored == "auto" else self.prompts.stored

    def __post_init__(self) -> None:
        settings = self.evaluation
        check_number("evaluation.samples", settings.samples, 2)
        check_number("evaluation.preview", settings.preview, 1)
        check_number("evaluation.running", settings.running, 0)
        if settings.teacher_steps is not None:
            check_number("evaluation.teacher_steps", settings.teacher_steps, 1)
        if settings.teacher_guidance is not None:
            check_number("evaluation.teacher_guidance", settings.teacher_guidance)
