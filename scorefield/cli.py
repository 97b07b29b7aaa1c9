"""The command line: verbs and flags only; each verb's work is imported when it is asked for."""

import argparse
import importlib
import keyword
import sys
import warnings

from scorefield import __version__
from scorefield.errors import Notice, UserError
from scorefield.processes import leave, rank

VERBS = {
    "run": "train a generator for a task and report on it",
    "compare": "run one task in several variants, with the same seeds and budget, and draw them side by side",
    "preview": "show what the teacher would draw for a task, before anything is trained",
    "sample": "write pictures from a finished or running run",
    "evaluate": "measure a run's generator anew",
    "export": "write the generator as a folder that stock diffusers loads",
    "headline": "write the table of scores, people's preference and speed of a run's student, teacher and peers",
    "preference": "write a blind page on which people choose between pictures, or score its answers",
    "report": "rebuild the page of a run or of a comparison",
    "bench": "time a preset's iteration with random weights against its bare network passes",
    "list": "name the tasks, presets, comparisons, parts and plugins at hand",
    "config": "print the resolved configuration of a task and stop",
    "import": "convert an official StyleGAN2, EDM or EDM2 pickle to safetensors without running its code",
    "train-teacher": "train a small diffusion teacher on Toybox or on captioned pictures",
    "train-edm": "train a class-conditional EDM teacher on Toybox or on labelled pictures",
    "train-gan": "train a class-conditional StyleGAN2 on Toybox or on labelled pictures",
}


class Parser(argparse.ArgumentParser):
    """argparse that reports a mistake as the rest of the command line does: one line, status 2."""

    def error(self, message: str):
        raise UserError(f"{message} ({self.prog} --help tells more)")


def make_parser() -> argparse.ArgumentParser:
    """The parser with every verb; flags of a verb come from its module only when it is the one asked for."""
    parser = Parser(
        prog="scorefield",
        description="Carry the knowledge of a pretrained diffusion model into any differentiable picture maker.",
        epilog="scorefield VERB --help tells more; settings are given as key=value, for example training.seed=1",
    )
    parser.add_argument("--version", action="version", version=f"scorefield {__version__}")
    return parser


def module_of(verb: str) -> str:
    """The module of a verb: train-teacher is train_teacher, import is import_."""
    return verb.replace("-", "_") + "_" * keyword.iskeyword(verb)


USUAL = warnings.formatwarning


def one_line(message, category, filename, lineno, line=None) -> str:
    """A warning as it is printed: a ``Notice`` as its sentence alone, any other with the place it comes from."""
    if issubclass(category, Notice):
        return f"warning: {message}\n"
    return USUAL(message, category, filename, lineno, line)


def main(arguments: list[str] | None = None) -> int:
    """Run one command; returns its exit status (2 for a mistake of the user's, one line on stderr)."""
    warnings.formatwarning = one_line
    words = list(sys.argv[1:] if arguments is None else arguments)
    parser = make_parser()
    verbs = parser.add_subparsers(dest="verb", metavar="VERB")
    asked = next((word for word in words if not word.startswith("-")), None)
    module = None
    for verb, summary in VERBS.items():
        sub = verbs.add_parser(verb, help=summary, description=summary)
        if verb == asked:
            module = importlib.import_module(f"scorefield.commands.{module_of(verb)}")
            module.add_arguments(sub)
    try:
        if asked is not None and asked not in VERBS:
            from scorefield.errors import suggest

            raise UserError(f'unknown verb "{asked}": {suggest(asked, VERBS)}')
        parsed, rest = parser.parse_known_args(words)
        if module is None:
            raise UserError(f"name a verb: {', '.join(VERBS)} (scorefield --help tells more)")
        # argparse gives up on positionals that follow flags: key=value words may stand anywhere
        loose = [word for word in rest if not word.startswith("-")]
        if flags := [word for word in rest if word.startswith("-")]:
            raise UserError(f"unknown flag {flags[0]}: see scorefield {parsed.verb} --help")
        if loose and not hasattr(parsed, "overrides"):
            raise UserError(f'scorefield {parsed.verb} does not take "{loose[0]}": see scorefield {parsed.verb} --help')
        if loose:
            parsed.overrides = [*parsed.overrides, *loose]
        try:
            status = module.execute(parsed)
        finally:
            whole = "scorefield.mirror" not in sys.modules or sys.modules["scorefield.mirror"].finish()
        leave()
        return status if whole else status or 2
    except UserError as error:
        who = f"scorefield (process {rank()})" if rank() else "scorefield"
        print(f"{who}: {' '.join(str(error).split())}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("scorefield: stopped", file=sys.stderr)
        return 130
    except BrokenPipeError:
        sys.stderr.close()
        return 141


def entry() -> None:
    """The installed command."""
    sys.exit(main())
