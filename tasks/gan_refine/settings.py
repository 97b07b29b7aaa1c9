"""Configuration of the task; the core's sections come from ``RunConfig``."""

from dataclasses import dataclass, field
from typing import Any

from scorefield.errors import UserError
from scorefield.evaluation.measure import MeasureConfig
from scorefield.generators.augmented import AugmentConfig
from scorefield.generators.terms.settings import TermsConfig
from scorefield.training.settings import RunConfig


@dataclass
class FurtherTeacher:
    """Another teacher, for the noise levels from ``above`` on (up to the next one's)."""

    path: str = ""
    above: float = 0.0
    network: str | None = None


@dataclass
class TeacherConfig:
    """The diffusion teacher in pixel space."""

    path: str = "toybox32/teacher"  # an official .pkl, a converted folder, PATH of PATH.safetensors, or an asset's
    network: str | None = None  # of a pickle: ema is the default
    sigma_min: float = 0.002  # narrowed to what the network knows
    sigma_max: float = 80.0
    further: list[FurtherTeacher] = field(default_factory=list)  # for higher noise; the online score starts as path

    def __post_init__(self) -> None:
        for other in self.further:
            if not other.path or other.above <= 0:
                raise UserError("teacher.further needs path and above > 0 of each: [{path: FILE.pkl, above: 5}]")


@dataclass
class GeneratorConfig:
    """The GAN that is refined."""

    path: str = "toybox32/gan"  # as teacher.path
    network: str | None = None  # of a pickle: G_ema (the default), G
    trainable: Any = "all"  # "all", "synthesis", "mapping", or a list of patterns over parameter names
    noise_mode: str = "random"  # random, const or none
    resize: str = "bicubic"  # to the teacher's resolution, where it is smaller: bicubic, bilinear or area
    truncation_psi: float = 1.0
    update_w_avg: bool = False
    mapping_lr_scale: float = 1.0
    labels: Any = None  # frequencies of the classes, or labelled pictures to count them in; left out: all alike


@dataclass
class EvaluationConfig(MeasureConfig):
    """How the generator is measured before and after, alike."""

    draws: int = 3  # independent draws behind each interval
    preview: int = 32  # pictures in the grids over time
    running: int = 0  # pictures behind the Fréchet distance over time; 0: none
    truncation: list[float] = field(default_factory=list)  # values of psi that both are measured at, for the page

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.draws < 2:
            raise UserError(f"evaluation.draws must be at least 2 for an interval, not {self.draws}")
        if self.running < 0 or 0 < self.running < 5:
            raise UserError(f"evaluation.running must be 0, or at least 5 for a Fréchet distance, not {self.running}")
        if self.preview < 1:
            raise UserError(f"evaluation.preview must be at least 1, not {self.preview}")


@dataclass
class GANRefineConfig(RunConfig):
    """Everything that ``run tasks/gan_refine`` reads."""

    task: str = "gan_refine"
    teacher: TeacherConfig = field(default_factory=TeacherConfig)
    generator: GeneratorConfig = field(default_factory=GeneratorConfig)
    online: AugmentConfig = field(default_factory=AugmentConfig)
    terms: TermsConfig = field(default_factory=TermsConfig)
    evaluation: EvaluationConfig = field(default_factory=EvaluationConfig)
