"""Text to 3D: a radiance field that a diffusion teacher believes in from all sides."""

from .task import TextTo3D

__all__ = ["TextTo3D"]
