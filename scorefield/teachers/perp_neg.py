"""Perp-Neg: what a view is not, as part of the teacher's condition, so that every loss gets it.

Armandpour et al. 2023, arXiv:2304.04968; interpolation and weights as in threestudio. The condition of a view holds the
positive prompt under the teacher's own keys, and further prompts under ``negative.KEY`` [B, N, …] with their weights
``negative.weight`` [B, N]. ``PerpNeg`` reads them; a condition without them is passed on as it is.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from scorefield.denoiser import Condition, Denoiser, pick
from scorefield.errors import UserError
from scorefield.noise import spread

PREFIX = "negative."
WEIGHT = PREFIX + "weight"
FRONT, SIDE, BACK, OVERHEAD = range(4)


class PerpNeg(Denoiser):
    """The estimate with the prompt, moved away from the negative prompts where these do not contradict it.

    With e_i = D_i - D_uncond, returns D_uncond + e_pos + sum_i w_i (e_i - its projection on e_pos), which guidance then
    takes as the branch with the condition. In eps the formula is the same, because eps differences are -e / sigma.
    A sample takes N + 2 passes of the network, with or without guidance.
    """

    def __init__(self, denoiser: Denoiser):
        super().__init__()
        self.denoiser = denoiser
        self.sigma_min, self.sigma_max = denoiser.sigma_min, denoiser.sigma_max

    def forward(self, x_t: Tensor, sigma: Tensor, condition: Condition) -> Tensor:
        positive, negatives, _ = parted(condition)
        if not negatives:
            return self.denoiser(x_t, sigma, positive)
        return self.branches(x_t, sigma, condition)[0]

    def branches(self, x_t: Tensor, sigma: Tensor, condition: Condition, split: bool = False) -> tuple[Tensor, Tensor]:
        positive, negatives, weights = parted(condition)
        if not negatives:
            return self.denoiser.branches(x_t, sigma, positive, split)
        told = [positive, self.denoiser.null_condition(positive), *negatives]
        if split:
            answers = [self.denoiser(x_t, sigma, one) for one in told]
        else:
            rows = {key: torch.cat([one[key] for one in told]) for key in positive}
            count = len(told)
            together = self.denoiser(torch.cat([x_t] * count), torch.cat([sigma] * count), rows)
            answers = list(together.chunk(count))
        cond, uncond, away = answers[0], answers[1], answers[2:]
        toward = cond - uncond
        for number, estimate in enumerate(away):
            cond = cond + spread(weights[:, number], cond) * perpendicular(estimate - uncond, toward)
        return cond, uncond

    def null_condition(self, like: Condition) -> Condition:
        return self.denoiser.null_condition(parted(like)[0])


def parted(condition: Condition) -> tuple[dict[str, Tensor], list[dict[str, Tensor]], Tensor]:
    """(positive condition, the negative ones, their weights [B, N])."""
    positive = {key: value for key, value in condition.items() if not key.startswith(PREFIX)}
    if WEIGHT not in condition:
        return positive, [], torch.empty(0)
    weights = condition[WEIGHT]
    negatives = [{key: condition[PREFIX + key][:, k] for key in positive} for k in range(weights.shape[1])]
    return positive, negatives, weights


def perpendicular(vector: Tensor, direction: Tensor) -> Tensor:
    """``vector`` [B, …] without its part along ``direction``, sample by sample; all of it where that is zero."""
    along = (vector * direction).flatten(1).sum(1) / direction.square().flatten(1).sum(1).clamp_min(1e-20)
    return vector - spread(along, vector) * direction


# ---------------------------------------------------------------------- views


def decay(scale: float, rate: float, shift: float, share: Tensor) -> Tensor:
    """scale * exp(-rate * share) + shift."""
    return scale * (-rate * share).exp() + shift


def view_weights(azimuth: Tensor, elevation: Tensor, overhead: float = 60.0) -> tuple[Tensor, Tensor, Tensor]:
    """How a view is told in the words front, side, back and overhead.

    Args:
        azimuth, elevation: radians [B]; azimuth 0 sees the front. overhead: degrees of elevation above which the view
            is the overhead one, with no negative.

    Returns:
        Shares of the four words in the positive prompt [B, 4], the words of the two negatives int64 [B, 2], and their
        weights [B, 2], at most 0 but for what the formula itself gives beside 0.
    """
    turn = torch.rad2deg(torch.atan2(azimuth.sin(), azimuth.cos())).abs() / 90
    ahead = turn <= 1
    share = torch.where(ahead, 1 - turn, 2 - turn)  # of front against side, or of side against back
    positive = torch.zeros(len(azimuth), 4, device=azimuth.device, dtype=azimuth.dtype)
    positive[:, FRONT] = torch.where(ahead, share, 0)
    positive[:, SIDE] = torch.where(ahead, 1 - share, share)
    positive[:, BACK] = torch.where(ahead, 0, 1 - share)
    front = torch.stack([-decay(4, 0.5, -2.426, share), -decay(4, 0.5, -2.426, 1 - share)], 1)
    behind = torch.stack([-decay(1, 0.5, -0.606, share), -decay(1, 0.5, 0.967, share)], 1)
    weights = torch.where(ahead[:, None], front, behind)
    words = torch.where(
        ahead[:, None],
        torch.tensor([FRONT, SIDE], device=azimuth.device),
        torch.tensor([SIDE, FRONT], device=azimuth.device),
    )
    above = torch.rad2deg(elevation) > overhead
    top = torch.nn.functional.one_hot(torch.tensor(OVERHEAD, device=azimuth.device), 4).to(positive)
    return torch.where(above[:, None], top, positive), words, torch.where(above[:, None], 0, weights)


def view_condition(
    azimuth: Tensor, elevation: Tensor, views: Condition, *, overhead: float = 60.0, negatives: bool = True
) -> dict[str, Tensor]:
    """The teacher's condition of some views, for ``PerpNeg`` (or, with ``negatives`` off, for any denoiser).

    Args:
        azimuth, elevation, overhead: as for ``view_weights``.
        views: the prompt in four rows, "…, front view", "…, side view", "…, back view", "…, overhead view", as the
            teacher encodes them together.

    Returns:
        One row a view. Embeddings are mixed by their shares; whole numbers (masks) join those of the words in use.

    Raises:
        UserError: not four rows.
    """
    if any(len(value) != 4 for value in views.values()):
        raise UserError(f"a view's condition needs four rows, front, side, back and overhead, not {_rows(views)}")
    shares, words, weights = view_weights(azimuth, elevation, overhead)
    told = {key: mixed(value, shares) for key, value in views.items()}
    if negatives:
        told |= {PREFIX + key: value for key, value in pick(views, words).items()}
        told[WEIGHT] = weights
    return told


def mixed(rows: Tensor, shares: Tensor) -> Tensor:
    """Rows [R, …] mixed by shares [B, R]: floats add up, whole numbers keep the largest of those in use."""
    if rows.is_floating_point():
        return torch.einsum("br,r...->b...", shares.to(rows.dtype), rows)
    used = spread((shares > 1e-3).flatten(), rows.repeat(len(shares), *[1] * (rows.ndim - 1)))
    kept = rows.repeat(len(shares), *[1] * (rows.ndim - 1)) * used
    return kept.unflatten(0, shares.shape).amax(1)


def _rows(views: Condition) -> Sequence[int]:
    return sorted({len(value) for value in views.values()})
