"""Several pixel-space teachers, each trusted with a range of noise levels of its own."""

from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import Tensor, nn

from scorefield.denoiser import Condition, Denoiser
from scorefield.errors import UserError
from scorefield.teachers.edm import EDMDenoiser


class RangedTeacher(Denoiser):
    """D(x_t, sigma, condition) of the teacher whose range sigma lies in; each sample asks one network only.

    All draw pictures of one shape and know the same classes.

    Args:
        teachers: (lowest noise level, teacher), in any order; the lowest of all goes down to what its teacher knows.

    Raises:
        UserError: equal bounds, unlike pictures or classes, or a teacher that does not know its whole range.
    """

    shape: tuple[int, int, int]
    label_dim: int
    bounds: Tensor

    def __init__(self, teachers: Sequence[tuple[float, EDMDenoiser]]):
        super().__init__()
        ordered = sorted(teachers, key=lambda pair: pair[0])
        bounds = [bound for bound, _ in ordered]
        if any(low == high for low, high in pairwise(bounds)):
            raise UserError(f"two teachers begin at the same noise level: {', '.join(f'{b:g}' for b in bounds)}")
        self.parts = nn.ModuleList(teacher for _, teacher in ordered)
        first, last = ordered[0][1], ordered[-1][1]
        for (bound, teacher), (above, _) in pairwise([*ordered, (last.sigma_max, last)]):
            low = max(bound, teacher.sigma_min) if teacher is first else bound
            if low < teacher.sigma_min or above > teacher.sigma_max or low >= above:
                known = f"{teacher.sigma_min:g} to {teacher.sigma_max:g}"
                raise UserError(f"a teacher of noise levels {low:g} to {above:g} knows only {known}: move its bound")
        self.sigma_min, self.sigma_max = max(bounds[0], first.sigma_min), last.sigma_max
        for _, teacher in ordered:
            if (teacher.shape, teacher.label_dim) != (first.shape, first.label_dim):
                unlike = [f"{list(t.shape)} of {t.label_dim or 'no'} classes" for t in (first, teacher)]
                raise UserError(f"teachers of one run must be alike: one draws {unlike[0]}, another {unlike[1]}")
        self.shape, self.label_dim = first.shape, first.label_dim
        self.register_buffer("bounds", torch.tensor(bounds[1:]), persistent=False)

    def forward(self, x_t: Tensor, sigma: Tensor, condition: Condition) -> Tensor:
        """On a GPU the host waits to learn how the batch is split."""
        owner = torch.bucketize(sigma, self.bounds.to(sigma.dtype), right=True)
        rows = [(owner == k).nonzero().flatten() for k in range(len(self.parts))]
        found = [
            part(x_t[own], sigma[own], {key: value[own] for key, value in condition.items()})
            for part, own in zip(self.parts, rows, strict=True)
            if len(own)
        ]
        return torch.cat(found)[torch.cat(rows).argsort()]

    def null_condition(self, like: Condition) -> Condition:
        return self.parts[0].null_condition(like)  # type: ignore[operator]
