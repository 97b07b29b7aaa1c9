"""What a task is: it supplies teacher, online score, generator and conditions, looks at the result, measures it.

A task lives in a folder of its own whose package exports exactly one ``Task`` subclass.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from torch import Tensor, nn

from scorefield.denoiser import Denoiser
from scorefield.errors import UserError
from scorefield.generators.base import Generator
from scorefield.losses.base import Loss
from scorefield.runfolder import RunFolder
from scorefield.training.settings import RunConfig

if TYPE_CHECKING:
    from scorefield.monitors import Probe


@dataclass
class Players:
    """The three roles of a run.

    Attributes:
        beside: frozen networks that an iteration needs as well, by what they are ("autoencoder").
    """

    teacher: Denoiser
    online: Denoiser
    generator: Generator
    beside: dict[str, nn.Module] = field(default_factory=dict)


class Task:
    """Base of all tasks.

    Args:
        config: resolved, an instance of ``Config``. folder: the run's. device: "cpu", "cuda" or "mps".

    Class attributes beside those of the listing: ``gives``, tensors that its batches bring for losses ("paired_x0").
    """

    name: ClassVar[str] = ""
    summary: ClassVar[str] = ""
    Config: ClassVar[type[RunConfig]] = RunConfig
    gives: ClassVar[frozenset[str]] = frozenset()

    def __init__(self, config: Any, folder: RunFolder, device: str):
        self.config, self.folder, self.device = config, folder, device
        self.say: Callable[[str], None] = lambda text: None  # the command line's: what is being done, for who waits

    @classmethod
    def usual_preset(cls, given: dict[str, str]) -> str:
        """Name of the preset that holds where none is asked for; ``given`` are the overrides, by dotted key."""
        return "default"

    def check(self) -> None:
        """Raise UserError for a mistake in the configuration or the inputs, before anything heavy starts."""

    def inputs(self) -> dict[str, str]:
        """Configuration keys of what is learned from, each with a digest of what it gives; asked after ``check``.

        A run is not resumed on other inputs than it began with.
        """
        return {}

    def build(self) -> Players:
        """Load the teacher, make the generator and the online score."""
        raise NotImplementedError

    def make_loss(self) -> Loss:
        """The configured loss, with what only the task has (a decoder) put in."""
        return self.config.build_loss()

    def make_losses(self) -> dict[int, Loss]:
        """It and those that take over, by the iteration from which each holds."""
        return {0: self.make_loss(), **self.config.build_later_losses()}

    def rehearse(self) -> Players:
        """The same players with random weights and made-up conditions, nothing fetched, for ``scorefield bench``.

        ``--dry-run`` asks for them on device "meta", where tensors have no memory.
        """
        raise UserError(f"task {self.name} has no rehearsal to be timed or estimated")

    def stand_in(self) -> None:
        """Let configurations that come along stand in for a pretrained model that is not here; for a plan alone."""

    def memory_beside(self) -> dict[str, int]:
        """Bytes by role that a run keeps on its device beside networks, optimizers and activations; an estimate."""
        return {}

    def plan(self) -> list[str]:
        """Lines that ``--dry-run`` prints beside the core's."""
        return []

    def preview(self, generator: Generator, iteration: int) -> dict[str, float]:
        """Draw pictures of the averaged generator into ``folder.samples``; returns running figures."""
        return {}

    def preview_teacher(self, out: Path) -> Path:
        """Write one picture ``out`` of what the teacher draws for the task's prompts; returns its path."""
        raise UserError(f"{self.name} has no preview of its teacher")

    def probe(self, generator: Generator) -> "Probe | None":
        """The same few samples at every look, several of each condition, for the monitors; None: not watched."""
        return None

    def finish(self, generator: Generator) -> dict[str, Any]:
        """Measure the averaged generator; returns what joins summary.json ("real", "teacher", "student" …)."""
        return {}

    def sample(self, checkpoint: dict[str, Tensor], prompts: list[str], seed: int, out: Path) -> list[Path]:
        """Write one picture per prompt from the averaged generator's weights."""
        raise NotImplementedError

    def evaluate(self, checkpoint: dict[str, Tensor], samples: int) -> dict[str, Any]:
        """Measure saved weights anew; returns the summary's objects."""
        raise NotImplementedError

    def pairs(self, checkpoint: dict[str, Tensor], count: int) -> list[dict[str, Any]]:
        """Draw ``count`` pairs into the run folder: records as those of evaluation/pairs.json."""
        raise UserError(f"task {self.name} draws no more pairs of pictures than it kept")

    def evaluate_peer(self, settings: Any, samples: int) -> dict[str, Any]:
        """The row of a diffusers pipeline (``scorefield.evaluation.peers.PeerConfig``) on the task's own prompts."""
        raise UserError(f"task {self.name} has no prompts that another pipeline could be measured on")

    def export(self, checkpoint: dict[str, Tensor], out: Path) -> Path:
        """Write the generator in the form that other tools load."""
        raise NotImplementedError
