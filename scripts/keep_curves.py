"""Keep the curves of a finished run as the reference of its preset.

    python scripts/keep_curves.py runs/text_to_image-TIME configs/text_to_image/from_teacher.yaml

Writes configs/text_to_image/from_teacher.curves.json; reports of later runs of that preset draw them in grey.
"""

import argparse
import json
import re
from pathlib import Path

from scorefield.files import write_text
from scorefield.report import reference
from scorefield.report.source import RunData


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path)
    parser.add_argument("preset", type=Path)
    arguments = parser.parse_args()
    data = RunData.read(arguments.run)
    if data.unfinished():
        parser.error(f"{arguments.run} is not finished")
    known = ("command", "machine", "git_revision", "seed")
    record = {key: data.environment.get(key) for key in known} | {"device": data.summary.get("device")}
    record["command"] = re.sub(r" --out \S+", "", record["command"] or "")  # a path of this machine tells nobody
    curves = reference.gather(data.metrics)
    rows = ",\n".join(f"{json.dumps(key)}: {json.dumps(points)}" for key, points in curves.items())
    text = json.dumps(record, indent=1)[:-2] + ',\n "curves": {\n' + rows + "\n}\n}\n"
    json.loads(text)
    write_text(reference.place(arguments.preset), text)
    print(f"{len(curves)} curves in {reference.place(arguments.preset)}")


if __name__ == "__main__":
    main()
