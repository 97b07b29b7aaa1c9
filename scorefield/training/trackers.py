"""Figures of a run in TensorBoard, Weights & Biases and others, through accelerate; none unless the user names one."""

import importlib.util
import math
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from scorefield.errors import UserError, suggest

EXTRAS = ("tensorboard", "wandb")  # of this package; others are installed by their own name


def check(names: Sequence[str]) -> None:
    """Raise UserError for a tracker that accelerate does not know, or whose package is not installed."""
    if not names:
        return
    known = kinds()
    for name in names:
        if name not in known:
            raise UserError(f'tracker "{name}" is unknown: {suggest(name, known)}')
        if importlib.util.find_spec(name) is None:
            package = f'"scorefield[{name}]"' if name in EXTRAS else name.replace("_", "-")
            raise UserError(f"trackers names {name}, which is not installed: pip install {package}")


def kinds() -> dict[str, Any]:
    """accelerate's tracker classes by name."""
    from accelerate.tracking import LOGGER_TYPE_TO_CLASS

    return {str(name): kind for name, kind in LOGGER_TYPE_TO_CLASS.items()}


class Trackers:
    """The named trackers of one run; files that a tracker keeps lie under ``folder`` (tensorboard/, wandb/).

    Args:
        start: iteration that the run goes on from; what TensorBoard holds of later ones is shown no more.
        settings: the resolved configuration, told to the trackers once.
    """

    def __init__(self, names: Sequence[str], folder: Path, start: int, settings: Mapping[str, Any]):
        check(names)
        self.opened: list[Any] = []
        for name in names:
            kind = kinds()[name]
            if name == "tensorboard":
                tracker = kind(name, str(folder), purge_step=start + 1)
            elif name == "wandb":  # its first argument is a project, which holds many runs
                project = os.environ.get("WANDB_PROJECT", "scorefield")
                tracker = kind(project, name=folder.name, dir=str(folder))
            elif kind.requires_logging_directory:
                tracker = kind(folder.name, str(folder))
            else:
                tracker = kind(folder.name)
            if hasattr(tracker, "start"):  # older ones of accelerate start when they are made
                tracker.start()
            if name != "tensorboard":  # whose form of this is a file a start; config.yaml lies beside it
                tracker.store_init_configuration(dict(settings))
            self.opened.append(tracker)

    def log(self, record: Mapping[str, Any]) -> None:
        """One line of metrics.jsonl: its finite numbers, at its iteration."""
        if not self.opened:
            return
        numbers = {
            key: value
            for key, value in record.items()
            if key != "iteration" and isinstance(value, int | float) and math.isfinite(value)
        }
        for tracker in self.opened:
            tracker.log(numbers, step=record["iteration"])

    def close(self) -> None:
        """Let all of them write what they hold."""
        for tracker in self.opened:
            tracker.finish()
        self.opened = []
