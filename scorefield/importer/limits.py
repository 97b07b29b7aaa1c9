"""Limits that a file must keep; each is checked before anything is allocated for what it bounds.

The largest published networks stay well inside: an EDM ImageNet-64 file takes some 10^5 instructions, and text other
than embedded source is a few kilobytes.
"""

FILE_BYTES = 16 << 30
"""Largest file that is opened."""

INSTRUCTIONS = 250_000
"""Pickle instructions of the file; with it, the number of objects and of memo entries."""

STORAGE_INSTRUCTIONS = 400
"""Instructions of one pickle inside a tensor's storage stream."""

STACK = 100_000
"""Values on the machine's stack."""

MARKS = 200
"""Open marks: how deep tuples, lists and dictionaries may be begun inside one another."""

NESTING = 200
"""Depth of the finished structure; official files stay under 40."""

SHORT_TEXT = 4096
"""Longest text that is taken into memory; longer text (embedded source) stays in the file."""

TEXT_BYTES = 16 << 20
"""All text that is taken into memory."""

INTEGER_BYTES = 16
"""Longest integer."""

DIMENSIONS = 8
"""Axes of a tensor or an array."""

ARRAY_ITEMS = 4096
"""Items of a numpy array in a setting."""

SETTINGS = 20_000
"""Items of all plain settings (arguments and attributes) of one network."""

MODULES = 20_000
"""Modules of one network."""

ZIP_DIRECTORY_BYTES = 1 << 16
"""Directory of a zip archive inside a storage stream."""

FOLDER_RECORD_BYTES = 64 << 20
"""network.json of a converted folder."""

TENSORS = 5_000
"""Tensors of one network; the largest published has under 1,500."""

PATH = 400
"""Letters of a module's dotted path; official ones have under 60."""
