"""What the teacher is asked in a generator update: the noised point and the denoised estimates that a loss declares."""

from collections.abc import Callable

import torch
from torch import Tensor

from scorefield.denoiser import Denoiser, Guided
from scorefield.errors import UserError
from scorefield.generators.base import Batch
from scorefield.losses.base import Inversion, Loss
from scorefield.noise import DiscreteVP, RectifiedFlow, karras_sigmas, spread
from scorefield.noise_laws import process_of
from scorefield.random import Draws

BRANCHES = {"teacher_cond", "teacher_uncond"}
PAIRED = "paired_x0"  # of the batch
KNOWN = {PAIRED, *BRANCHES, "teacher_negative", "inversion_eps", "eps", "progress"}


class Evaluations:
    """Finds x_t and asks the frozen ``teacher``, guided, for what ``loss`` needs.

    Raises:
        UserError: the loss needs a tensor that is not known here.
    """

    def __init__(self, loss: Loss, teacher: Guided, iterations: int):
        self.loss, self.teacher, self.iterations = loss, teacher, iterations
        if missing := set(loss.needs) - KNOWN:
            raise UserError(f"the loss needs {', '.join(sorted(missing))}, which this trainer does not provide")
        if "inversion_eps" in loss.needs and loss.inversion is None:
            raise UserError("the loss needs inversion_eps and declares no inversion")

    def point(
        self, x0: Tensor, sigma: Tensor, draws: Draws, batch: Batch, iteration: int
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """x_t with its graph through ``x0``, and what is known of it without asking at x_t."""
        needs, extra = self.loss.needs, {}
        eps = draws.normal("eps", *x0.shape[1:])
        if self.loss.inversion is None:
            x_t = x0 + spread(sigma, x0) * eps
        else:
            path = invert(self.teacher, self.loss.inversion, x0.detach(), sigma, draws, batch.teacher_condition)
            x_t, last = path
            eps = (x_t - x0.detach()) / spread(sigma, x0)
            x_t = x0 + (x_t - x0).detach()
            extra = {"inversion_eps": last} if "inversion_eps" in needs else {}
        if "eps" in needs:
            extra["eps"] = eps
        if PAIRED in needs:
            if PAIRED not in batch.latents:
                raise UserError(
                    "the loss needs pairs of start noise and the teacher's samples, and this task draws none"
                )
            extra[PAIRED] = batch.latents[PAIRED]
        if "progress" in needs:
            extra["progress"] = torch.full_like(sigma, min(1.0, iteration / max(1, self.iterations - 1)))
        return x_t, extra

    def ask(self, x_t: Tensor, sigma: Tensor, batch: Batch) -> tuple[Tensor, dict[str, Tensor]]:
        """The guided estimate at x_t and the further ones that the loss needs, float32; no pass is made twice."""
        needs, extra, teacher = self.loss.needs, {}, self.teacher
        if not self.loss.needs_teacher:
            return torch.zeros_like(x_t), {}
        if BRANCHES & set(needs):
            cond, uncond = teacher.denoiser.branches(x_t, sigma, batch.teacher_condition, teacher.split)
            guided = teacher.mix(cond, uncond)
            both = {"teacher_cond": cond, "teacher_uncond": uncond}
            extra = {name: value.float() for name, value in both.items() if name in needs}
        else:
            guided = teacher(x_t, sigma, batch.teacher_condition)
        if "teacher_negative" in needs:
            if not batch.negative_condition:
                raise UserError("the loss needs a negative prompt, and this task was given none")
            extra["teacher_negative"] = teacher.denoiser(x_t, sigma, batch.negative_condition).float()
        return guided.float(), extra


def passes(loss: Loss, guidance_scale: float) -> int:
    """Forward passes of the teacher that one sample takes in a generator update, without graphs."""
    if not loss.needs_teacher:
        return 0
    count = 2 if BRANCHES & set(loss.needs) else branches_at(guidance_scale)
    count += "teacher_negative" in loss.needs
    if (way := loss.inversion) is not None:
        count += branches_at(way.guidance_scale) * (way.steps + (way.interval > 0))
    return count


def branches_at(scale: float) -> int:
    """1 where guidance needs one branch only, else 2."""
    return 1 if scale in (0.0, 1.0) else 2


# ---------------------------------------------------------------------- DDIM inversion


@torch.no_grad()
def invert(
    teacher: Guided, way: Inversion, x0: Tensor, sigma: Tensor, draws: Draws, condition
) -> tuple[Tensor, Tensor]:
    """(x_t at ``sigma`` [B], eps of the last step), both shaped like ``x0`` and without a graph.

    In the variance-exploding view a step of DDIM (Song et al. 2021, arXiv:2010.02502, eq 12 with eta 0) from sigma_a to
    sigma_b is x_b = x_a + (sigma_b - sigma_a) eps(x_a, sigma_a). It starts from x0 with noise of the lowest level.
    """
    guided = Guided(teacher.denoiser, way.guidance_scale, teacher.split)
    to_place, to_sigma = schedule_of(teacher)
    last = to_place(sigma)
    stop = (last - way.interval).clamp(min=0)
    places = [stop * k / way.steps for k in range(way.steps + 1)] + ([last] if way.interval else [])
    levels = [to_sigma(place) for place in places[:-1]] + [sigma]
    x = x0 + spread(levels[0], x0) * draws.normal("inversion-start", *x0.shape[1:])
    for k in range(len(levels) - 1):
        low, high = spread(levels[k], x), spread(levels[k + 1], x)
        eps = (x - guided(x, levels[k], condition).float()) / low
        x = x + (high - low) * eps
        if way.eta:
            x = x + way.eta * step_back_std(low, high) * draws.normal(f"inversion-{k}", *x0.shape[1:])
    return x, eps


def step_back_std(low: Tensor, high: Tensor) -> Tensor:
    """DDIM's standard deviation of the step from ``high`` down to ``low`` (arXiv:2010.02502, eq 16), as SDI adds it.

    It is a native number of the lower level put on the native sample of the higher one; here in the VE view.
    """
    posterior = (low / high).square() * (high.square() - low.square()).clamp(min=0)
    return (posterior * (1 + high.square()) / (1 + low.square())).sqrt()


def schedule_of(denoiser: Denoiser) -> tuple[Callable[[Tensor], Tensor], Callable[[Tensor], Tensor]]:
    """(sigma to place, place to sigma): 0 is the lowest noise level and 1 the highest.

    The place is the timestep of the teacher's own process, even in shares of the whole; without one, Karras's grid.
    """
    process = process_of(denoiser)
    if isinstance(process, DiscreteVP | RectifiedFlow):
        ends = process.timestep(torch.tensor([process.sigma_min, process.sigma_max], dtype=torch.float64)).tolist()
        length = ends[1] - ends[0]
        return (
            lambda sigma: ((process.timestep(sigma) - ends[0]) / length).clamp(0, 1),
            lambda place: process.ve_sigma(ends[0] + length * place),
        )
    low, high = denoiser.sigma_min, denoiser.sigma_max
    start, end = low ** (1 / 7), high ** (1 / 7)
    return (
        lambda sigma: ((sigma ** (1 / 7) - start) / (end - start)).clamp(0, 1),
        lambda place: karras_sigmas(place, low, high),
    )
