"""The one exception of the importer."""

from scorefield.errors import UserError


class ImportRefused(UserError):
    """A network file that is damaged, hostile, of an unknown kind, or without the network asked for.

    Every failure of ``scorefield.importer.load`` is this exception; its text is one sentence that names the file.
    """


def shown(value: object, limit: int = 80) -> str:
    """A value out of a file, fit for an error's text: printable and cut short.

    Only texts and numbers are spelled out: a nested value could be built so that its text has no end.
    """
    if type(value) not in (str, int, float, bool, type(None)):
        return f"a {type(value).__name__}"
    text = str(value)
    return ascii(text[:limit])[1:-1] + ("…" if len(text) > limit else "")
