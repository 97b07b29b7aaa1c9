"""Configuration of the task; the core's sections come from ``RunConfig``."""

from dataclasses import dataclass, field
from typing import Any

from scorefield.errors import UserError
from scorefield.evaluation.measure import MeasureConfig
from scorefield.generators.augmented import AugmentConfig
from scorefield.generators.terms.settings import TermsConfig
from scorefield.training.settings import RunConfig


@dataclass
class TeacherConfig:
    """The diffusion teacher in pixel space."""

    path: str = "toybox32/teacher"  # an official .pkl, a converted folder, PATH of PATH.safetensors, or an asset's
    network: str | None = None  # of a pickle: ema is the default
    sigma_min: float = 0.002  # narrowed to what the network knows
    sigma_max: float = 80.0


@dataclass
class GeneratorConfig:
    """The student, a copy of the teacher called once."""

    # "teacher"; or a run or checkpoint folder to go on from, or any network of the teacher's kind (a published
    # one-step generator)
    init: str = "teacher"
    init_sigma: float = 2.5  # noise level of its input
    labels: Any = None  # frequencies of the classes, or labelled pictures to count them in; left out: all alike


@dataclass
class EvaluationConfig(MeasureConfig):
    """How teacher and student are measured and shown."""

    samples: int = 500
    teacher_steps: int = 18  # of Heun's method: 2 steps - 1 passes (EDM on CIFAR-10: 18, so 35 passes)
    teacher_samples: int | None = None  # pictures of the teacher; as many as of the student
    preview: int = 32  # pictures in the grids over time
    running: int = 200  # pictures behind the figures over time; 0: none

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.teacher_steps < 2 or self.preview < 1 or self.running < 0:
            raise UserError("evaluation.teacher_steps must be at least 2, preview at least 1 and running at least 0")
        if 0 < self.running < 5 or (self.teacher_samples is not None and self.teacher_samples < 5):
            raise UserError("evaluation.running and teacher_samples must be at least 5 for a Fréchet distance")


@dataclass
class ClassToImageConfig(RunConfig):
    """Everything that ``run tasks/class_to_image`` reads."""

    task: str = "class_to_image"
    teacher: TeacherConfig = field(default_factory=TeacherConfig)
    generator: GeneratorConfig = field(default_factory=GeneratorConfig)
    online: AugmentConfig = field(default_factory=AugmentConfig)
    terms: TermsConfig = field(default_factory=TermsConfig)
    evaluation: EvaluationConfig = field(default_factory=EvaluationConfig)
