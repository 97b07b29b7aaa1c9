"""One logged figure of several runs, side by side: the tables of gradient norms and gaps in docs/results.

    python scripts/metrics_table.py runs/compare-losses/* --key grad_norm/generator

Prints a row a run, its values in the order in which they were logged, and the largest over the smallest.
"""

import argparse
import json
from pathlib import Path

from scorefield.errors import suggest


def logged(run: Path) -> list[dict]:
    """The lines of a run's metrics; none for a folder that holds no run."""
    file = run / "metrics.jsonl"
    return [json.loads(line) for line in file.read_text().splitlines()] if file.exists() else []


def table(metrics: dict[str, list[dict]], key: str) -> str:
    """Markdown; runs with nothing under ``key`` are left out."""
    rows = [f"| run | {key} | largest over smallest |", "|---|---|---:|"]
    for name, lines in metrics.items():
        found = [line[key] for line in lines if key in line]
        if found:
            numbers = ", ".join(f"{value:.3g}" for value in found)
            rows.append(f"| {name} | {numbers} | {max(found) / min(found):.1f} |")
    return "\n".join(rows)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", type=Path, nargs="+")
    parser.add_argument("--key", required=True)
    arguments = parser.parse_args()
    metrics = {run.name: logged(run) for run in arguments.runs}
    known = {key for lines in metrics.values() for line in lines for key in line}
    if arguments.key not in known:
        parser.error(f'none of these runs logged "{arguments.key}": {suggest(arguments.key, known)}')
    print(table(metrics, arguments.key))


if __name__ == "__main__":
    main()
