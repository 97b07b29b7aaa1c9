"""Scores of exported assets by pretrained models, for teachers whose truth nobody knows."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

from scorefield.errors import UserError
from scorefield.evaluation.scores import SCORES, PictureScore, ScoresConfig, facts, measure, open_scores
from scorefield.three_d import export, t3bench
from scorefield.three_d.asset import GREY
from scorefield.three_d.cameras import Cameras
from scorefield.three_d.view import over, render_mesh

from .settings import EvaluationConfig

if TYPE_CHECKING:
    from .task import TextTo3D


def check(settings: EvaluationConfig) -> None:
    """Raise UserError for scores that could not be had at the end of the run."""
    settings.check_scores()
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

    def add(self, records: list[dict[str, Any]], cameras: Cameras) -> None:
        """Put the figures of each record that has a GLB into it; ``cameras`` go round the asset.

        The asset itself is looked at: the texture on its mesh, unlit on plain grey.
        """
        side = self.settings.score_size
        for record in records:
            if not record.get("glb") or not self.facts:
                continue
            mesh = export.read_glb(Path(record["glb"]))
            if self.scores:
                images = over(*render_mesh(mesh, cameras.sized(side, side)), GREY) * 2 - 1
                record |= measure(self.scores, {"asset": images}, [record["prompt"]] * len(images))["asset"]
            if self.region is not None:
                record |= t3bench.quality(mesh, record["prompt"], self.region, self.settings.t3bench)
