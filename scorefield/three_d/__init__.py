"""Three dimensions: cameras, radiance fields and their differentiable renderer. Needs the extra ``three-d``."""
