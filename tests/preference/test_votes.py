"""Win rates and their intervals, and which files are no answers."""

import json
import random

import pytest
from scipy.stats import binomtest

from scorefield.errors import UserError
from scorefield.preference import votes

PLAYERS = ("student", "teacher")


def answers(path, choose, count: int = 20, page: str = "p", seed: int = 0):
    """Results in which ``choose(pair, who stands left)`` says left, right or tie."""
    rng, made = random.Random(seed), []
    for pair in range(count):
        left, right = rng.sample(PLAYERS, 2)
        tokens = {"left": votes.token(page, pair, left), "right": votes.token(page, pair, right)}
        made.append({"pair": pair, **tokens, "choice": choose(pair, left)})
    path.write_text(json.dumps({"page": page, "players": list(PLAYERS), "votes": made}))
    return path


def for_student(pair, left):
    """The student wins three of four; every tenth pair is a tie."""
    if pair % 10 == 9:
        return "tie"
    return "left" if (left == "student") is (pair % 4 != 0) else "right"


@pytest.mark.parametrize(("wins", "count"), [(0, 5), (5, 5), (13, 18), (130, 180), (1, 2)])
def test_the_interval_is_wilsons(wins, count):
    expected = binomtest(wins, count).proportion_ci(0.95, "wilson")
    assert votes.wilson(wins, count) == pytest.approx([expected.low, expected.high], abs=1e-6)


def test_one_persons_answers(tmp_path):
    found = votes.score([answers(tmp_path / "a.json", for_student)])
    assert (found.wins, found.losses, found.ties, found.pairs, found.raters) == (13, 5, 2, 18, 1)
    assert found.rate == pytest.approx(13 / 18)
    assert found.interval == votes.wilson(13, 18)
    assert found.method == "Wilson"
    assert "student preferred to teacher in 72.2 % of 18 decided votes" in found.lines()[0]
    nobody = votes.score([answers(tmp_path / "b.json", lambda *_: "tie")])
    assert nobody.rate is None
    assert "nobody preferred" in nobody.lines()[0]
    blind = votes.score([answers(tmp_path / "c.json", lambda *_: "left", 40)])
    assert blind.left == 1
    assert "who looked?" in blind.lines()[-1]


def test_several_people_on_the_same_pairs_are_no_independent_votes(tmp_path):
    files = [answers(tmp_path / f"{k}.json", for_student, seed=k) for k in range(8)]
    one, all_alike = votes.score(files[:1]), votes.score(files)
    assert all_alike.rate == pytest.approx(one.rate)
    assert all_alike.method == "bootstrap over pairs"
    width = [high - low for low, high in (one.interval, all_alike.interval, votes.wilson(13 * 8, 18 * 8))]
    assert width[1] == pytest.approx(width[0], rel=0.15)  # eight who agree on 18 pairs tell of 18 pairs
    assert width[2] < width[0] / 2


def test_what_is_no_answer_is_refused(tmp_path):
    good = answers(tmp_path / "a.json", for_student)
    other = answers(tmp_path / "b.json", for_student, page="q")
    with pytest.raises(UserError, match="another page"):
        votes.score([good, other])
    changed = json.loads(good.read_text())
    changed["votes"][3]["left"] = changed["votes"][4]["left"]
    (tmp_path / "c.json").write_text(json.dumps(changed))
    with pytest.raises(UserError, match="belongs to no pair"):
        votes.score([tmp_path / "c.json"])
    (tmp_path / "d.json").write_text("[]")
    with pytest.raises(UserError, match="no results"):
        votes.score([tmp_path / "d.json"])
