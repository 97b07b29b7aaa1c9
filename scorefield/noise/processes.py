"""Noise processes: a native coordinate in terms of alpha, sigma and the variance-exploding sigma."""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Protocol

import torch
from torch import Tensor

from scorefield.errors import UserError, suggest


class Process(Protocol):
    """How a network's native coordinate (timestep, time, c_noise) relates to noise levels.

    Tensors in, tensors of the same shape and dtype out. ``sigma_min`` and ``sigma_max`` are finite VE sigmas.
    """

    sigma_min: float
    sigma_max: float

    def alpha(self, coordinate: Tensor) -> Tensor:
        """Native scale of x0."""
        ...

    def sigma(self, coordinate: Tensor) -> Tensor:
        """Native scale of eps."""
        ...

    def ve_sigma(self, coordinate: Tensor) -> Tensor:
        """sigma / alpha."""
        ...

    def timestep(self, sigma: Tensor) -> Tensor:
        """Native coordinate of a VE sigma."""
        ...

    def scales(self, sigma: Tensor) -> tuple[Tensor, Tensor]:
        """(alpha, native sigma) of a VE sigma."""
        ...


def _refuse_beyond(value: Tensor, low: float, high: float, why: str) -> None:
    """UserError for coordinates outside [low, high]; skipped on an accelerator, which it would stall."""
    if value.device.type != "cpu" or torch.compiler.is_compiling():
        return
    outside = ~((value >= low) & (value <= high))
    if bool(outside.any()):
        bad = value[outside].flatten()[0].item()
        raise UserError(f"{why}: got {bad:g}, allowed is {low:g} to {high:g}")


@dataclass(frozen=True)
class VE:
    """Variance exploding: alpha = 1; the coordinate is sigma itself."""

    sigma_min: float = 0.002
    sigma_max: float = 80.0

    def __post_init__(self) -> None:
        if not 0 < self.sigma_min < self.sigma_max < math.inf:
            raise UserError(f"need 0 < sigma_min < sigma_max < inf, not {self.sigma_min} and {self.sigma_max}")

    def alpha(self, coordinate: Tensor) -> Tensor:
        return torch.ones_like(coordinate)

    def sigma(self, coordinate: Tensor) -> Tensor:
        return self.ve_sigma(coordinate)

    def ve_sigma(self, coordinate: Tensor) -> Tensor:
        _refuse_beyond(coordinate, 0.0, torch.finfo(coordinate.dtype).max, "sigma must be finite")
        return coordinate

    def timestep(self, sigma: Tensor) -> Tensor:
        return sigma

    def scales(self, sigma: Tensor) -> tuple[Tensor, Tensor]:
        return torch.ones_like(sigma), sigma


@dataclass(frozen=True)
class EDM(VE):
    """Variance exploding with EDM's coordinate c_noise = ln(sigma) / 4."""

    def ve_sigma(self, coordinate: Tensor) -> Tensor:
        _refuse_beyond(coordinate, -20.0, 20.0, "c_noise = ln(sigma) / 4 must give a finite sigma")
        return (4 * coordinate).exp()

    def timestep(self, sigma: Tensor) -> Tensor:
        return sigma.log() / 4


@dataclass(frozen=True)
class RectifiedFlow:
    """x_t = (1 - t) x0 + t eps; the coordinate is t in (0, 1), VE sigma = t / (1 - t).

    Attributes:
        shift: timestep shift of SD3 (Esser et al. 2024, arXiv:2403.03206, eq 23): ``shifted`` maps an even
            position u to t = shift u / (1 + (shift - 1) u). The network is told t, whatever the shift.
        t_min, t_max: range that sampling keeps to; t = 1 (sigma infinite) is never sampled.
    """

    shift: float = 1.0
    t_min: float = 0.001
    t_max: float = 0.999

    def __post_init__(self) -> None:
        if not 0 < self.t_min < self.t_max < 1:
            raise UserError(f"need 0 < t_min < t_max < 1 (t = 1 is infinite noise), not {self.t_min}, {self.t_max}")
        if not (self.shift > 0 and math.isfinite(self.shift)):
            raise UserError(f"shift must be positive, not {self.shift}")

    @property
    def sigma_min(self) -> float:
        return self.t_min / (1 - self.t_min)

    @property
    def sigma_max(self) -> float:
        return self.t_max / (1 - self.t_max)

    def shifted(self, u: Tensor) -> Tensor:
        """t of an even position ``u`` in [0, 1]."""
        return self.shift * u / (1 + (self.shift - 1) * u)

    def alpha(self, coordinate: Tensor) -> Tensor:
        return 1 - coordinate

    def sigma(self, coordinate: Tensor) -> Tensor:
        return coordinate

    def ve_sigma(self, coordinate: Tensor) -> Tensor:
        highest = 1 - torch.finfo(coordinate.dtype).eps
        _refuse_beyond(coordinate, 0.0, highest, "flow time t must lie below 1, where sigma is infinite")
        return coordinate / (1 - coordinate)

    def timestep(self, sigma: Tensor) -> Tensor:
        return sigma / (1 + sigma)

    def scales(self, sigma: Tensor) -> tuple[Tensor, Tensor]:
        return 1 / (1 + sigma), sigma / (1 + sigma)


