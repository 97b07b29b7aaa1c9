"""What people preferred: the answers of blind pages, their win rate and how sure it is."""

import hashlib
import math
import random
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from scorefield.errors import UserError
from scorefield.files import read_json

NORMAL = 1.959964  # standard deviations either side that hold 95 %
RESAMPLES = 10000


def token(page: str, pair: int, who: str) -> str:
    """What stands for a player on a page: it tells nobody who it is, and cannot be made up for another page."""
    return hashlib.sha256(f"{page}/{pair}/{who}".encode()).hexdigest()[:16]


def wilson(wins: float, count: int, z: float = NORMAL) -> list[float]:
    """[low, high]: Wilson's score interval of a share of ``count`` independent votes (Wilson 1927); [0, 1] of none."""
    if count == 0:
        return [0.0, 1.0]
    rate, square = wins / count, z**2 / count
    middle = (rate + square / 2) / (1 + square)
    half = z / (1 + square) * math.sqrt(rate * (1 - rate) / count + square / (4 * count))
    return [max(0.0, middle - half), min(1.0, middle + half)]


def bootstrap(votes: Sequence[Sequence[int]], seed: int = 0) -> list[float]:
    """[low, high]: percentile interval of the share of ones, drawing whole pairs anew with all votes on them.

    Several people who look at the same pair do not count as so many independent votes.
    """
    rng, rates = random.Random(seed), []
    totals = [(sum(row), len(row)) for row in votes]
    for _ in range(RESAMPLES):
        drawn = rng.choices(totals, k=len(totals))
        rates.append(sum(w for w, _ in drawn) / sum(n for _, n in drawn))
    rates.sort()
    return [rates[round(0.025 * (RESAMPLES - 1))], rates[round(0.975 * (RESAMPLES - 1))]]


@dataclass
class Preference:
    """Answers to one page, of one person or several.

    Attributes:
        players: (who is asked about, against whom). pairs: of them that somebody decided. raters: how many answered.
        wins, losses, ties: of the first player; a tie is "no preference".
        rate, interval: share of wins among the decided votes and its 95 % interval, made by ``method``.
        left, left_interval: share of decided votes for the left side: far from one half, people did not look.
    """

    players: tuple[str, str]
    pairs: int
    raters: int
    wins: int
    losses: int
    ties: int
    rate: float | None
    interval: list[float]
    method: str
    left: float | None
    left_interval: list[float]

    def record(self) -> dict[str, Any]:
        """As summary.json holds it."""
        return dict(vars(self), players=list(self.players))

    def lines(self) -> list[str]:
        """What is said on the terminal."""
        who, other = self.players
        if self.rate is None or self.left is None:
            return [f"{who} against {other}: nobody preferred either ({self.ties} times no preference)"]
        low, high = self.interval
        text = (
            f"{who} preferred to {other} in {100 * self.rate:.1f} % of {self.wins + self.losses} decided votes, "
            f"95 % interval {100 * low:.1f} to {100 * high:.1f} % ({self.method})"
        )
        found = [
            text,
            f"{self.wins} wins, {self.losses} losses, {self.ties} times no preference; {self.raters} "
            f"{'person' if self.raters == 1 else 'people'}, {self.pairs} pairs",
        ]
        if not self.left_interval[0] <= 0.5 <= self.left_interval[1]:
            found.append(f"the left side won {100 * self.left:.0f} % of the votes, whatever stood there: who looked?")
        return found


def score(files: Sequence[Path]) -> Preference:
    """What the answers in ``files`` say together.

    Raises UserError for a file that is no page's, of another page than the first, or with answers to no pair of it.
    """
    page, players = "", ("", "")
    by_pair: dict[int, list[int]] = defaultdict(list)
    ties = lefts = 0
    for path in files:
        answers = read_answers(path)
        if page and answers["page"] != page:
            raise UserError(f"{path} answers another page than {files[0]}: score them one by one")
        page, players = answers["page"], tuple(answers["players"])
        for vote in answers["votes"]:
            left = resolved(path, page, players, vote)
            if vote["choice"] == "tie":
                ties += 1
                continue
            chosen_left = vote["choice"] == "left"
            lefts += chosen_left
            by_pair[int(vote["pair"])].append(int((left == players[0]) is chosen_left))
    wins = sum(map(sum, by_pair.values()))
    count = sum(map(len, by_pair.values()))
    several = max(map(len, by_pair.values()), default=0) > 1
    interval = bootstrap(list(by_pair.values())) if several else wilson(wins, count)
    return Preference(
        players=players,  # type: ignore[arg-type]
        pairs=len(by_pair),
        raters=len(files),
        wins=wins,
        losses=count - wins,
        ties=ties,
        rate=wins / count if count else None,
        interval=interval,
        method="bootstrap over pairs" if several else "Wilson",
        left=lefts / count if count else None,
        left_interval=wilson(lefts, count),
    )


def read_answers(path: Path) -> dict[str, Any]:
    """A page's results; raises UserError for anything else."""
    answers = read_json(path)
    kinds = {"page": str, "votes": list, "players": list}
    whole = isinstance(answers, dict) and all(isinstance(answers.get(key), kind) for key, kind in kinds.items())
    if not whole or len(answers["players"]) != 2:
        raise UserError(f"{path} holds no results of a preference page")
    return answers


def resolved(path: Path, page: str, players: tuple[str, ...], vote: Any) -> str:
    """Who stood on the left; raises UserError for a vote that is none of the page's."""
    try:
        pair, left, right, choice = (vote[key] for key in ("pair", "left", "right", "choice"))
        tokens = {token(page, int(pair), who): who for who in players}
        if choice in ("left", "right", "tie") and {left, right} == set(tokens):
            return tokens[left]
    except (KeyError, TypeError, ValueError):
        pass
    raise UserError(f"{path}: the answer {vote!r} belongs to no pair of this page")
