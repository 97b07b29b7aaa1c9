"""Distributions of the noise level, and weights of the online score's denoising loss.

A law is a pure map of uniforms from outside, ``sigma = law(u)``: the randomness stays the trainer's. All laws
give VE sigmas within a finite [sigma_min, sigma_max]; sigma = infinity is never sampled.
"""

import dataclasses
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from scorefield.errors import UserError, suggest
from scorefield.losses.weighting import SIGMA_WEIGHTINGS
from scorefield.noise import DiscreteVP, Process, RectifiedFlow, karras_sigmas
from scorefield.registry import Registry, check_options

NOISE_LAWS: Registry[type] = Registry(
    "noise law",
    group="scorefield.noise_laws",
    wanted=("a dataclass", lambda part: isinstance(part, type) and dataclasses.is_dataclass(part)),
)


def normal_from_uniform(u: Tensor) -> Tensor:
    """Standard normal quantile of ``u`` in (0, 1), same dtype; infinite at 0 and 1 (laws clamp)."""
    return math.sqrt(2) * torch.erfinv(2 * u - 1)


def _check_range(law: Any) -> None:
    low, high = law.sigma_min, law.sigma_max
    if not 0 < low < high < math.inf:
        raise UserError(f"need 0 < sigma_min < sigma_max < infinity, not {low} and {high}")


def _check_std(std: float) -> None:
    if not (std > 0 and math.isfinite(std)):
        raise UserError(f"the standard deviation of a noise law must be positive, not {std}")


def _check_order(low: float, high: float, names: str, ends: tuple[float, float]) -> None:
    if not ends[0] <= low < high <= ends[1]:
        raise UserError(f"need {ends[0]:g} <= {names} <= {ends[1]:g} in rising order, not {low} and {high}")


@NOISE_LAWS.register("log_normal")
@dataclass(frozen=True)
class LogNormal:
    """ln sigma ~ N(mean, std^2): EDM's training noise, and SiD's and SIM's for the online score.

    Call: ``u`` [batch] in (0, 1) to sigma [batch], clamped to the range.
    """

    mean: float = -1.2
    std: float = 1.2
    sigma_min: float = 0.002
    sigma_max: float = 80.0

    def __post_init__(self) -> None:
        _check_range(self)
        _check_std(self.std)

    def __call__(self, u: Tensor) -> Tensor:
        return (self.mean + self.std * normal_from_uniform(u)).exp().clamp(self.sigma_min, self.sigma_max)


@NOISE_LAWS.register("karras")
@dataclass(frozen=True)
class Karras:
    """Uniform position on the continuous Karras grid between u_min and u_max: SiD's and SIM's generator
    noise.

    u = 0 is sigma_min, u = 1 sigma_max; SiD's cut u_max = 0.8 on 0.002 .. 80 gives at most 24.4.
    """

    u_min: float = 0.0
    u_max: float = 0.8
    sigma_min: float = 0.002
    sigma_max: float = 80.0
    rho: float = 7.0

    def __post_init__(self) -> None:
        _check_range(self)
        _check_order(self.u_min, self.u_max, "u_min, u_max", (0.0, 1.0))
        if not self.rho > 0:
            raise UserError(f"rho must be positive, not {self.rho}")

    def __call__(self, u: Tensor) -> Tensor:
        place = self.u_min + (self.u_max - self.u_min) * u
        return karras_sigmas(place, self.sigma_min, self.sigma_max, self.rho).clamp(self.sigma_min, self.sigma_max)


@NOISE_LAWS.register("uniform_timestep")
@dataclass(frozen=True)
class UniformTimestep:
    """Uniform (continuous) native timestep of a process between ``low`` and ``high``, both included.

    DMD2 and LSG draw 20 to 980 of 1000. For a rectified flow the coordinate is t, so give low and high in
    (0, 1). ``process`` may be a scheduler configuration (mapping) for ``DiscreteVP.from_scheduler``.
    """

    process: Any
    low: float = 20
    high: float = 980
    sigma_min: float | None = None  # default: the process's own
    sigma_max: float | None = None

    def __post_init__(self) -> None:
        process = self.process
        if isinstance(process, Mapping):
            process = DiscreteVP.from_scheduler(process)
            object.__setattr__(self, "process", process)
        if not hasattr(process, "ve_sigma"):
            raise UserError("uniform_timestep needs a noise process, which this teacher does not name: give `process`")
        for name in ("sigma_min", "sigma_max"):
            if getattr(self, name) is None:
                object.__setattr__(self, name, getattr(process, name))
        _check_range(self)
        if not self.low < self.high:
            raise UserError(f"need low < high, not {self.low} and {self.high}")
        process.ve_sigma(torch.tensor([self.low, self.high], dtype=torch.float64))  # refuses the impossible early

    def __call__(self, u: Tensor) -> Tensor:
        sigma = self.process.ve_sigma(self.low + (self.high - self.low) * u)
        return sigma.clamp(self.sigma_min, self.sigma_max)


