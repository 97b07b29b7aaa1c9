"""GAN refinement: improve a pretrained StyleGAN2 with the score of a diffusion teacher."""

from .task import GANRefine

__all__ = ["GANRefine"]
