"""``scorefield preference RUN``: a blind page that asks people which picture is better, and ``--score`` its answers."""

import argparse
from pathlib import Path


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The verb's own flags."""
    parser.add_argument("run", type=Path, nargs="?", help="run folder; with --score, the summary that takes the result")
    parser.add_argument("--pairs", type=int, help="how many; those that the run kept if left out, more are drawn")
    parser.add_argument("--against", help="teacher if left out, or a pipeline that scorefield evaluate measured")
    parser.add_argument("--seed", type=int, default=0, help="of the order and of the sides")
    parser.add_argument("--out", type=Path, help="page to write; RUN/preference/AGAINST.html if left out")
    parser.add_argument("--score", type=Path, nargs="+", metavar="FILE", help="results that the page saved")
    parser.add_argument("--device", default="auto")


def execute(arguments: argparse.Namespace) -> int:
    """Write the page, or say what its answers are."""
    from scorefield.errors import UserError

    if arguments.score:
        return tell(arguments)
    if arguments.run is None:
        raise UserError("name a run, or results as --score FILE")
    if arguments.pairs is not None and arguments.pairs < 1:
        raise UserError(f"--pairs must be at least 1, not {arguments.pairs}")
    return ask(arguments)


def tell(arguments: argparse.Namespace) -> int:
    """The win rate and its interval; into the run's summary where a run is named."""
    from scorefield.preference.votes import score
    from scorefield.report.page import build_report
    from scorefield.runfolder import RunFolder

    folder = RunFolder.existing(arguments.run) if arguments.run else None
    found = score(arguments.score)
    print("\n".join(found.lines()))
    if folder is not None:
        summary = folder.summary()
        others = summary.get("preference") or {}
        folder.write_summary(summary | {"preference": others | {found.players[1]: found.record()}})
        build_report(folder.path)
    return 0


def ask(arguments: argparse.Namespace) -> int:
    """Gather the pairs, write the page."""
    from scorefield.errors import UserError
    from scorefield.preference.gather import pairs_of
    from scorefield.preference.page import build
    from scorefield.runfolder import RunFolder

    folder = RunFolder.existing(arguments.run)
    players, pairs = pairs_of(folder, arguments.against, arguments.pairs, arguments.device)
    out = arguments.out or folder.path / "preference" / f"{players[1]}.html"
    if out.is_dir():
        raise UserError(f"{out} is a folder: --out names the page to write")
    build(pairs, players, arguments.seed, out)
    print(f"wrote {out}: {len(pairs)} pairs, {players[0]} against {players[1]}, sides hidden")
    print(f"read its results with: scorefield preference {arguments.run} --score FILE …")
    return 0
