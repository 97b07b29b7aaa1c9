"""Configuration of the task; the core's sections come from ``RunConfig``."""

from dataclasses import dataclass, field

from scorefield.errors import UserError, suggest
from scorefield.teachers.settings import TeacherConfig
from scorefield.training.settings import RunConfig


@dataclass
class ParticlesConfig:
    """What is optimised: latents in the teacher's space."""

    count: int = 16
    init_std: float = 1.0  # spread of the noise that they start as

    def __post_init__(self) -> None:
        if self.count < 1:
            raise UserError(f"particles.count must be at least 1, not {self.count}")
        if not self.init_std >= 0:
            raise UserError(f"particles.init_std must be at least 0, not {self.init_std}")


@dataclass
class OnlineConfig:
    """The online score, one for all particles."""

    kind: str = "full"  # "full" copy of the teacher, or "lora" adapters on the teacher's own weights
    lora_rank: int = 16
    lora_targets: list[str] = field(default_factory=lambda: ["to_q", "to_k", "to_v", "to_out.0"])

    def __post_init__(self) -> None:
        if self.kind not in ("full", "lora"):
            raise UserError(f'online.kind "{self.kind}" is unknown: {suggest(self.kind, ["full", "lora"])}')


@dataclass
class EvaluationConfig:
    """How the particles are measured."""

    judge: str = "toybox"  # asset with the judge, or "none" for teachers that it cannot read
    teacher_steps: int = 16  # of the teacher's own samples of the prompt, as many as there are particles
    teacher_guidance: float | None = None  # null: training.guidance_scale


@dataclass
class ParticlesTaskConfig(RunConfig):
    """Everything that ``run tasks/particles`` reads."""

    task: str = "particles"
    prompt: str = "a red chair"
    negative_prompt: str = ""  # for losses that need one (nfsd, csd with loss.negative)
    teacher: TeacherConfig = field(default_factory=TeacherConfig)
    particles: ParticlesConfig = field(default_factory=ParticlesConfig)
    online: OnlineConfig = field(default_factory=OnlineConfig)
    evaluation: EvaluationConfig = field(default_factory=EvaluationConfig)

    def __post_init__(self) -> None:
        if not self.prompt.strip():
            raise UserError('prompt is empty: give one, for example prompt="a red chair"')
        if self.training.batch % self.particles.count:
            raise UserError(
                f"training.batch {self.training.batch} must be a multiple of particles.count {self.particles.count}, "
                f"so that every particle is in every update: give training.batch={self.particles.count}"
            )
        if self.evaluation.teacher_steps < 1:
            raise UserError(f"evaluation.teacher_steps must be at least 1, not {self.evaluation.teacher_steps}")
