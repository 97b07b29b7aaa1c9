"""One-step distillation in pixel space: from an EDM teacher to x = D(2.5 z, 2.5, label)."""

from .task import ClassToImage

__all__ = ["ClassToImage"]
