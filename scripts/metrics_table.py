"""One logged figure of several runs, side by side: the tables of gradient norms and gaps in docs/results.

    python scripts/metrics_table.py runs/compare-losses/* --key grad_norm/generator

Prints a row a run, its values in the order in which they were logged, and the largest over the smallest.
"""

import argparse
import json
from pathlib import Path


def values(run: Path, key: str) -> list[float]:
    """What a run logged under ``key``."""
    lines = (json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines())
    return [line[key] for line in lines if key in line]


def table(runs: list[Path], key: str) -> str:
    """Markdown; folders that hold no run, or nothing under ``key``, are left out."""
    rows = [f"| run | {key} | largest over smallest |", "|---|---|---:|"]
    for run in runs:
        found = values(run, key) if (run / "metrics.jsonl").exists() else []
        if found:
            numbers = ", ".join(f"{value:.3g}" for value in found)
            rows.append(f"| {run.name} | {numbers} | {max(found) / min(found):.1f} |")
    return "\n".join(rows)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", type=Path, nargs="+")
    parser.add_argument("--key", required=True)
    arguments = parser.parse_args()
    print(table(arguments.runs, arguments.key))


if __name__ == "__main__":
    main()
