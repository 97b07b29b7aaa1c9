"""Noise processes and prediction forms; needs nothing but torch.

Losses only see the variance-exploding view x_t = x0 + sigma * eps. Adapters go there and back:

>>> import torch
>>> process = DiscreteVP.linear()
>>> process.nearest(torch.tensor([2.5])).item()
440
"""

from scorefield.noise.forms import FORMS, convert, score_from_x0, spread
from scorefield.noise.processes import EDM, VE, DiscreteVP, Process, RectifiedFlow, karras_sigmas

__all__ = [
    "EDM",
    "FORMS",
    "VE",
    "DiscreteVP",
    "Process",
    "RectifiedFlow",
    "convert",
    "karras_sigmas",
    "score_from_x0",
    "spread",
]
