"""scorefield: carry the knowledge of a diffusion model into any differentiable picture maker."""

__version__ = "0.1.0"
