"""What a generator loss is: a pure function of tensors, configured by dataclass fields."""

import dataclasses
import math
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from scorefield.errors import UserError, suggest
from scorefield.losses.weighting import check_weighting
from scorefield.registry import Registry

LOSSES: Registry[type["Loss"]] = Registry(
    "loss",
    group="scorefield.losses",
    package="scorefield.losses",
    wanted=("a subclass of scorefield.losses.Loss", lambda part: isinstance(part, type) and issubclass(part, Loss)),
)


PER_SAMPLE = ("progress",)  # further tensors of shape [batch]; all others are shaped like x0


@dataclass(frozen=True)
class Inversion:
    """How x_t is reached from x0 by DDIM inversion with the teacher, in place of random noise.

    Attributes:
        steps: evenly spread over the schedule, from its lowest level to x_t, or to x_s if there is an ``interval``.
        guidance_scale: of the teacher on the way; 0 is the empty prompt alone, 1 the prompt alone.
        interval: length of one further step, from x_s to x_t, in shares of the schedule; 0 for none.
        eta: noise added after each step, in shares of DDIM's standard deviation of the step back.
    """

    steps: int
    guidance_scale: float = 0.0
    interval: float = 0.0
    eta: float = 0.0


@dataclass(frozen=True)
class Loss:
    """Base of the generator losses; a subclass is a frozen dataclass with ``per_sample``.

    All tensors are in the variance-exploding view, x_t = x0 + sigma * eps. The loss is the sum over a
    sample's elements, one number per sample; the trainer averages over the batch. Its value is no distance
    and may be
    negative: only its gradient means something.

    Class attributes:
        needs: names of further tensors that ``__call__`` takes. The trainer knows "eps"; the denoised "teacher_cond"
            (without guidance), "teacher_uncond" and "teacher_negative"; "inversion_eps", the teacher's eps at the last
            point before an inverted x_t; "paired_x0", what the teacher's sampler makes of the start noise of x0, where
            the task draws such pairs (``Task.gives``); and "progress" [batch], 0 at the first iteration and 1 at the
            last.
        needs_online: False for a loss without an online score; ``online_x0`` may then be left out.
        needs_teacher: False for a loss that asks no score; ``teacher_x0`` is then zero.
        one_step: True for a loss that generators of several steps cannot be trained with.

    Attributes:
        weighting: per-sample weight, see ``scorefield.losses.weighting``; "none" leaves the bare gradient.
        sigma_data: standard deviation of the data (EDM: 0.5 for pixels in [-1, 1]; about 1 for scaled
            latents).
    """

    needs: ClassVar[tuple[str, ...]] = ()
    needs_online: ClassVar[bool] = True
    needs_teacher: ClassVar[bool] = True
    one_step: ClassVar[bool] = False

    weighting: str = "none"
    sigma_data: float = 0.5

    def __post_init__(self) -> None:
        check_weighting(self.weighting)
        check_number("sigma_data", self.sigma_data)
        if self.sigma_data <= 0:
            raise UserError(f"sigma_data must be positive, not {self.sigma_data}")

    @property
    def needs_jacobian(self) -> bool:
        """Whether gradients must flow through teacher_x0 and online_x0 into x_t (their networks' inputs)."""
        return False

    @property
    def inversion(self) -> Inversion | None:
        """How x_t is found where it is not x0 + sigma * eps with random eps."""
        return None

    @property
    def online_pull(self) -> float:
        """Weight of |D_psi - D_q|^2 beside the online score's denoising error; 0: the teacher is not asked there."""
        return 0.0

    def __call__(
        self,
        *,
        x0: Tensor,
        x_t: Tensor,
        sigma: Tensor,
        teacher_x0: Tensor,
        online_x0: Tensor | None = None,
        **extra: Tensor,
    ) -> Tensor:
        """Per-sample loss.

        Args:
            x0: generated samples [batch, …] with their graph.
            x_t: x0 + sigma * eps, with the graph through x0.
            sigma: [batch], positive and finite.
            teacher_x0, online_x0: D(x_t, sigma) of teacher and online score, parameters frozen; with the
                graph through x_t if ``needs_jacobian``, otherwise with or without.
            extra: the tensors named in ``needs``.

        Returns:
            [batch], float32 (float64 for float64 input).

        Raises:
            UserError: shapes that do not fit, or a missing tensor.
        """
        given = {"x_t": x_t, "teacher_x0": teacher_x0, **extra}
        if online_x0 is not None:
            given["online_x0"] = online_x0
        elif self.needs_online:
            raise UserError(f"loss {type(self).__name__} needs online_x0")
        for name in self.needs:
            if name not in extra:
                raise UserError(f"loss {type(self).__name__} needs the tensor {name}")
        if sigma.shape != x0.shape[:1]:
            raise UserError(f"sigma must have shape [{len(x0)}], one per sample, not {list(sigma.shape)}")
        for name, value in given.items():
            if value.shape != (sigma.shape if name in PER_SAMPLE else x0.shape):
                raise UserError(f"{name} has shape {list(value.shape)}, x0 has {list(x0.shape)}")
        wide = {name: at_least_float32(value) for name, value in given.items()}
        return self.per_sample(x0=at_least_float32(x0), sigma=at_least_float32(sigma), **wide)

    def per_sample(self, *, x0: Tensor, sigma: Tensor, **tensors: Tensor) -> Tensor:
        """The formula; arguments of ``__call__``, checked and at least float32. Returns [batch]."""
        raise NotImplementedError


def at_least_float32(value: Tensor) -> Tensor:
    """bfloat16 and float16 as float32: small differences of denoisers cancel in low precision."""
    return value.to(torch.promote_types(value.dtype, torch.float32))


def sum_elements(value: Tensor) -> Tensor:
    """[batch, …] to [batch]."""
    return value.flatten(1).sum(1)


def check_number(name: str, value: Any) -> None:
    """Raises UserError unless ``value`` is a finite number (a bool or a text is not)."""
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        raise UserError(f"{name} must be a finite number, not {value!r}")


def build(name: str, **options: Any) -> Loss:
    """A loss by name: ``build("sim", distance="pseudo_huber", c=0.03)``.

    Raises:
        UserError: unknown loss or option (with the nearest name), or options that exclude each other.
    """
    loss = LOSSES.get(name)
    known = [item.name for item in dataclasses.fields(loss) if item.init]
    for key in options:
        if key not in known:
            raise UserError(f'unknown option "{key}" of loss "{name}": {suggest(key, known)}')
    return loss(**options)
