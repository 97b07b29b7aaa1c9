"""What several verbs share: opening a run folder with its task and its newest weights."""

import argparse
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

from scorefield import config as configuration
from scorefield.errors import UserError
from scorefield.files import write_text
from scorefield.plugins import load_task
from scorefield.runfolder import RunFolder

T = TypeVar("T")


def resolve_device(device: str) -> str:
    """ "auto" becomes cuda where there is one, else cpu; an absent device is refused."""
    from scorefield.training.settings import TrainingConfig
    from scorefield.training.trainer import make_accelerator

    return str(make_accelerator(TrainingConfig(device=device)).device)


def build_config(task_class, preset: Path | None, overrides: list[str]) -> Any:
    """Resolved configuration of a task; without ``preset``, the one that is usual for the overrides, if there is one.

    Presets lie in configs/TASK/ of this repository, or in configs/ beside the file that the task is written in.
    Raises UserError, beside ``scorefield.config.load``'s, for a preset or an override of another task.
    """
    from scorefield import resources

    name = str(preset or usual_preset(task_class, overrides))
    places = [resources.preset(task_class.name, name), *own_presets(task_class, name)]
    if preset is None or not preset.exists():
        preset = next((place for place in places if place.exists()), preset)
    config = configuration.load(task_class.Config, preset, overrides)
    named = any(word.partition("=")[0] == "task" for word in overrides)
    usual = () if named else (task_class.Config.task,)  # a configuration may be inherited from another task's
    if config.task not in ("", task_class.name, *usual):
        raise UserError(
            f"{'task=' if named else f'{preset} is for task '}{config.task} does not fit the task that was asked for, "
            f"{task_class.name}: name {config.task} in its place, or leave it out"
        )
    config.task = task_class.name
    return config


def check_task(task: Any) -> None:
    """``task.check``, and that the task gives what the loss needs of it.

    Raises UserError before anything heavy starts.
    """
    from scorefield.training.evaluations import PAIRED

    task.check()
    task.config.build_later_losses()
    if PAIRED in task.config.build_loss().needs and PAIRED not in task.gives:
        raise UserError(
            f"loss.name={task.config.loss['name']} needs pairs of start noise and the teacher's samples, which "
            f"{task.name} does not draw: use it with text_to_image"
        )


def usual_preset(task_class, overrides: list[str]) -> str:
    """Name of the preset that a task takes where none is asked for."""
    return task_class.usual_preset(configuration.given(task_class.Config, overrides))


def own_presets(task_class, name: str) -> list[Path]:
    """Where a task from elsewhere keeps the preset of that name."""
    import inspect

    return [Path(inspect.getfile(task_class)).parent / "configs" / f"{name}.yaml"]


def preset_name(given: Path | None, task: str, usual: str = "default") -> str:
    """TASK/NAME of the preset that ``build_config`` reads, "" for a file that is none of ours."""
    from scorefield import resources

    name = usual if given is None else given.stem
    known = resources.preset(task, name)
    ours = known.exists() and (given is None or not given.exists() or given.resolve() == known.resolve())
    return f"{task}/{name}" if ours else ""


def open_run(path: Path, device: str = "auto") -> tuple[Any, dict, Path]:
    """(task, averaged weights, checkpoint folder) of a run.

    Raises UserError when the folder is no run or holds no whole checkpoint.
    """
    from scorefield.training import checkpoint

    folder = RunFolder.existing(path)
    record = folder.path / "task.txt"
    task_class = load_task(record.read_text().strip() if record.exists() else "text_to_image")
    config = configuration.load(task_class.Config, folder.path / "config.yaml")
    newest = checkpoint.newest_whole(folder.checkpoints, print)
    if newest is None:
        raise UserError(f"{path} holds no whole checkpoint yet")
    task = task_class(config, folder, resolve_device(device))
    return task, checkpoint.load(newest, ["ema"]).weights["ema"], newest


def add_training_flags(parser: argparse.ArgumentParser, schema: str, example: str) -> None:
    """Flags of the verbs that train on labelled pictures."""
    parser.add_argument(
        "--data", help='"toybox", an .npz with images and labels, or a folder with a sub-folder a class'
    )
    parser.add_argument("--config", type=Path, help=f"YAML file with the keys of {schema}")
    parser.add_argument("--out", type=Path, required=True, help="folder for the result and the resumable state")
    parser.add_argument("overrides", nargs="*", default=[], metavar="key=value", help=f"for example {example}")


def start_training(arguments: argparse.Namespace, schema: type[T]) -> tuple[T, Callable[[str], None]]:
    """(configuration, say): the configuration is kept in the output folder, what is said goes to its log.txt too."""
    overrides = list(arguments.overrides) + ([f"data={arguments.data}"] if arguments.data else [])
    config = configuration.load(schema, arguments.config, overrides)
    write_text(arguments.out / "config.yaml", configuration.to_yaml(config))
    log = (arguments.out / "log.txt").open("a")

    def say(text: str) -> None:
        print(text, flush=True)
        print(text, file=log, flush=True)

    return config, say
