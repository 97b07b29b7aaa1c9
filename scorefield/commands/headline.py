"""``scorefield headline RUN``: the source's table for one's own weights, and for peers beside them."""

import argparse
import json
from pathlib import Path
from typing import Any


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The verb's own flags."""
    parser.add_argument("run", type=Path, help="finished run folder")
    parser.add_argument("--peers", type=Path, help="YAML list of pipelines, measured first where they are not yet")
    parser.add_argument("--scores", help="measure run and peers with these first, for example aesthetic,pickscore")
    parser.add_argument("--score-option", action="append", default=[], metavar="NAME.KEY=VALUE", help="as evaluate's")
    parser.add_argument("--samples", type=int, help="held-out prompts; as configured if left out")
    parser.add_argument("--device", default="auto")


def execute(arguments: argparse.Namespace) -> int:
    """Measure what is asked for and not there yet, then write headline.md and headline.csv into the run folder."""
    from scorefield.files import write_text
    from scorefield.report.headline import headline
    from scorefield.runfolder import RunFolder

    folder = RunFolder.existing(arguments.run)
    peers = read_peers(arguments.peers) if arguments.peers else []
    measure(folder, peers, arguments)
    table = headline(folder)
    title = f"{folder.path.resolve().name}: student, teacher" + (" and peers" if folder.summary().get("peers") else "")
    write_text(folder.path / "headline.md", table.markdown(title))
    write_text(folder.path / "headline.csv", table.csv())
    print(table.markdown(title))
    print(f"wrote {folder.path / 'headline.md'} and headline.csv")
    return 0


def read_peers(path: Path) -> list[Any]:
    """Checked settings of the pipelines in a YAML list; raises UserError for another file and a name that is twice."""
    import yaml

    from scorefield import config as configuration
    from scorefield.errors import UserError
    from scorefield.evaluation.peers import PeerConfig

    try:
        entries = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise UserError(f"cannot read peers from {path}: {str(error).splitlines()[0]}") from error
    if not isinstance(entries, list) or not all(isinstance(entry, dict) for entry in entries):
        raise UserError(f"{path} must hold a list of pipelines, each with a pipeline: and further keys")
    found = [configuration.load(PeerConfig, None, [], entry) for entry in entries]
    names = [peer.name for peer in found]
    if twice := [name for name in names if names.count(name) > 1]:
        raise UserError(f'{path} names "{twice[0]}" twice: give one another name')
    return found


def measure(folder, peers: list[Any], arguments: argparse.Namespace) -> None:
    """Run scorefield evaluate on what was not measured so yet; one that is stopped goes on where it was.

    Raises UserError where one of them fails; those before it stay measured.
    """
    from dataclasses import asdict

    from scorefield.commands.evaluate import asked

    flags = ["--device", arguments.device]
    flags += ["--scores", arguments.scores] if arguments.scores else []
    flags += [word for option in arguments.score_option for word in ("--score-option", option)]
    flags += ["--samples", str(arguments.samples)] if arguments.samples else []
    wanted, summary = asked(arguments), folder.summary()
    other_scores = bool(arguments.scores or arguments.score_option) and summary.get("evaluated_with") != wanted
    if other_scores or arguments.samples not in (None, summary.get("evaluated_prompts")):
        evaluate([str(folder.path), *flags])
    for peer in peers:
        summary = folder.summary()
        told = ((summary.get("peers") or {}).get(peer.name) or {}).get("told") or {}
        prompts = summary.get("evaluated_prompts")
        if (told.get("settings"), told.get("prompts"), told.get("evaluated_with")) == (asdict(peer), prompts, wanted):
            continue
        given = {key: value for key, value in asdict(peer).items() if key != "pipeline" and value not in (None, "", {})}
        words = [f"{key}={json.dumps(value)}" for key, value in given.items()]
        most = [] if arguments.samples or not prompts else ["--samples", str(prompts)]
        evaluate([str(folder.path), *words, "--pipeline", peer.pipeline, *flags, *most])


def evaluate(words: list[str]) -> None:
    """``scorefield evaluate`` with these words."""
    from scorefield.cli import make_parser
    from scorefield.commands import evaluate as verb

    parser = make_parser()
    verb.add_arguments(parser)
    print("scorefield evaluate " + " ".join(words))
    verb.execute(parser.parse_args(words))
