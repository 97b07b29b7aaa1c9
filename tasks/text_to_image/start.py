"""Where the student's first weights come from."""

from pathlib import Path

from scorefield import resources
from scorefield.files import read_json
from scorefield.generators.weights import saved_weights
from scorefield.teachers.settings import TeacherConfig

from .settings import TextToImageConfig

ONE_STEP = "one-step"  # folder of an asset, beside its teacher, with a generator that was trained longer than a run is


def first_weights(config: TextToImageConfig) -> Path | None:
    """The run, checkpoint or file that the generator starts from; None where those are the teacher's own weights.

    Raises UserError where ``generator.init`` is a path that holds no generator.
    """
    settings = config.generator
    if settings.init == "teacher":
        return None
    if settings.init == "auto":
        return embedded(config)
    path = Path(settings.init)
    if not path.is_dir():  # a run may still have to save its first
        saved_weights(path)
    return path


def embedded(config: TextToImageConfig) -> Path | None:
    """The generator beside an embedded teacher, where it is of the configuration's kind and input noise level."""
    settings, name = config.generator, config.teacher.path
    folder = resources.root() / "assets" / name / ONE_STEP
    if (
        Path(name).name != name
        or not folder.is_dir()
        or config.teacher.name != TeacherConfig.name
        or (settings.kind, settings.name) != ("full", "one_step")
    ):
        return None
    made = read_json(folder / "generator.json")
    return folder / "generator.safetensors" if settings.init_sigma == made["init_sigma"] else None


def described(config: TextToImageConfig) -> str:
    """The start in words, for the plan and the report."""
    if config.generator.init not in ("auto", "teacher"):
        return config.generator.init
    if (start := first_weights(config)) is None:
        return "the teacher's own weights"
    images = read_json(start.with_suffix(".json"))["images_generated"]
    return f"the embedded generator, trained before on {images:,} generated pictures"
