"""Write a pack of emoji (pictures with names) as the folder of captioned pictures that train-teacher reads.

    python scripts/emoji_folder.py emoji_t2i_64.npz --out runs/emoji-pictures [--people 800] [--style noto]
    python -m scorefield train-teacher --config configs/teachers/emoji.yaml --data runs/emoji-pictures --out runs/emoji

The pack is a .npz with webp pictures end to end (``webp``, ``off``) and one JSON record a line (``meta``: style,
caption, group, keywords). More than half of it are people in several skin tones; ``--people`` keeps that many of them,
evenly chosen, so that they do not crowd out the rest; ``--style`` keeps one style (noto, fluent 3d or fluent flat).
Captions read "dragon, noto style".
"""

import argparse
import io
import json
from pathlib import Path

import numpy as np
from PIL import Image

from scorefield.files import write_text

PEOPLE = "People & Body"


def chosen_rows(records: list[dict], people: int, style: str = "") -> list[int]:
    """All rows (of ``style``, if given) but those of people, of which ``people`` are taken at even distances."""
    rows = [k for k, record in enumerate(records) if not style or record["style"] == style]
    crowd = [k for k in rows if records[k]["group"] == PEOPLE]
    kept = {crowd[int(k)] for k in np.linspace(0, len(crowd) - 1, min(people, len(crowd)))}
    return [k for k in rows if records[k]["group"] != PEOPLE or k in kept]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("pack", type=Path)
    parser.add_argument("--people", type=int, default=800, help="pictures of people to keep")
    parser.add_argument("--style", default="", help="keep pictures of this style only")
    parser.add_argument("--out", type=Path, required=True)
    arguments = parser.parse_args()
    with np.load(arguments.pack) as pack:  # each access of a .npz decompresses the array anew
        pictures, offsets, meta = pack["webp"], pack["off"], pack["meta"]
    records = [json.loads(line) for line in meta.tobytes().decode().splitlines()]
    rows = chosen_rows(records, arguments.people, arguments.style)
    if not rows:
        parser.error(f'no picture of style "{arguments.style}": there are {sorted({r["style"] for r in records})}')
    arguments.out.mkdir(parents=True, exist_ok=True)
    lines = []
    for k in rows:
        data = pictures[offsets[k] : offsets[k + 1]].tobytes()
        picture = Image.open(io.BytesIO(data)).convert("RGBA")
        canvas = Image.new("RGBA", picture.size, (255, 255, 255, 255))
        Image.alpha_composite(canvas, picture).convert("RGB").save(arguments.out / f"{k:05d}.png")
        caption = f"{records[k]['caption'].lower()}, {records[k]['style']} style"
        lines.append(json.dumps({"file": f"{k:05d}.png", "caption": caption}, ensure_ascii=False))
    write_text(arguments.out / "captions.jsonl", "\n".join(lines) + "\n")
    print(f"{len(lines)} captioned pictures in {arguments.out}")


if __name__ == "__main__":
    main()
