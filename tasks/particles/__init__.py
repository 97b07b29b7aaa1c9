"""Pictures of one prompt optimised directly: the quickest way to see which losses keep the modes."""

from .task import ParticlesTask

__all__ = ["ParticlesTask"]
