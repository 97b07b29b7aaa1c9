"""Configuration of cameras, field, rendering, backgrounds and regularisers; each is a section of a task."""

from dataclasses import dataclass, field

from scorefield.errors import UserError, suggest
from scorefield.training.settings import FREE

GRADIENTS = ("exact", "decoder")
ELEVATION_LAWS = ("uniform", "area", "mixed", "hemisphere")


def check_range(name: str, values: list[float], low: float, high: float) -> None:
    """Raise UserError unless ``values`` are two numbers in rising order within [low, high]."""
    if len(values) != 2 or not low <= values[0] <= values[1] <= high:
        raise UserError(f"{name} must be two numbers in rising order within {low:g} to {high:g}, not {values}")


@dataclass
class CameraConfig:
    """Where the training cameras stand; angles in degrees."""

    elevation: list[float] = field(default_factory=lambda: [-10.0, 45.0])
    # uniform in degrees; in area; "mixed": half of each (threestudio); "hemisphere": half the time uniform on the upper
    # hemisphere, else as "uniform" (ProlificDreamer)
    elevation_law: str = "mixed"
    # half-width of the windows round front, left, back and right that azimuths come from; 45 is the whole circle
    azimuth_window: float = 45.0
    distance: list[float] = field(default_factory=lambda: [1.0, 1.5])
    fovy: list[float] = field(default_factory=lambda: [40.0, 70.0])
    target: float = 0.0  # the point looked at is uniform in a cube of this half side
    front: float = 45.0  # azimuths within this of 0 are called front, of 180 back, others side
    overhead: float = 60.0  # elevations above this are called overhead

    def __post_init__(self) -> None:
        check_range("cameras.elevation", self.elevation, -90, 90)
        check_range("cameras.distance", self.distance, 1e-3, 1e6)
        check_range("cameras.fovy", self.fovy, 0.1, 179)
        if self.elevation_law not in ELEVATION_LAWS:
            raise UserError(
                f'cameras.elevation_law "{self.elevation_law}" is unknown: '
                f"{suggest(self.elevation_law, ELEVATION_LAWS)}"
            )
        if not 0 < self.azimuth_window <= 45:
            raise UserError(f"cameras.azimuth_window must lie in 0 to 45 degrees, not at {self.azimuth_window}")


@dataclass
class FieldConfig:
    """The radiance field of each particle."""

    grid: str = "dense"  # "dense" or "hash"
    bound: float = 1.0
    resolutions: list[int] = field(default_factory=lambda: [16, 32, 64])  # dense: vertices a side of each level
    features: int = 4  # dense: a vertex; hash: a level
    join: str = "sum"  # dense: "sum" or "concat"
    levels: int = 16  # hash
    log2_size: int = 19  # hash
    base: int = 16  # hash
    scale: float = 1.447269237440378  # hash: growth per level
    smoothstep: bool = False  # hash
    hidden: int = 0  # heads: width of a hidden layer, 0 linear, -1 none
    blob_scale: float = 10.0
    blob_radius: float = 0.5
    density_bias: float = 0.0  # joins the density before its activation: below 0 a start that is seen through
    density_scale: float = 1.0  # factor on the density after its activation
    grid_lr_scale: float = 1.0  # on training.generator.learning_rate
    head_lr_scale: float = 0.1
    background_lr_scale: float = 0.1
    compile: bool = False  # grid and heads through torch.compile: a minute at the start, and a working C++ compiler

    def __post_init__(self) -> None:
        if self.grid not in ("dense", "hash"):
            raise UserError(f'field.grid "{self.grid}" is unknown: {suggest(self.grid, ["dense", "hash"])}')


@dataclass
class RenderConfig:
    """How training pictures are made; a mapping {iteration: value} changes from that iteration on."""

    size: dict[int, int] = field(default_factory=lambda: {0: 64}, metadata=FREE)  # pixels a side
    samples: int = 64  # steps along the cube's diagonal
    # how the loss comes back through the teacher's autoencoder: "exact", or "decoder" (scorefield.three_d.encoding)
    encoder_gradient: str = "exact"
    density_noise: dict[int, float] = field(default_factory=lambda: {0: 0.0}, metadata=FREE)
    occupancy: int = 32  # cells a side; 0: none are skipped
    occupancy_threshold: float = 0.01
    occupancy_every: int = 16  # iterations
    # points that the field is asked at a time, their activations computed again in the backward pass: the field's
    # memory of one chunk in place of the whole picture's, for one more evaluation; 0: all are kept
    chunk: int = 0

    def __post_init__(self) -> None:
        for name, stages, low in (("size", self.size, 1), ("density_noise", self.density_noise, 0)):
            if 0 not in stages or min(stages) < 0 or min(stages.values()) < low:
                raise UserError(f"render.{name} must map iterations, 0 among them, to values of {low} and more")
        if self.encoder_gradient not in GRADIENTS:
            raise UserError(
                f'render.encoder_gradient "{self.encoder_gradient}" is unknown: '
                f"{suggest(self.encoder_gradient, GRADIENTS)}"
            )
        if self.samples < 2 or self.occupancy < 0 or self.occupancy_every < 1 or self.chunk < 0:
            raise UserError(
                "render.samples must be at least 2, occupancy and chunk at least 0, occupancy_every at least 1"
            )


