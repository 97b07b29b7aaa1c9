"""Configuration of the task; the core's sections come from ``RunConfig``."""

from dataclasses import dataclass, field
from typing import Any

from scorefield.errors import UserError
from scorefield.evaluation.measure import MeasureConfig
from scorefield.generators.augmented import AugmentConfig
from scorefield.generators.terms.settings import TermsConfig
from scorefield.pretrain.gan import GANStage
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
class AdversaryConfig(GANStage):
    """The GAN's own training, gone on with on the teacher's pictures in place of real ones."""

    steps: int = 2000
    batch: int = 32
    schedule: str = "constant"
    warmup_steps: int = 50
    ema_half_life_images: float = 20_000
    ema_rampup: float = 0.0
    networks: str = (
        "own"  # folder with G and D, as train-gan writes; "own": generator.path's, a pickle; "none": left out
    )


@dataclass
class BalanceConfig:
    """The mapping network fitted so that each class shows its variants as often as the teacher's pictures do."""

    clusters: list[int] = field(default_factory=lambda: [3, 3, 4, 4, 5, 5, 6, 6])  # in each class; []: left out
    sigma: float = 0.4  # noise under which the teacher's encoder looks at the pictures
    components: int = 16  # of its features
    power: float = 2.0  # of the ratio of frequencies, which clusters and mapping network hold a part of
    latents: int = 28_000  # of the generator that are weighted
    steps: int = 600  # of fitting
    batch: int = 896
    learning_rate: float = 0.2  # of the mapping network's stored weights, 100 times those it applies

    def __post_init__(self) -> None:
        if any(count < 2 for count in self.clusters) or self.components < 1 or not self.sigma > 0:
            raise UserError("start.balance: clusters must be at least 2 each, components at least 1, sigma positive")
        if self.latents < 1 or self.steps < 1 or self.batch < 1 or not (self.power > 0 and self.learning_rate > 0):
            raise UserError("start.balance: latents, steps and batch must be at least 1, power and rate positive")


@dataclass
class StartConfig:
    """What the generator learns from pictures that the teacher draws, before the loss; asks for no real ones."""

    pictures: int = 0  # of the teacher; 0: the loss starts from the generator as it is
    teacher_steps: int = 5  # of Heun's method for each, after one pass down to sigma_max: 2 steps passes
    sigma_max: float = 20.0  # where pictures are hidden but for their mean
    sigma_min: float = 0.02
    adversary: AdversaryConfig = field(default_factory=AdversaryConfig)
    balance: BalanceConfig = field(default_factory=BalanceConfig)

    def __post_init__(self) -> None:
        if self.pictures < 0 or self.teacher_steps < 2 or not 0 < self.sigma_min < self.sigma_max:
            raise UserError(
                "start: pictures must be at least 0, teacher_steps at least 2, and sigma_min between 0 and sigma_max"
            )


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
    start: StartConfig = field(default_factory=StartConfig)
    online: AugmentConfig = field(default_factory=AugmentConfig)
    terms: TermsConfig = field(default_factory=TermsConfig)
    evaluation: EvaluationConfig = field(default_factory=EvaluationConfig)
