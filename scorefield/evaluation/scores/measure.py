"""Ask the scores that a configuration names."""

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor

from scorefield.errors import UserError, suggest
from scorefield.evaluation.scores.base import SCORES, Score
from scorefield.images import to_uint8
from scorefield.registry import check_options, construct
from scorefield.training.settings import FREE


@dataclass
class ScoresConfig:
    """Part of a task's ``evaluation`` section."""

    scores: list[str] = field(default_factory=list)  # of pictures by pretrained models: clip, aesthetic, pickscore …
    score_options: dict[str, Any] = field(default_factory=dict, metadata=FREE)  # NAME.option: where weights lie …

    def check_scores(self) -> None:
        """Raise UserError for an unknown score or option, or weights that are not there, before anything heavy."""
        for name in self.scores:
            score, options = SCORES.get(name), self.options_of(name)
            check_options("score", name, score, options, given=1)
            score.check(**options)
        for name in self.score_options:
            if name not in SCORES:
                raise UserError(f'evaluation.score_options: unknown score "{name}": {suggest(name, SCORES)}')

    def options_of(self, name: str) -> dict[str, Any]:
        """What ``score_options`` holds for one score; raises UserError where that is no table."""
        options = self.score_options.get(name) or {}
        if not isinstance(options, dict):
            raise UserError(
                f"evaluation.score_options.{name} is {options!r}, not a table: name an option, for example "
                f"evaluation.score_options.{name}.path=FOLDER"
            )
        return options


def open_scores(settings: ScoresConfig, device: str) -> list[Score]:
    """The named scores, loaded. Raises UserError as ``check_scores`` does, and for weights that do not fit."""
    return [construct("score", n, SCORES.get(n), settings.options_of(n), device) for n in settings.scores]


def measure(scores: Iterable[Score], made: dict[str, Tensor], prompts: list[str]) -> dict[str, dict[str, Any]]:
    """Figures of each set of pictures [N, 3, H, W] in [-1, 1], all of the same N prompts, rounded to uint8 first."""
    found: dict[str, dict[str, Any]] = {who: {} for who in made}
    rounded = {who: to_uint8(images) for who, images in made.items()}
    for score in scores:
        for who, figures in score.between(rounded, prompts).items():
            found[who] |= figures
    return found


def facts(scores: Iterable[Score]) -> dict[str, dict[str, str]]:
    """What must stand beside the figures: {key: {"title", "model", "definition", "better"}}."""
    return {
        score.key: {
            "title": score.title,
            "model": score.model,
            "definition": score.definition,
            "better": score.better,
        }
        for score in scores
    }