@NOISE_LAWS.register("logit_normal_time")
@dataclass(frozen=True)
class LogitNormalTime:
    """Flow time t = sigmoid(N(mean, std^2)), then shifted: SD3; SiD-DiT uses mean ln 2, std 1.6.

    In sigma this is ln sigma ~ N(mean + ln shift, std^2), because t / (1 - t) = exp(logit t).
    """

    mean: float = 0.0
    std: float = 1.0
    shift: float = 1.0
    sigma_min: float = RectifiedFlow().sigma_min
    sigma_max: float = RectifiedFlow().sigma_max

    def __post_init__(self) -> None:
        _check_range(self)
        _check_std(self.std)
        if not self.shift > 0:
            raise UserError(f"shift must be positive, not {self.shift}")

    def __call__(self, u: Tensor) -> Tensor:
        sigma = self.shift * (self.mean + self.std * normal_from_uniform(u)).exp()
        return sigma.clamp(self.sigma_min, self.sigma_max)


@NOISE_LAWS.register("stages")
@dataclass(frozen=True)
class Stages:
    """Another law from given iterations on: ``{name: stages, laws: {0: {name: …}, 5000: {name: …}}}``.

    With ``blend`` the noise level moves between the stages, ln sigma linear in the iteration, in place of jumping.
    ``at`` gives the law of an iteration; called itself it is the first one.
    """

    laws: Any = dataclasses.field(default_factory=lambda: {0: {"name": "log_normal"}})
    blend: bool = False
    sigma_min: float = 0.002
    sigma_max: float = 80.0

    def __post_init__(self) -> None:
        _check_range(self)
        if not self.laws or not all(isinstance(k, int) and k >= 0 for k in self.laws) or 0 not in self.laws:
            raise UserError("noise law stages: laws must map iterations, 0 among them, to noise laws")

    def built(self, teacher: Any) -> "Stages":
        """The same with every law made of its configuration."""
        laws = {k: build(law, teacher) if isinstance(law, Mapping) else law for k, law in sorted(self.laws.items())}
        return dataclasses.replace(self, laws=laws)

    def at(self, iteration: int) -> Callable[[Tensor], Tensor]:
        """The law of an iteration."""
        before = max(k for k in self.laws if k <= iteration)
        later = [k for k in self.laws if k > iteration]
        first = self.laws[before]
        if not self.blend or not later:
            return first
        share = (iteration - before) / (min(later) - before)
        second = self.laws[min(later)]
        return lambda u: (first(u).log() * (1 - share) + second(u).log() * share).exp()

    def __call__(self, u: Tensor) -> Tensor:
        return self.at(0)(u)


def law_at(law: Callable[[Tensor], Tensor], iteration: int) -> Callable[[Tensor], Tensor]:
    """The law in force: that of the iteration where it changes by iteration (it has ``at``), else itself."""
    return law.at(iteration) if hasattr(law, "at") else law


def process_of(denoiser: Any) -> Process | None:
    """The noise process that a denoiser, or the one that it wraps, was trained with."""
    while denoiser is not None:
        if (process := getattr(denoiser, "process", None)) is not None:
            return process
        denoiser = getattr(denoiser, "denoiser", None)
    return None


def build(config: Mapping[str, Any], teacher: Any = None) -> Callable[[Tensor], Tensor]:
    """A noise law from ``{"name": …, option: value}``.

    Args:
        config: ``name`` is one of ``NOISE_LAWS``, the rest its options.
        teacher: anything with finite ``sigma_min`` and ``sigma_max``. A range that the config leaves open is
            the law's default range cut to the teacher's (for uniform_timestep: of the process); a stated
            range beyond the teacher's is refused.

    Raises:
        UserError: unknown law or option, or a range that the teacher was not made for.
    """
    options = dict(config)
    law = NOISE_LAWS.get(options.pop("name", "log_normal"))
    defaults = {item.name: item.default for item in dataclasses.fields(law)}
    check_options("noise law", config.get("name", "log_normal"), law, options, given=0)
    if "process" in defaults and "process" not in options:
        options["process"] = process_of(teacher)
    if teacher is not None:
        for key, cut in (("sigma_min", max), ("sigma_max", min)):
            bound = getattr(teacher, key)
            if key in options:
                if cut(options[key], bound) != options[key]:
                    raise UserError(f"noise law: {key} {options[key]:g} is beyond the teacher's {bound:g}")
            else:
                default = defaults[key]
                options[key] = bound if default is None else cut(default, bound)
    made = law(**options)
    return made.built(teacher) if isinstance(made, Stages) else made


def online_weighting(name: str, sigma_data: float = 0.5) -> Callable[[Tensor], Tensor]:
    """Weight [batch] of the online score's squared x0 error as a function of sigma [batch].

    Names: see ``scorefield.losses.weighting``; ``edm`` is SiD's and SIM's, ``eps``, ``x0``, ``snr_plus_one``
    (v) and ``flow`` make the x0 error the plain squared error of that prediction form.

    Raises:
        UserError: unknown name.
    """
    if name not in SIGMA_WEIGHTINGS:
        raise UserError(f'unknown online weighting "{name}": {suggest(name, SIGMA_WEIGHTINGS)}')
    weight = SIGMA_WEIGHTINGS[name]
    return lambda sigma: weight(sigma, sigma_data)
