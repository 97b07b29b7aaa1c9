"""Errors that are the user's to mend: one clear sentence, no traceback, exit status 2."""

import difflib
from collections.abc import Iterable


class UserError(ValueError):
    """A mistake in what the user gave; its text is the one line that the command line prints."""


def suggest(word: str, options: Iterable[str]) -> str:
    """The tail of an error about an unknown name: the nearest one, then the list of all.

    >>> suggest("simm", ["sim", "sid"])
    'did you mean "sim"? Known: sid, sim'
    """
    names = sorted(options)
    near = difflib.get_close_matches(word, names, n=1, cutoff=0.5)
    known = "Known: " + (", ".join(names) or "none")
    return f'did you mean "{near[0]}"? {known}' if near else known
