"""Files of prompts: one a line, JSON lines, parquet, COCO's captions, PartiPrompts' table."""

import json
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from scorefield.errors import UserError, suggest

FIELD = "caption"  # where nothing else is said


def read_prompts_file(path: Path, field: str = FIELD) -> list[str]:
    """Prompts of a file, blank ones left out, told by its ending.

    .txt: one a line, of any length. .jsonl: an object a line, .parquet: a table, .json: a list of texts or objects;
    ``field`` is the key or column. .json of COCO (captions_val2017.json): the first caption of every picture, in order
    of the pictures' numbers. .tsv: columns under a header, ``field`` or else "Prompt", as PartiPrompts has it; quotes
    belong to the text.

    Raises:
        UserError: the file is missing, of another kind, empty or broken.
    """
    if not path.is_file():
        raise UserError(f"prompt file {path} does not exist")
    if path.suffix not in READERS:
        raise UserError(f"prompt file {path} must end in {', '.join(READERS)}")
    texts = [text.strip() for text in READERS[path.suffix](path, field) if text.strip()]
    if not texts:
        raise UserError(f"prompt file {path} holds no prompt")
    return texts


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise UserError(f"prompt file {path} is not UTF-8 text: {error.reason} at byte {error.start}") from error


def _lines(path: Path, field: str) -> list[str]:
    return re.split("\r\n|\n|\r", _text(path))  # and not at the rarer marks that str.splitlines knows


def _jsonl(path: Path, field: str) -> list[str]:
    texts = []
    for number, line in enumerate(_lines(path, field), start=1):
        if not line.strip():
            continue
        try:
            text = json.loads(line)[field]
        except (json.JSONDecodeError, KeyError, TypeError, IndexError) as error:
            raise UserError(f'{path} line {number} is no JSON object with the key "{field}"') from error
        if not isinstance(text, str):
            raise UserError(f'{path} line {number}: "{field}" is {text!r}, not a text')
        texts.append(text)
    return texts


def _json(path: Path, field: str) -> list[str]:
    try:
        value = json.loads(_text(path))
    except json.JSONDecodeError as error:
        raise UserError(f"{path} is not whole JSON: {error}") from error
    if isinstance(value, dict) and "annotations" in value:
        return _coco(path, value["annotations"])
    if not isinstance(value, list):
        raise UserError(f'{path} is neither a list of prompts nor COCO\'s captions: it has no "annotations"')
    texts = [each.get(field) if isinstance(each, dict) else each for each in value]
    return _checked(texts, f'{path}: a prompt is a text, or an object with the key "{field}"')


def _coco(path: Path, annotations: Any) -> list[str]:
    """Of every picture the caption with the smallest number."""
    found: dict[int, tuple[int, Any]] = {}
    try:
        for each in annotations:
            picture, number = int(each["image_id"]), int(each["id"])
            if picture not in found or number < found[picture][0]:
                found[picture] = number, each["caption"]
    except (KeyError, TypeError, ValueError) as error:
        raise UserError(
            f"annotations of {path} are no captions of COCO, with image_id, id and caption (captions_val2017.json, not "
            "instances or keypoints)"
        ) from error
    return _checked((found[picture][1] for picture in sorted(found)), f"{path}: a caption is a text")


def _tsv(path: Path, field: str) -> list[str]:
    header, *rows = _lines(path, field)
    names = [name.strip().lower() for name in header.split("\t")]
    wanted = [field.lower()] + (["prompt"] if field == FIELD else [])
    column = next((names.index(name) for name in wanted if name in names), None)
    if column is None:
        known = suggest(field, [name.strip() for name in header.split("\t")])
        raise UserError(f'{path} has no column "{field}" in its first line: {known}')
    cells = [row.split("\t") for row in rows]
    for number, row in enumerate(cells, start=2):
        if len(row) <= column and "".join(row).strip():
            raise UserError(f"{path} line {number} has {len(row)} columns, and prompts are in number {column + 1}")
    return [row[column] for row in cells if len(row) > column]


def _parquet(path: Path, field: str) -> list[str]:
    try:
        import pyarrow.parquet as parquet
    except ImportError as error:
        raise UserError('reading parquet prompts needs pyarrow: pip install "scorefield[parquet]"') from error
    try:
        file = parquet.ParquetFile(path)
        names = file.schema_arrow.names
        table = file.read(columns=[field]) if field in names else None
    except Exception as error:
        raise UserError(f"cannot read {path} as parquet: {error}") from error
    if table is None:
        raise UserError(f'{path} has no column "{field}": it has {", ".join(names)}')
    values = [value for value in table.column(field).to_pylist() if value is not None]
    return _checked(values, f'{path}: column "{field}" holds texts')


def _checked(values: Iterable[Any], rule: str) -> list[str]:
    texts = list(values)
    if wrong := [value for value in texts if not isinstance(value, str)]:
        raise UserError(f"{rule}, not {wrong[0]!r}")
    return texts


READERS = {".txt": _lines, ".jsonl": _jsonl, ".json": _json, ".tsv": _tsv, ".parquet": _parquet}
