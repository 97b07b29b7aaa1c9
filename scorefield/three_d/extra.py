"""Libraries of the extra ``three-d``, imported when they are needed."""

import importlib
from types import ModuleType

from scorefield.errors import UserError


def need(module: str) -> ModuleType:
    """The module; raises UserError that names the extra when it is not installed."""
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise UserError(
            f"three dimensions need {module.partition('.')[0]}, which is not installed: "
            'pip install "scorefield[three-d]"'
        ) from error
