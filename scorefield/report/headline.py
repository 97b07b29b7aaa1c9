"""The headline table of a run: what the source's own table holds, for student, teacher and further pipelines.

Aesthetic score, ImageReward, PickScore, people's preference and seconds a picture; what nobody measured says so.
"""

import csv
import io
from dataclasses import dataclass
from typing import Any

from scorefield.errors import UserError
from scorefield.report.source import number
from scorefield.report.tables import figure, seconds
from scorefield.runfolder import RunFolder

COLUMNS = {"aesthetic_score": "aesthetic score", "imagereward": "ImageReward", "pickscore": "PickScore"}
MISSING = "not measured"


@dataclass
class Headline:
    """A table of texts with what must stand under it.

    Attributes:
        head: column names. rows: texts. values: the same rows for a machine: numbers, or None.
        notes: sentences.
    """

    head: list[str]
    rows: list[list[str]]
    values: list[list[Any]]
    notes: list[str]

    def markdown(self, title: str) -> str:
        """A page of its own."""
        lines = ["| " + " | ".join(row) + " |" for row in (self.head, *self.rows)]
        lines.insert(1, "|---" * len(self.head) + "|")
        return "\n".join([f"# {title}", "", *lines, "", *(f"- {note}" for note in self.notes), ""])

    def csv(self) -> str:
        """The numbers, an empty cell for what was not measured."""
        out = io.StringIO()
        writer = csv.writer(out, lineterminator="\n")
        writer.writerows([self.head, *([("" if v is None else v) for v in row] for row in self.values)])
        return out.getvalue()


def headline(folder: RunFolder) -> Headline:
    """The table of a finished run; raises UserError for one without teacher and student in its summary."""
    summary = folder.summary()
    if not isinstance(summary.get("student"), dict) or not isinstance(summary.get("teacher"), dict):
        raise UserError(f"{folder.path} has no measured teacher and student: scorefield evaluate {folder.path}")
    rows = {"teacher": summary["teacher"], "student": summary["student"], **(summary.get("peers") or {})}
    scores: dict[str, Any] = summary.get("scores") or {}
    further = {key: str(told.get("title", key)) for key, told in scores.items() if key not in COLUMNS}
    columns = COLUMNS | {
        k: t for k, t in further.items() if any(number(row.get(k)) is not None for row in rows.values())
    }
    votes: dict[str, Any] = summary.get("preference") or {}
    head = ["", "steps", *columns.values(), "student preferred to it", "seconds per image"]
    texts, values = [], []
    for who, row in rows.items():
        vote = votes.get(who) or {}
        cells = [scored(row, key) for key in columns]
        took = number(row.get("seconds_per_image"))
        steps = number(row.get("steps"))
        preferred = "–" if who == "student" else voted(vote)
        shown = ["–" if steps is None else figure(steps), *cells, preferred]
        texts.append([who, *shown, MISSING if took is None else seconds(took)])
        means = [number(row.get(key)) for key in columns]
        values.append([who, None if steps is None else int(steps), *means, number(vote.get("rate")), took])
    return Headline(head, texts, values, notes(folder, summary, rows, votes))


def scored(row: dict[str, Any], key: str) -> str:
    """A score with its interval."""
    value, spread = number(row.get(key)), row.get(f"{key}_interval")
    if value is None:
        return MISSING
    return f"{value:.4g} ± {(spread[1] - spread[0]) / 2:.2g}" if isinstance(spread, list) else f"{value:.4g}"


def voted(vote: dict[str, Any]) -> str:
    """How often people took the student, with the interval."""
    rate = number(vote.get("rate"))
    if rate is None:
        return MISSING
    low, high = vote["interval"]
    return f"{100 * rate:.1f} % ({100 * low:.1f} to {100 * high:.1f})"


def notes(folder: RunFolder, summary: dict[str, Any], rows: dict[str, Any], votes: dict[str, Any]) -> list[str]:
    """On what, by what and how."""
    from scorefield.export.card import prompts_of, recorded

    machine = recorded(folder)
    found = [f"On {prompts_of(folder)}; {machine.get('machine', 'machine unknown')}, {summary.get('device', '')}."]
    for key, told in (summary.get("scores") or {}).items():
        sure = (
            ", ± half the 95 % interval of the mean" if any(f"{key}_interval" in row for row in rows.values()) else ""
        )
        found.append(f"{told.get('title', key)}: {told.get('model', '')} ({told.get('definition', '')}){sure}.")
    for who, vote in votes.items():
        people = "person" if vote["raters"] == 1 else "people"
        found.append(
            f"Preference against {who}: {vote['wins']} wins, {vote['losses']} losses and {vote['ties']} ties "
            f"by {vote['raters']} {people} on {vote['pairs']} pairs; 95 % interval, {vote['method']}."
        )
    asked = summary.get("evaluated_prompts")
    for who, row in rows.items():
        told = row.get("told") or {}
        if told:
            lora = f" with {told['lora']}" if told.get("lora") else ""
            found.append(f"{who}: {told['pipeline']}{lora}, {told['class']}, {told['scheduler']}, {told['dtype']}.")
        if told and asked and told["prompts"] != asked:
            found.append(f"{who} was measured on {told['prompts']} prompts, the run on {asked}: they do not compare.")
    return found
