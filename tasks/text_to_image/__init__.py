"""One-step text-to-image: distil a many-step diffusion pipeline into a generator that needs one step."""

from .task import TextToImage

__all__ = ["TextToImage"]