@dataclass(frozen=True)
class DiscreteVP:
    """Discrete variance-preserving process (DDPM) read as a continuous one, linear in log sigma between
    steps.

    Timesteps run from 0 to ``steps - 1``. A schedule with zero terminal SNR loses its last step: its sigma is
    infinite, so nothing samples it, and asking for it is an error.

    Args:
        betas: T numbers in (0, 1]; only the last may be 1.

    Raises:
        UserError: betas out of range.
    """

    betas: tuple[float, ...]
    _log_sigmas: tuple[float, ...] = field(init=False, repr=False, compare=False)
    _tables: dict = field(init=False, repr=False, compare=False, default_factory=dict)

    def __post_init__(self) -> None:
        object.__setattr__(self, "betas", tuple(float(beta) for beta in self.betas))
        betas = torch.tensor(self.betas, dtype=torch.float64)
        if len(betas) < 2 or not bool(((betas > 0) & (betas <= 1)).all()) or bool((betas[:-1] == 1).any()):
            raise UserError("betas must be at least two numbers in (0, 1), the last one at most 1")
        cumulative = self.alphas_cumprod()
        cumulative = cumulative[cumulative > 0]
        object.__setattr__(self, "_log_sigmas", tuple((((1 - cumulative) / cumulative).log() / 2).tolist()))

    # ------------------------------------------------------------------ constructors, named as in diffusers

    @classmethod
    def linear(cls, beta_start: float = 1e-4, beta_end: float = 0.02, steps: int = 1000) -> "DiscreteVP":
        """Betas evenly spaced (DDPM, ADM, PixArt)."""
        return cls(tuple(torch.linspace(beta_start, beta_end, steps, dtype=torch.float64).tolist()))

    @classmethod
    def scaled_linear(cls, beta_start: float = 0.00085, beta_end: float = 0.012, steps: int = 1000) -> "DiscreteVP":
        """Square roots of betas evenly spaced (latent diffusion, Stable Diffusion)."""
        roots = torch.linspace(beta_start**0.5, beta_end**0.5, steps, dtype=torch.float64)
        return cls(tuple(roots.square().tolist()))

    @classmethod
    def cosine(cls, steps: int = 1000, max_beta: float = 0.999) -> "DiscreteVP":
        """Squared-cosine alphas ("squaredcos_cap_v2"; Nichol and Dhariwal 2021, arXiv:2102.09672)."""

        def bar(t: float) -> float:
            return math.cos((t + 0.008) / 1.008 * math.pi / 2) ** 2

        return cls(tuple(min(1 - bar((i + 1) / steps) / bar(i / steps), max_beta) for i in range(steps)))

    def zero_terminal_snr(self) -> "DiscreteVP":
        """Rescaled so that the last step is pure noise (Lin et al. 2023, arXiv:2305.08891, algorithm 1)."""
        root = self.alphas_cumprod().sqrt()
        root = (root - root[-1]) * (root[0] / (root[0] - root[-1]))
        cumulative = root.square()
        alphas = torch.cat([cumulative[:1], cumulative[1:] / cumulative[:-1]])
        return type(self)(tuple((1 - alphas).tolist()))

    @classmethod
    def from_scheduler(cls, settings: Mapping) -> "DiscreteVP":
        """From a diffusers scheduler configuration; missing keys take diffusers' DDPM defaults."""
        if settings.get("trained_betas") is not None:
            process = cls(settings["trained_betas"])
        else:
            kind = settings.get("beta_schedule", "linear")
            steps = settings.get("num_train_timesteps", 1000)
            ends = (settings.get("beta_start", 1e-4), settings.get("beta_end", 0.02), steps)
            makers: dict[str, Callable[[], DiscreteVP]] = {
                "linear": lambda: cls.linear(*ends),
                "scaled_linear": lambda: cls.scaled_linear(*ends),
                "squaredcos_cap_v2": lambda: cls.cosine(steps),
            }
            if kind not in makers:
                raise UserError(f'unknown beta_schedule "{kind}": {suggest(str(kind), makers)}')
            process = makers[kind]()
        return process.zero_terminal_snr() if settings.get("rescale_betas_zero_snr") else process

    # ------------------------------------------------------------------ tables

    def alphas_cumprod(self) -> Tensor:
        """Product of (1 - beta) up to each timestep, float64 [T]; alpha is its square root."""
        return (1 - torch.tensor(self.betas, dtype=torch.float64)).cumprod(0)

    @property
    def steps(self) -> int:
        """Timesteps with a finite sigma."""
        return len(self._log_sigmas)

    @property
    def sigma_min(self) -> float:
        return math.exp(self._log_sigmas[0])

    @property
    def sigma_max(self) -> float:
        return math.exp(self._log_sigmas[-1])

    def _table(self, like: Tensor) -> Tensor:
        """log VE sigma of every timestep on the device of ``like``, kept: no transfer in the hot path."""
        key = (like.device, like.dtype)
        if key not in self._tables:
            self._tables[key] = torch.tensor(self._log_sigmas, dtype=like.dtype, device=like.device)
        return self._tables[key]

    # ------------------------------------------------------------------ coordinates

    def timestep(self, sigma: Tensor) -> Tensor:
        """Fractional timestep of a VE sigma [batch]; beyond the schedule it is the end timestep."""
        table, wanted = self._table(sigma), sigma.log()
        right = torch.searchsorted(table, wanted.contiguous()).clamp(1, self.steps - 1)
        low, high = table[right - 1], table[right]
        return (right - 1) + ((wanted - low) / (high - low)).clamp(0, 1)

    def nearest(self, sigma: Tensor) -> Tensor:
        """Integer timestep (int64) whose VE sigma is nearest, as SIM's inference code picks it."""
        low = self.timestep(sigma).floor().clamp(max=self.steps - 2).long()
        below, above = (self._table(sigma)[i].exp() for i in (low, low + 1))
        return torch.where((sigma - below).abs() <= (above - sigma).abs(), low, low + 1)

    def ve_sigma(self, coordinate: Tensor) -> Tensor:
        why = "timestep out of range"
        if self.steps < len(self.betas):
            why = "timestep out of range (the last step of a zero-terminal-SNR schedule is infinite noise)"
        _refuse_beyond(coordinate, 0, self.steps - 1, why)
        if not coordinate.is_floating_point():
            coordinate = coordinate.to(torch.get_default_dtype())
        table = self._table(coordinate)
        low = coordinate.floor().clamp(0, self.steps - 2).long()
        return torch.lerp(table[low], table[low + 1], coordinate - low).exp()

    def alpha(self, coordinate: Tensor) -> Tensor:
        return (1 + self.ve_sigma(coordinate) ** 2).rsqrt()

    def sigma(self, coordinate: Tensor) -> Tensor:
        ve = self.ve_sigma(coordinate)
        return ve * (1 + ve**2).rsqrt()

    def scales(self, sigma: Tensor) -> tuple[Tensor, Tensor]:
        alpha = (1 + sigma**2).rsqrt()
        return alpha, alpha * sigma


def karras_sigmas(u: Tensor, sigma_min: float, sigma_max: float, rho: float = 7.0) -> Tensor:
    """Karras spacing of noise levels: u = 0 gives sigma_min, u = 1 sigma_max (EDM eq 5, read from below)."""
    low, high = sigma_min ** (1 / rho), sigma_max ** (1 / rho)
    return (low + u * (high - low)) ** rho
