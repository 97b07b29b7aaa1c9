"""Errors that are the user's to mend: one clear sentence, no traceback, exit status 2."""

import difflib
import math
from collections.abc import Iterable


class UserError(ValueError):
    """A mistake in what the user gave; its text is the one line that the command line prints."""


class Notice(UserWarning):
    """What the user should know though the work goes on; the command line prints its text as one line."""


def check_number(
    key: str, value: float, low: float = -math.inf, high: float = math.inf, *, above: bool = False
) -> None:
    """Raise UserError unless ``value`` is finite and low <= value < high (low < value where ``above``)."""
    if math.isfinite(value) and (low < value if above else low <= value) and value < high:
        return
    bounds = [f"above {low:g}" if above else f"at least {low:g}"] if low > -math.inf else ["finite"]
    bounds += [f"below {high:g}"] if high < math.inf else []
    raise UserError(f"{key} must be {' and '.join(bounds)}, not {value}")


def suggest(word: str, options: Iterable[str]) -> str:
    """The tail of an error about an unknown name: the nearest one, then the list of all.

    >>> suggest("simm", ["sim", "sid"])
    'did you mean "sim"? Known: sid, sim'
    """
    names = sorted(options)
    near = difflib.get_close_matches(word, names, n=1, cutoff=0.5)
    known = "Known: " + (", ".join(names) or "none")
    return f'did you mean "{near[0]}"? {known}' if near else known
