"""The page that asks: pairs in drawn order on drawn sides, in one file that needs no network and names nobody."""

import hashlib
import io
import json
import random
from collections.abc import Sequence
from html import escape
from pathlib import Path
from typing import Any

from scorefield.errors import UserError
from scorefield.files import write_text
from scorefield.preference.votes import token
from scorefield.report.source import data_uri

SMALL, LARGEST = 256, 1024  # pixels a side: up to the first as PNG, beyond the second reduced
TEMPLATE = Path(__file__).with_name("page.html")


def build(pairs: Sequence[tuple[str, dict[str, Path]]], players: tuple[str, str], seed: int, out: Path) -> str:
    """Write the page; returns its name, which stands in its results too.

    Args:
        pairs: (prompt, {player: picture}). players: (who is asked about, against whom).
        seed: of order and sides.

    Raises UserError for a picture that cannot be read.
    """
    contents = [{who: Path(files[who]).read_bytes() for who in players} for _, files in pairs]
    digest = hashlib.sha256(json.dumps([seed, *players, *(prompt for prompt, _ in pairs)]).encode())
    for content in contents:
        for who in players:
            digest.update(hashlib.sha256(content[who]).digest())
    page, rng = digest.hexdigest()[:16], random.Random(seed)
    order = rng.sample(range(len(pairs)), len(pairs))
    asked: list[dict[str, Any]] = []
    for pair in order:
        sides = rng.sample(players, 2)
        shown = [{"token": token(page, pair, who), "image": embedded(contents[pair][who])} for who in sides]
        asked.append({"pair": pair, "prompt": pairs[pair][0], "left": shown[0], "right": shown[1]})
    data = {"page": page, "players": list(players), "pairs": asked}
    # "</" would end the script within a prompt
    text = TEMPLATE.read_text(encoding="utf-8").replace("/*DATA*/null", json.dumps(data).replace("</", "<\\/"))
    write_text(out, text.replace("{{page}}", escape(page)))
    return page


def embedded(content: bytes) -> str:
    """A picture as a data URI: all of one size are treated alike, and nothing of the file but its pixels stays."""
    from PIL import Image

    try:
        with Image.open(io.BytesIO(content)) as file:
            picture = file.convert("RGB")
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        raise UserError(f"cannot read a picture of the pairs: {error}") from error
    buffer = io.BytesIO()
    if max(picture.size) <= SMALL:
        picture.save(buffer, format="PNG")
        return data_uri(buffer.getvalue(), "image/png")
    picture.thumbnail((LARGEST, LARGEST), Image.Resampling.LANCZOS)
    picture.save(buffer, format="JPEG", quality=95)
    return data_uri(buffer.getvalue(), "image/jpeg")
