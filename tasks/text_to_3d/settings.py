"""Configuration of the task; the core's sections come from ``RunConfig``."""

import dataclasses
from dataclasses import dataclass

from scorefield.errors import UserError, suggest
from scorefield.evaluation.scores import ScoresConfig
from scorefield.generators.nerf import NerfSettings
from scorefield.generators.splats import SplatSettings
from scorefield.teachers.settings import TeacherConfig
from scorefield.three_d.asset import AssetConfig
from scorefield.three_d.settings import (
    BackgroundConfig,
    CameraConfig,
    FieldConfig,
    GeometryConfig,
    RegularizerConfig,
    RenderConfig,
    check_stages,
)
from scorefield.three_d.spread import LpipsConfig
from scorefield.three_d.t3bench import T3BenchConfig
from scorefield.training.settings import FREE, RunConfig


@dataclass
class OnlineConfig:
    """The online score: what the particles' renders look like, told the camera and the plain prompt."""

    kind: str = "lora"  # adapters on the teacher's own weights, or a "full" copy of it
    lora_rank: int = 4
    lora_targets: list[str] = dataclasses.field(default_factory=lambda: ["to_q", "to_k", "to_v", "to_out.0"])
    camera: bool = True  # told the pose
    camera_dropout: float = 0.0  # … but for this share of the pictures that it learns from; ProlificDreamer: 0.1

    def __post_init__(self) -> None:
        if not 0 <= self.camera_dropout < 1:
            raise UserError(f"online.camera_dropout must lie in 0 to 1 (not 1 itself), not at {self.camera_dropout}")
        if self.kind not in ("full", "lora"):
            raise UserError(f'online.kind "{self.kind}" is unknown: {suggest(self.kind, ["full", "lora"])}')


KINDS = ("nerf", "splats")


@dataclass
class SceneConfig:
    """What a particle is."""

    kind: str = "nerf"  # a radiance field, or "splats": 3D Gaussians

    def __post_init__(self) -> None:
        if self.kind not in KINDS:
            raise UserError(f'generator.kind "{self.kind}" is unknown: {suggest(self.kind, KINDS)}')


DIRECTIONAL = ("auto", "yes", "no")


@dataclass
class WordsConfig:
    """How the prompt is worded; {prompt}, {view}, {ground} (a background's name) and {a} (its article) are put in."""

    viewed: str = "{prompt}, {view} view"  # the teacher's, for a background without a name
    viewed_on: str = "{prompt}, {view} view, on {a} {ground} background"  # … and for one with a name
    plain: str = "{prompt}"  # the online score's
    plain_on: str = "{prompt} on {a} {ground} background"
    # Perp-Neg (arXiv:2304.04968): views between the words mix them, and what a view is not is taken away from the
    # teacher's estimate; four of its passes in place of two
    perp_neg: bool = False
    directional: str = "auto"  # view words: "yes", "no", "auto" (yes, but for a Toybox object without a front)

    def __post_init__(self) -> None:
        if self.directional not in DIRECTIONAL:
            raise UserError(
                f'words.directional "{self.directional}" is unknown: {suggest(self.directional, DIRECTIONAL)}'
            )
        for name in ("viewed", "viewed_on", "plain", "plain_on"):
            if "{prompt}" not in getattr(self, name):
                raise UserError(f"words.{name} must hold {{prompt}}")


@dataclass
class EvaluationConfig(ScoresConfig):
    """How the result is measured and shown; ``scores`` by pretrained models are off by default."""

    views: int = 32  # round the circle
    size: int = 64  # pixels a side of pictures that are shown and measured
    teacher_samples: int = 4  # pictures a view of `scorefield preview`, in this many steps
    teacher_steps: int = 20
    judge: str = "toybox"  # asset with the judge, or "none" for teachers that it cannot read
    score_size: int = 256  # pixels a side of the views that ``scores`` see
    t3bench: T3BenchConfig = dataclasses.field(default_factory=T3BenchConfig)
    lpips: LpipsConfig = dataclasses.field(default_factory=LpipsConfig)  # between particles

    def __post_init__(self) -> None:
        if self.views < 1 or self.size < 8 or self.score_size < 8:
            raise UserError("evaluation.views must be at least 1, evaluation.size and score_size at least 8")

    @property
    def samples(self) -> int:
        """What ``scorefield evaluate`` takes where it is told nothing."""
        return self.views


@dataclass
class TextTo3DConfig(RunConfig):
    """Everything that ``run tasks/text_to_3d`` reads."""

    task: str = "text_to_3d"
    prompt: str | None = None
    negative_prompt: str = ""  # for losses that need one (nfsd, csd with loss.negative); without view words
    texture_of: str = ""  # a run folder whose exported assets are painted anew on their fixed shape; "": train fields
    # {iteration: "nerf", "geometry" or "texture"}: what the fields are from there on, within one run
    stages: dict[int, str] = dataclasses.field(default_factory=lambda: {0: "nerf"}, metadata=FREE)
    particles: int = 1  # scenes under one online score, one of them drawn per iteration
    teacher: TeacherConfig = dataclasses.field(default_factory=TeacherConfig)
    online: OnlineConfig = dataclasses.field(default_factory=OnlineConfig)
    words: WordsConfig = dataclasses.field(default_factory=WordsConfig)
    generator: SceneConfig = dataclasses.field(default_factory=SceneConfig)
    splats: SplatSettings = dataclasses.field(default_factory=SplatSettings)
    cameras: CameraConfig = dataclasses.field(default_factory=CameraConfig)
    field: FieldConfig = dataclasses.field(default_factory=FieldConfig)
    render: RenderConfig = dataclasses.field(default_factory=RenderConfig)
    background: BackgroundConfig = dataclasses.field(default_factory=BackgroundConfig)
    regularizers: RegularizerConfig = dataclasses.field(default_factory=RegularizerConfig)
    geometry: GeometryConfig = dataclasses.field(default_factory=GeometryConfig)
    evaluation: EvaluationConfig = dataclasses.field(default_factory=EvaluationConfig)
    assets: AssetConfig = dataclasses.field(default_factory=AssetConfig)

    def __post_init__(self) -> None:
        check_stages(self.stages, self.training.iterations)
        if self.texture_of and len(self.stages) > 1:
            raise UserError("texture_of paints finished meshes: give it without stages")
        if self.generator.kind == "splats" and (self.texture_of or len(self.stages) > 1):
            raise UserError("splats have no mesh: give generator.kind=splats without stages and texture_of")

    def nerf(self) -> NerfSettings:
        """What the generator is made of."""
        parts = self.particles, self.cameras, self.field, self.render, self.background, self.regularizers
        return NerfSettings(*parts, self.online.camera_dropout)
