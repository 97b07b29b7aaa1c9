"""Pairs of pictures of the same prompts: those that a run kept, or drawn anew where more are asked for."""

from pathlib import Path
from typing import Any

from scorefield.errors import UserError, suggest
from scorefield.files import read_json
from scorefield.runfolder import RunFolder

Pairs = list[tuple[str, dict[str, Path]]]


def pairs_of(folder: RunFolder, against: str | None, count: int | None, device: str) -> tuple[tuple[str, str], Pairs]:
    """((who is asked about, against whom), pairs of a run).

    Raises UserError for a run without pictures, an unknown opponent, and fewer pictures than asked for.
    """
    record = folder.evaluation / "pairs.json"
    if not record.exists():
        raise UserError(
            f"{folder.path} holds no pairs of pictures: measure it first (scorefield evaluate {folder.path})"
        )
    records: list[dict[str, Any]] = read_json(record)
    own, first = ("after", "before") if records and "after" in records[0] else ("student", "teacher")
    against = against or first
    if count is not None and count > len(records):
        records = more(folder, count, device)
    if against != first:
        records = [entry | {against: file} for entry, file in zip(records, peer(folder, against), strict=False)]
    if count is not None and len(records) < count:
        raise UserError(
            f"only {len(records)} pictures of {against} were kept, not {count}: measure it anew with keep={count}"
        )
    players, pairs = (own, against), []
    for entry in records[:count]:
        files = {who: folder.path / str(entry.get(who)) for who in players}
        if gone := [path for path in files.values() if not path.is_file()]:
            raise UserError(f"the picture {gone[0]} is gone: measure the run anew")
        pairs.append((str(entry.get("prompt", "")), files))
    return players, pairs


def more(folder: RunFolder, count: int, device: str) -> list[dict[str, Any]]:
    """``count`` pairs, drawn with the newest weights."""
    from scorefield.commands.common import open_run

    task, weights, _ = open_run(folder.path, device)
    return task.pairs(weights, count)


def peer(folder: RunFolder, name: str) -> list[str]:
    """The pictures that were kept of a peer, in the order of the run's prompts."""
    place = folder.evaluation / "peers"
    known = sorted(path.parent.name for path in place.glob("*/pictures.json"))
    if name not in known:
        raise UserError(
            f'no pictures of "{name}" were kept ({suggest(name, ["teacher", *known])}): measure it with scorefield '
            f"evaluate {folder.path} --pipeline PATH name={name}"
        )
    return [entry["picture"] for entry in read_json(place / name / "pictures.json")]
