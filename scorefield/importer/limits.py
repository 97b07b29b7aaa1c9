"""Limits that a file must keep; each is checked before anything is allocated for what it bounds.

Official networks stay well inside: EDM's for CIFAR-10, with 425 tensors in 247 modules, takes 44,000 instructions.
"""

FILE_BYTES = 16 << 30
"""Largest file that is opened."""

INSTRUCTIONS = 250_000
"""Pickle instructions of the file; with it, the number of objects and of memo entries."""

STORAGE_INSTRUCTIONS = 100
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

ENTRIES = 500_000
"""Attributes, parameters, buffers and children of all modules of one network, absent ones counted too."""

ZIP_DIRECTORY_BYTES = 1 << 16
"""Directory of a zip archive inside a storage stream."""

FOLDER_RECORD_BYTES = 64 << 20
"""network.json of a converted folder."""

TENSORS = 3_000
"""Tensors of one network; the largest official ones have under 1,000."""

PATH = 400
"""Letters of a module's dotted path; official ones have under 60."""
