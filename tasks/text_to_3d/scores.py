"""Scores of exported assets by pretrained models, for teachers whose truth nobody knows."""

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from torch import Tensor

from scorefield.errors import UserError
from scorefield.evaluation.scores import SCORES, PictureScore, ScoresConfig, facts, measure, open_scores
from scorefield.three_d import export, t3bench
from scorefield.three_d.asset import GREY
from scorefield.three_d.cameras import Cameras
from scorefield.three_d.view import over, render_mesh

from . import spread
from .settings import EvaluationConfig

if TYPE_CHECKING:
    from .task import TextTo3D


def check(settings: EvaluationConfig) -> None:
    """Raise UserError for scores that could not be had at the end of the run."""
    settings.check_scores()
    spread.check(settings.lpips)
    if "r_precision" in settings.scores and not settings.options_of("r_precision").get("prompts"):
        raise UserError(
            "R-precision of an asset needs other prompts: give evaluation.score_options.r_precision.prompts, a text "
            "file with one prompt a line"
        )
    if name := settings.t3bench.score:
        if not issubclass(SCORES.get(name), PictureScore):
            raise UserError(f"evaluation.t3bench.score={name} does not score single pictures")
        ScoresConfig([name], settings.score_options).check_scores()


class AssetScores:
    """What ``evaluation.scores`` and ``evaluation.t3bench`` ask for, loaded.

    Attributes:
        facts: what must stand beside the figures, for the summary.
    """

    def __init__(self, task: "TextTo3D"):
        self.settings = task.config.evaluation
        self.scores = open_scores(self.settings, task.device)
        self.facts = facts(self.scores)
        self.region: PictureScore | None = None
        if name := self.settings.t3bench.score:
            wanted = ScoresConfig([name], self.settings.score_options)
            (self.region,) = open_scores(wanted, task.device)  # type: ignore[assignment]
            assert self.region is not None
            self.facts |= t3bench.facts(self.region, self.settings.t3bench)

    def add(self, records: list[dict[str, Any]], cameras: Cameras, splats: Callable[[int, Cameras], Tensor]) -> None:
        """Put the figures of each record that has an asset into it; ``cameras`` go round the asset.

        The asset itself is looked at: the texture on its mesh, unlit on plain grey, or what ``splats`` renders of a
        particle that has no mesh (and T3Bench's quality, which needs one, is left out).
        """
        cameras = cameras.sized(self.settings.score_size, self.settings.score_size)
        for record in records:
            if not self.facts or not ("glb" in record or "ply" in record):
                continue
            mesh = export.read_glb(Path(record["glb"])) if record.get("glb") else None
            if self.scores:
                seen = splats(record["particle"], cameras) if mesh is None else over(*render_mesh(mesh, cameras), GREY)
                images = seen * 2 - 1
                record |= measure(self.scores, {"asset": images}, [record["prompt"]] * len(images))["asset"]
            if self.region is not None and mesh is not None:
                record |= t3bench.quality(mesh, record["prompt"], self.region, self.settings.t3bench)
