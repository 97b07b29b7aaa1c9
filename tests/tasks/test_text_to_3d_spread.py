"""How different particles look: LPIPS between their assets whatever the teacher, and a sentence where it is off."""

import pytest
import torch

from scorefield import config as configuration
from scorefield.errors import UserError
from scorefield.three_d.spread import LpipsConfig, mean_distance
from tasks.text_to_3d import assets
from tasks.text_to_3d.scores import check
from tasks.text_to_3d.settings import TextTo3DConfig
from tests.tasks.test_text_to_3d_assets import make
from tests.three_d.shapes import Ball


def finished(tmp_path, settings, *fields):
    task, generator = make(tmp_path, *fields)
    task.config.evaluation.judge = "none"  # a real teacher's pictures
    task.config.evaluation.lpips = settings
    return assets.finish(task, generator, 2)["assets"]


def test_particles_that_differ_are_further_apart(tmp_path):
    law = LpipsConfig(trunk="random", views=2, size=32)
    alike = finished(tmp_path / "alike", law, Ball(), Ball(), Ball(density=1e-5))
    apart = finished(tmp_path / "apart", law, Ball(), Ball(radius=0.3))
    assert alike[0]["lpips_diversity"] == alike[2]["lpips_diversity"] == pytest.approx(0, abs=1e-6)
    assert apart[0]["lpips_diversity"] == apart[1]["lpips_diversity"] > 1e-3
    assert apart[0]["diversity"] is None  # the judge's, which cannot read this teacher
    assert "LPIPS between particles" in (tmp_path / "apart" / "report" / "assets.html").read_text()


def test_without_weights_one_sentence_says_what_to_give(tmp_path, capsys):
    assert finished(tmp_path / "two", LpipsConfig(), Ball(), Ball())[0]["lpips_diversity"] is None
    assert "is not measured: give evaluation.lpips.trunk" in capsys.readouterr().out
    assert finished(tmp_path / "one", LpipsConfig(), Ball())[0]["lpips_diversity"] is None
    assert "LPIPS" not in capsys.readouterr().out


def test_the_mean_is_over_all_pairs_and_views():
    seen = [torch.full((2, 3, 4, 4), value) for value in (0.0, 1.0, 3.0)]
    metric = lambda one, other: (one - other).abs().flatten(1).mean(1) * torch.tensor([1.0, 2.0])  # noqa: E731
    assert mean_distance(seen, metric) == pytest.approx(1.5 * (1 + 3 + 2) / 3)
    assert mean_distance(seen[:1], metric) is None


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        ("evaluation.lpips.net=resnet", 'evaluation.lpips.net "resnet" is unknown'),
        ("evaluation.lpips.size=16", "at least 32"),
        ("evaluation.lpips.trunk=nowhere.pth", 'evaluation.lpips.trunk "nowhere.pth" is no file; give'),
    ],
)
def test_mistakes_are_told_before_the_run(words, expected):
    with pytest.raises(UserError, match=expected):
        check(configuration.load(TextTo3DConfig, None, [words]).evaluation)