@dataclass
class BackgroundConfig:
    """What stands behind the object: per picture learned, or one flat colour."""

    learned: dict[int, float] = field(
        default_factory=lambda: {0: 1.0}, metadata=FREE
    )  # share of the pictures, by iteration
    # colours that the prompt can name; empty: any colour, not named
    named: dict[str, list[float]] = field(default_factory=dict, metadata=FREE)
    tint: float = 0.0  # named colours are shifted by up to this in each channel
    lift: float = 0.0  # flat colours are lighter above: times 1 + lift * z of the ray

    def __post_init__(self) -> None:
        if 0 not in self.learned or min(self.learned.values()) < 0 or max(self.learned.values()) > 1:
            raise UserError("background.learned must map iterations, 0 among them, to shares in 0 to 1")
        for name, colour in self.named.items():
            if len(colour) != 3 or not all(0 <= value <= 1 for value in colour):
                raise UserError(f"background.named.{name} must be three numbers in 0 to 1, not {colour}")


@dataclass
class RegularizerConfig:
    """Weights of terms beside the loss; 0 is off. A mapping {iteration: weight} interpolates between its iterations."""

    entropy: dict[int, float] = field(
        default_factory=lambda: {0: 0.0}, metadata=FREE
    )  # of opacity: pixels are either or
    sparsity: dict[int, float] = field(
        default_factory=lambda: {0: 0.0}, metadata=FREE
    )  # sqrt(opacity^2 + 0.01): less of it
    orientation: dict[int, float] = field(default_factory=lambda: {0: 0.0}, metadata=FREE)  # normals face the camera
    z_variance: dict[int, float] = field(default_factory=lambda: {0: 0.0}, metadata=FREE)  # thin along each ray
    # squared distance, summed over a picture, to what the autoencoder makes of it; only with encoder_gradient "decoder"
    roundtrip: dict[int, float] = field(default_factory=lambda: {0: 0.0}, metadata=FREE)

    def __post_init__(self) -> None:
        for name in ("entropy", "sparsity", "orientation", "z_variance", "roundtrip"):
            if 0 not in getattr(self, name):
                raise UserError(f"regularizers.{name} must map iterations, 0 among them, to weights")


STAGES = ("nerf", "geometry", "texture")
SHADINGS = ("albedo", "lambertian", "textureless", "normal")


@dataclass
class GeometryConfig:
    """The geometry stage: a signed distance in place of the density (scorefield.three_d.sdf). And the texture stage's
    rate."""

    resolution: int = 64  # points a side of the lattice that the shape and its colours start on
    levels: list[int] = field(default_factory=lambda: [16, 32, 64])  # of the trained correction
    beta: float = 0.02  # scale of the density, trained
    # shares of the iterations that show the surface unlit, lit, lit in one colour, or as its normals
    shading: dict[str, float] = field(default_factory=lambda: {"albedo": 1.0}, metadata=FREE)
    eikonal: dict[int, float] = field(default_factory=lambda: {0: 10.0}, metadata=FREE)
    roughness: dict[int, float] = field(default_factory=lambda: {0: 1.0}, metadata=FREE)
    distance_lr_scale: float = 0.02  # on training.generator.learning_rate
    colour_lr_scale: float = 0.5
    beta_lr_scale: float = 0.1
    texture_lr_scale: float = 1.0

    def __post_init__(self) -> None:
        if not 8 <= self.resolution <= 512 or not self.levels or min(self.levels) < 2:
            raise UserError("geometry.resolution must lie in 8 to 512, and geometry.levels hold numbers from 2")
        if not 1e-3 < self.beta < 1:
            raise UserError(f"geometry.beta must lie between 0.001 and 1, not at {self.beta}")
        for name in self.shading:
            if name not in SHADINGS:
                raise UserError(f'geometry.shading "{name}" is unknown: {suggest(name, SHADINGS)}')
        if min(self.shading.values(), default=0) < 0 or sum(self.shading.values()) <= 0:
            raise UserError("geometry.shading must map shadings to shares of 0 and more, one of them above 0")
        for name, stages in (("eikonal", self.eikonal), ("roughness", self.roughness)):
            if 0 not in stages or min(stages.values()) < 0:
                raise UserError(f"geometry.{name} must map iterations, 0 among them, to weights")

    def drawn(self, share: float) -> str:
        """The shading that a number in [0, 1) falls on."""
        total, reached = sum(self.shading.values()), 0.0
        for name, part in self.shading.items():
            reached += part / total
            if share < reached:
                return name
        return name


def check_stages(stages: dict[int, str], iterations: int) -> None:
    """Raise UserError unless ``stages`` start with "nerf" at 0 and go on in order, all of them within the run."""
    for start, name in stages.items():
        if name not in STAGES:
            raise UserError(f'stages: "{name}" is unknown: {suggest(str(name), STAGES)}')
        if not isinstance(start, int) or start < 0 or start >= iterations:
            raise UserError(f"stages: {name} starts at {start}, which is not among the {iterations} iterations")
    order = [STAGES.index(stages[start]) for start in sorted(stages)]
    if stages.get(0) != "nerf" or order != sorted(set(order)):
        raise UserError(f"stages must be nerf from 0, then geometry, then texture (each may be left out), not {stages}")


def stage(stages: dict, iteration: int):
    """The value in force: that of the last key that is not after ``iteration``."""
    return stages[max(key for key in stages if key <= iteration)]


def ramp(stages: dict[int, float], iteration: int) -> float:
    """The value between the keys, linear; constant beyond the last."""
    before = max(key for key in stages if key <= iteration)
    later = [key for key in stages if key > iteration]
    if not later:
        return stages[before]
    after = min(later)
    share = (iteration - before) / (after - before)
    return stages[before] + share * (stages[after] - stages[before])
