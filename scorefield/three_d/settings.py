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
    density_scale: float = 1.0
    grid_lr_scale: float = 1.0  # on training.generator.learning_rate
    head_lr_scale: float = 0.1
    background_lr_scale: float = 0.1

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

    def __post_init__(self) -> None:
        for name, stages, low in (("size", self.size, 1), ("density_noise", self.density_noise, 0)):
            if 0 not in stages or min(stages) < 0 or min(stages.values()) < low:
                raise UserError(f"render.{name} must map iterations, 0 among them, to values of {low} and more")
        if self.encoder_gradient not in GRADIENTS:
            raise UserError(
                f'render.encoder_gradient "{self.encoder_gradient}" is unknown: '
                f"{suggest(self.encoder_gradient, GRADIENTS)}"
            )
        if self.samples < 2 or self.occupancy < 0 or self.occupancy_every < 1:
            raise UserError("render.samples must be at least 2, occupancy at least 0, occupancy_every at least 1")


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
