"""Generator losses as pure functions of tensors; needs nothing but torch.

>>> import torch, scorefield.losses
>>> loss = scorefield.losses.build("sim", distance="pseudo_huber", c=0.03)
>>> x0 = torch.zeros(2, 3, requires_grad=True)
>>> x_t = x0 + 1.0
>>> loss(x0=x0, x_t=x_t, sigma=torch.ones(2), teacher_x0=0.5 * x_t, online_x0=0.4 * x_t).shape
torch.Size([2])

A loss of your own: a frozen dataclass that derives from ``Loss``, under ``@LOSSES.register("name")``, in a file of this
folder or in a package of your own that names it as an entry point; CONTRIBUTING.md shows both.
"""

from scorefield.losses import csd, diff_instruct, dmd, ism, moment_matching, nfsd, regression, sdi, sds, sid, sim, vsd
from scorefield.losses.base import LOSSES, Loss, build
from scorefield.losses.distances import DISTANCES, Distance

__all__ = [
    "DISTANCES",
    "LOSSES",
    "Distance",
    "Loss",
    "build",
    "csd",
    "diff_instruct",
    "dmd",
    "ism",
    "moment_matching",
    "nfsd",
    "regression",
    "sdi",
    "sds",
    "sid",
    "sim",
    "vsd",
]
