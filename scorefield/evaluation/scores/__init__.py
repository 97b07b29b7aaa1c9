"""Scores of pictures by pretrained models: one file each, off by default, weights from local paths.

``open_scores`` loads those that ``evaluation.scores`` names, ``measure`` asks them; every figure comes with the name of
its model.
"""

from scorefield.evaluation.scores.base import SCORES, PictureScore, Score, summary
from scorefield.evaluation.scores.measure import ScoresConfig, facts, measure, open_scores

__all__ = ["SCORES", "PictureScore", "Score", "ScoresConfig", "facts", "measure", "open_scores", "summary"]
