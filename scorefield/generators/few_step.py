"""A student of a few steps, trained by DMD2's backward simulation (Yin et al. 2024, arXiv:2405.14867, section 4.5)."""

from itertools import pairwise

import torch
from torch import Tensor

from scorefield.denoiser import Denoiser
from scorefield.errors import UserError
from scorefield.generators.base import GENERATORS, Batch
from scorefield.generators.one_step import ConditionSource, OneStepGenerator, no_condition
from scorefield.noise import DiscreteVP, karras_sigmas
from scorefield.random import Draws


@GENERATORS.register("few_step")
class FewStepGenerator(OneStepGenerator):
    """x_1 = D(s_1 z, s_1), x_{k+1} = D(x_k + s_{k+1} z_{k+1}, s_{k+1}): noised again, less each time, and denoised.

    In training a batch stops after a number of steps drawn for all of it (and for all processes); the steps before the
    last run without a graph, so the gradient is that of the last, on input of the student's own making. In evaluation
    mode all steps are made. The noise of later steps is z with its elements in another, fixed order: independent of z
    place by place, and the picture stays a function of z.

    Args:
        denoiser, shape, init_sigma, conditions: as for ``OneStepGenerator``.
        steps: 1 to 16.
        sigmas: noise levels from ``init_sigma`` down, ``steps`` of them; left out: even in the teacher's own timesteps
            (DMD2's 999, 749, 499, 249 at 4), or on the Karras grid where it has none. A teacher of discrete timesteps
            has them at its nearest ones, as stock schedulers can only name those.

    Raises:
        UserError: a wrong number of levels, or levels that do not fall.
    """

    def __init__(
        self,
        denoiser: Denoiser,
        shape: tuple[int, ...],
        init_sigma: float = 2.5,
        conditions: ConditionSource = no_condition,
        steps: int = 4,
        sigmas: list[float] | None = None,
    ):
        super().__init__(denoiser, shape, init_sigma, conditions)
        if isinstance(steps, bool) or not isinstance(steps, int) or not 1 <= steps <= 16:
            raise UserError(f"generator.options.steps must be 1 to 16, not {steps!r}")
        self.steps = steps
        self.sigmas = [init_sigma, *map(self._known, list(sigmas)[1:])] if sigmas else self._levels(steps)
        if len(self.sigmas) != steps or any(not low < high for high, low in pairwise(self.sigmas)):
            raise UserError(f"generator.options.sigmas must be {steps} falling noise levels, not {list(sigmas or [])}")
        count = torch.Size(shape).numel()
        rng = torch.Generator().manual_seed(0)
        orders = [torch.randperm(count, generator=rng) for _ in range(steps - 1)]
        self.register_buffer("orders", torch.stack([torch.arange(count), *orders]), persistent=False)

    def _levels(self, steps: int) -> list[float]:
        process, shares = getattr(self.denoiser, "process", None), [1 - k / steps for k in range(steps)]
        if process is None:
            even = torch.tensor(shares, dtype=torch.float64)
            return karras_sigmas(even, max(self.denoiser.sigma_min, 0.002), self.init_sigma).tolist()
        first = process.timestep(torch.tensor([self.init_sigma], dtype=torch.float64))
        return [self.init_sigma, *(self._known(process.ve_sigma(share * first).item()) for share in shares[1:])]

    def _known(self, sigma: float) -> float:
        process = getattr(self.denoiser, "process", None)
        if not isinstance(process, DiscreteVP):
            return float(sigma)
        return process.ve_sigma(process.nearest(torch.tensor([sigma], dtype=torch.float64)).double()).item()

    @torch.no_grad()
    def draw(self, draws: Draws) -> Batch:
        batch = super().draw(draws)
        everywhere = Draws(draws.seed, draws.iteration, torch.zeros(1, dtype=torch.long), "stop")
        # on the host, where it is read: the number of passes is not the device's to decide
        batch.latents["stop"] = (everywhere.integers("steps", self.steps) + 1).expand(len(draws))
        return batch

    def forward(self, batch: Batch) -> Tensor:
        z, condition = batch.latents["z"], batch.teacher_condition
        last = int(batch.latents["stop"][0]) if self.training and "stop" in batch.latents else self.steps
        x0 = torch.zeros_like(z)
        for k, level in enumerate(self.sigmas[:last]):
            noise = z if k == 0 else z.flatten(1)[:, self.orders[k]].view_as(z)
            with torch.set_grad_enabled(torch.is_grad_enabled() and k == last - 1):
                x_t = level * noise if k == 0 else x0 + level * noise
                x0 = self.denoiser(x_t, torch.full((len(z),), level, device=z.device), condition)
        return x0
