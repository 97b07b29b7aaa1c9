"""Configuration of the task; the core's sections come from ``RunConfig``."""

from dataclasses import dataclass, field
from typing import Any

from scorefield.errors import UserError
from scorefield.training.settings import RunConfig


@dataclass
class TeacherConfig:
    """The diffusion teacher in pixel space."""

    path: str = "toybox32/teacher"  # an official .pkl, a converted folder, PATH of PATH.safetensors, or an asset's
    sigma_min: float = 0.002  # narrowed to what the network knows
    sigma_max: float = 80.0


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
    labels: list[float] = field(default_factory=list)  # frequencies of the classes; empty: all alike


@dataclass
class EvaluationConfig:
    """How the generator is measured before and after, alike."""

    samples: int = 2000  # pictures a draw
    draws: int = 3  # independent draws behind each interval
    data: str = "toybox"  # "toybox", an .npz with images and labels, or a folder with a sub-folder a class
    label: str = "object"  # Toybox's class
    real: int = 5000  # pictures of the reference
    judge: str = "toybox32"  # asset or folder whose judge gives the features
    preview: int = 32  # pictures in the grids over time
    per_class: int = 16  # pictures of each class behind the diversity


@dataclass
class GANRefineConfig(RunConfig):
    """Everything that ``run tasks/gan_refine`` reads."""

    task: str = "gan_refine"
    teacher: TeacherConfig = field(default_factory=TeacherConfig)
    generator: GeneratorConfig = field(default_factory=GeneratorConfig)
    evaluation: EvaluationConfig = field(default_factory=EvaluationConfig)

    def __post_init__(self) -> None:
        found = self.evaluation
        if found.samples < 5:
            raise UserError(f"evaluation.samples must be at least 5 for a Fréchet distance, not {found.samples}")
        if found.draws < 2:
            raise UserError(f"evaluation.draws must be at least 2 for an interval, not {found.draws}")
        if found.per_class < 2 or found.preview < 1 or found.real < 5:
            raise UserError("evaluation.per_class must be at least 2, preview at least 1 and real at least 5")
