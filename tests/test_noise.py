"""Noise processes against diffusers, and conversions between prediction forms."""

import itertools
import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from scorefield.errors import UserError
from scorefield.noise import EDM, FORMS, VE, DiscreteVP, RectifiedFlow, convert, karras_sigmas, score_from_x0

torch.set_num_threads(1)
F64 = torch.float64

DISCRETE = {
    "linear": {"beta_schedule": "linear", "beta_start": 1e-4, "beta_end": 0.02},
    "scaled_linear": {"beta_schedule": "scaled_linear", "beta_start": 0.00085, "beta_end": 0.012},
    "cosine": {"beta_schedule": "squaredcos_cap_v2"},
    "zero_snr": {
        "beta_schedule": "scaled_linear",
        "beta_start": 0.00085,
        "beta_end": 0.012,
        "rescale_betas_zero_snr": True,
    },
    "short": {"beta_schedule": "linear", "beta_start": 1e-3, "beta_end": 0.2, "num_train_timesteps": 100},
    "trained": {"trained_betas": [0.01, 0.02, 0.05, 0.1, 0.3]},
}
PROCESSES = {
    "ve": VE(),
    "edm": EDM(),
    "flow": RectifiedFlow(),
    "shifted_flow": RectifiedFlow(shift=3.0),
    **{name: DiscreteVP.from_scheduler(config) for name, config in DISCRETE.items()},
}


@pytest.mark.parametrize("name", DISCRETE)
def test_schedules_equal_diffusers(name):
    from diffusers import DDPMScheduler

    config = {k: v for k, v in DISCRETE[name].items() if k != "trained_betas"}
    if "trained_betas" in DISCRETE[name]:
        import numpy as np

        config = {"trained_betas": np.array(DISCRETE[name]["trained_betas"]), "num_train_timesteps": 5}
    theirs, ours = DDPMScheduler(**config), PROCESSES[name]
    torch.testing.assert_close(torch.tensor(ours.betas, dtype=F64), theirs.betas.double(), rtol=1e-4, atol=5e-7)
    torch.testing.assert_close(ours.alphas_cumprod(), theirs.alphas_cumprod.double(), rtol=2e-4, atol=1e-6)
    steps = torch.arange(ours.steps, dtype=F64)
    alphas = ours.alphas_cumprod()[: ours.steps].sqrt()
    torch.testing.assert_close(ours.alpha(steps), alphas, rtol=1e-10, atol=0)
    torch.testing.assert_close(ours.sigma(steps), (1 - alphas**2).sqrt(), rtol=1e-10, atol=1e-12)


def test_add_noise_equals_diffusers():
    from diffusers import DDPMScheduler

    rng = torch.Generator().manual_seed(0)
    x0, eps = torch.randn(2, 3, 4, generator=rng)
    steps = torch.tensor([3, 440, 999])
    theirs, process = DDPMScheduler(**DISCRETE["linear"]), PROCESSES["linear"]
    alpha, sigma = process.alpha(steps), process.sigma(steps)
    x_t = alpha[:, None] * x0 + sigma[:, None] * eps
    torch.testing.assert_close(x_t, theirs.add_noise(x0, eps, steps), rtol=1e-4, atol=1e-5)
    v = convert(eps, "eps", "v", x_t=x_t, alpha=alpha, sigma=sigma)
    torch.testing.assert_close(v, theirs.get_velocity(x0, eps, steps), rtol=1e-3, atol=1e-3)


def test_known_timesteps_of_init_sigma():
    """SIM's PixArt wrapper: linear betas, 2.5 is timestep 440; Stable Diffusion: 625, its sigma 2.5017."""
    sigma = torch.tensor([2.5])
    linear, scaled = DiscreteVP.linear(), DiscreteVP.scaled_linear()
    assert linear.nearest(sigma).tolist() == [440]
    assert linear.ve_sigma(torch.tensor([440.0])).item() == pytest.approx(2.5010, abs=2e-3)
    assert scaled.nearest(sigma).tolist() == [625]
    assert scaled.ve_sigma(torch.tensor([625.0], dtype=F64)).item() == pytest.approx(2.5017, abs=1e-4)
    assert linear.sigma_min == pytest.approx(0.0100, abs=1e-5)
    assert linear.sigma_max == pytest.approx(157.4, abs=0.1)


def test_nearest_is_the_argmin():
    process = DiscreteVP.scaled_linear()
    table = process.ve_sigma(torch.arange(1000, dtype=F64))
    sigma = torch.logspace(-3, 2, 500, dtype=F64)
    assert torch.equal(process.nearest(sigma), (sigma[:, None] - table).abs().argmin(1))


@pytest.mark.parametrize("dtype", [torch.float32, F64])
@pytest.mark.parametrize("name", PROCESSES)
def test_coordinates_round_trip(name, dtype):
    process = PROCESSES[name]
    low, high = math.log10(process.sigma_min * 1.001), math.log10(process.sigma_max * 0.999)
    sigma = torch.logspace(low, high, 200, dtype=dtype)
    coordinate = process.timestep(sigma)
    assert coordinate.dtype == dtype
    # flow: t near 1 loses digits like 1 / (1 - t) = 1 + sigma; discrete: like timestep x slope of log sigma
    magnified = 4 + sigma if "flow" in name else 4 + 0 * sigma
    if isinstance(process, DiscreteVP):
        slope = process.ve_sigma(torch.arange(process.steps, dtype=F64)).log().diff()
        magnified = 4 + coordinate * slope[coordinate.long().clamp(max=process.steps - 2)].to(dtype)
    tolerance = 16 * torch.finfo(dtype).eps * magnified
    assert ((process.ve_sigma(coordinate) - sigma).abs() <= tolerance * sigma).all()
    alpha, native = process.scales(sigma)
    assert ((native / alpha - sigma).abs() <= tolerance * sigma).all()
    assert ((process.alpha(coordinate) - alpha).abs() <= tolerance).all()
    assert ((process.sigma(coordinate) - native).abs() <= tolerance * native).all()
    if "flow" in name:
        torch.testing.assert_close(alpha + native, torch.ones_like(alpha))
    elif name not in ("ve", "edm"):
        torch.testing.assert_close(alpha**2 + native**2, torch.ones_like(alpha))


def test_native_coordinates():
    sigma = torch.tensor([0.5, 2.0], dtype=F64)
    assert torch.equal(VE().timestep(sigma), sigma)
    torch.testing.assert_close(EDM().timestep(sigma), sigma.log() / 4)
    torch.testing.assert_close(RectifiedFlow().timestep(sigma), torch.tensor([1 / 3, 2 / 3], dtype=F64))
    torch.testing.assert_close(
        RectifiedFlow(shift=3.0).shifted(torch.tensor([0.0, 0.5, 1.0])), torch.tensor([0.0, 0.75, 1.0])
    )


def test_interpolation_is_linear_in_log_sigma():
    process = DiscreteVP.linear()
    ends = process.ve_sigma(torch.tensor([500.0, 501.0], dtype=F64))
    between = process.ve_sigma(torch.tensor([500.25], dtype=F64))
    torch.testing.assert_close(between, (ends[:1].log() * 0.75 + ends[1:].log() * 0.25).exp())
    beyond = torch.tensor([1e-9, 1e9])
    assert process.timestep(beyond).tolist() == [0.0, 999.0]


def test_infinite_noise_is_refused():
    zero = PROCESSES["zero_snr"]
    assert zero.steps == 999
    assert math.isfinite(zero.sigma_max)
    with pytest.raises(UserError, match="infinite noise"):
        zero.ve_sigma(torch.tensor([999.0]))
    with pytest.raises(UserError, match="infinite"):
        RectifiedFlow().ve_sigma(torch.tensor([0.5, 1.0]))
    with pytest.raises(UserError, match="out of range"):
        DiscreteVP.linear().alpha(torch.tensor([-1.0]))
    with pytest.raises(UserError, match="finite"):
        VE().ve_sigma(torch.tensor([float("inf")]))
    with pytest.raises(UserError, match="t = 1"):
        RectifiedFlow(t_max=1.0)


def test_bad_schedules_are_refused():
    with pytest.raises(UserError, match="betas"):
        DiscreteVP((0.1, 1.0, 0.2))
    with pytest.raises(UserError, match='did you mean "linear"'):
        DiscreteVP.from_scheduler({"beta_schedule": "linea"})
    with pytest.raises(UserError, match="unknown prediction form"):
        convert(torch.zeros(1), "epsilon", "x0", x_t=torch.zeros(1), alpha=1.0, sigma=1.0)


# ---------------------------------------------------------------------- prediction forms


def rows(alpha: float, sigma: float, sigma_data: float) -> dict[str, torch.Tensor]:
    """Every form, and x_t, as (factor of x0, factor of eps), [2]."""
    ve = sigma / alpha
    width = (ve**2 + sigma_data**2) ** 0.5
    found = {
        "x0": (1.0, 0.0),
        "eps": (0.0, 1.0),
        "v": (-sigma, alpha),
        "flow": (-1.0, 1.0),
        "score": (0.0, -1 / sigma),
        "edm": (ve / (sigma_data * width), -sigma_data / width),
        "x_t": (alpha, sigma),
    }
    return {name: torch.tensor(factors, dtype=F64) for name, factors in found.items()}


def truth(x0, eps, alpha: float, sigma: float, sigma_data: float):
    """Every form, and x_t, of a known (x0, eps), and the sizes of the two terms that each is the sum of."""
    terms = {name: (row[0] * x0, row[1] * eps) for name, row in rows(alpha, sigma, sigma_data).items()}
    return {k: one + other for k, (one, other) in terms.items()}, {
        k: one.abs() + other.abs() for k, (one, other) in terms.items()
    }


def test_the_forms_are_those_of_their_papers():
    x0, eps = torch.randn(2, 2, 5, generator=torch.Generator().manual_seed(0), dtype=F64)
    alpha, sigma, sigma_data = 0.6, 0.9, 0.5
    forms, _ = truth(x0, eps, alpha, sigma, sigma_data)
    x_t = alpha * x0 + sigma * eps
    ve, x = sigma / alpha, x_t / alpha
    skip, out = sigma_data**2 / (ve**2 + sigma_data**2), ve * sigma_data / (ve**2 + sigma_data**2) ** 0.5
    wanted = {
        "x0": x0,
        "eps": eps,
        "v": alpha * eps - sigma * x0,
        "flow": eps - x0,
        "score": (alpha * x0 - x_t) / sigma**2,  # of N(alpha x0, sigma^2)
        "edm": (x0 - skip * x) / out,
        "x_t": x_t,
    }
    for name in wanted:
        torch.testing.assert_close(forms[name], wanted[name])


ROUNDINGS = 8  # of a term, at most: of the prediction, x_t, alpha (squared) and sigma, of products, sum and quotient


def rounding(source: str, target: str, sizes, alpha: float, sigma: float, sigma_data: float, eps_machine: float):
    """(error, factor): how far rounding may move a result [batch, …], and what the prediction's own error becomes.

    The condition of this conversion alone: x0 and eps are each a term of the prediction and a term of x_t, whose sizes
    are added up here where the terms may cancel.
    """
    known = rows(alpha, sigma, sigma_data)
    solved = torch.linalg.inv(torch.stack([known[source], known["x_t"]])).abs()
    weights = known[target].abs() @ solved  # of the prediction and of x_t
    return ROUNDINGS * eps_machine * (weights[0] * sizes[source] + weights[1] * sizes["x_t"]), weights[0]


def scales(kind: str, log_sigma: float) -> tuple[float, float]:
    ve = 10.0**log_sigma
    return {
        "ve": (1.0, ve),
        "vp": (1 / (1 + ve**2) ** 0.5, ve / (1 + ve**2) ** 0.5),
        "flow": (1 / (1 + ve), ve / (1 + ve)),
    }[kind]


KINDS = ("ve", "vp", "flow")


@settings(max_examples=60, deadline=None, derandomize=True)
@given(
    log_sigma=st.floats(-2.5, 2.5),
    kind=st.sampled_from(KINDS),
    dtype=st.sampled_from([torch.float32, F64]),
    sigma_data=st.floats(0.25, 2.0),
    seed=st.integers(0, 1000),
)
def test_forms_and_round_trips(log_sigma, kind, dtype, sigma_data, seed):
    rng = torch.Generator().manual_seed(seed)
    x0, eps = torch.randn(2, 2, 5, generator=rng, dtype=F64)
    a, s = scales(kind, log_sigma)
    alpha, sigma = torch.full((2,), a, dtype=F64), torch.full((2,), s, dtype=F64)
    forms, sizes = truth(x0, eps, a, s, sigma_data)
    low = {name: value.to(dtype) for name, value in forms.items()}
    given_scales = {"x_t": low["x_t"], "alpha": alpha.to(dtype), "sigma": sigma.to(dtype)}
    level = (sizes, a, s, sigma_data, torch.finfo(dtype).eps)
    for source, target in itertools.product(FORMS, FORMS):
        there = convert(low[source], source, target, **given_scales, sigma_data=sigma_data)
        error, _ = rounding(source, target, *level)
        assert there.dtype == dtype
        assert ((there.double() - forms[target]).abs() <= error).all(), (source, target)
        back = convert(there, target, source, **given_scales, sigma_data=sigma_data)
        own, factor = rounding(target, source, *level)
        assert ((back.double() - forms[source]).abs() <= own + factor * error).all(), (source, target, source)


@pytest.mark.parametrize("which", ["sigma", "alpha"])
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("log_sigma", [-2.5, -1.0, 0.0, 1.0, 2.5])
def test_one_part_in_a_hundred_is_no_rounding(log_sigma, kind, which):
    """In float32, and between every two forms: an error of one scale that enters once is beyond the bounds above."""
    rng = torch.Generator().manual_seed(4)
    x0, eps = torch.randn(2, 2, 50, generator=rng, dtype=F64)
    a, s = scales(kind, log_sigma)
    forms, sizes = truth(x0, eps, a, s, 0.5)
    wrong = {"alpha": a, "sigma": s} | {which: 1.01 * (s if which == "sigma" else a)}
    for source, target in itertools.permutations(FORMS, 2):
        if which == "alpha" and {source, target} == {"eps", "score"}:
            continue  # alpha has no part in it
        found = convert(forms[source].float(), source, target, x_t=forms["x_t"].float(), **wrong)
        error, _ = rounding(source, target, sizes, a, s, 0.5, torch.finfo(torch.float32).eps)
        assert ((found - forms[target]).abs() > error).any(), (source, target)


@pytest.mark.parametrize("form", FORMS)
def test_forms_carry_gradients_and_broadcast(form):
    x_t = torch.randn(3, 2, 4, 4, dtype=F64, requires_grad=True)
    per_sample = torch.tensor([0.3, 0.6, 0.9], dtype=F64)
    as_vector = convert(x_t.tanh(), form, "x0", x_t=x_t, alpha=per_sample, sigma=1 - per_sample)
    wide = per_sample.view(3, 1, 1, 1)
    torch.testing.assert_close(as_vector, convert(x_t.tanh(), form, "x0", x_t=x_t, alpha=wide, sigma=1 - wide))
    (grad,) = torch.autograd.grad(as_vector.sum(), x_t)
    assert grad.abs().min() > 0


def test_score_from_x0_agrees_with_convert():
    x_t, x0 = torch.randn(2, 3, 5, dtype=F64)
    sigma = torch.tensor([0.1, 1.0, 9.0], dtype=F64)
    wanted = convert(x0, "x0", "score", x_t=x_t, alpha=torch.ones(3, dtype=F64), sigma=sigma)
    torch.testing.assert_close(score_from_x0(x0, x_t, sigma), wanted)


def test_karras_grid():
    """SiD's table: 0.2, 0.4, 0.5, 0.6, 0.7, 0.8 of the way from 0.002 to 80."""
    u = torch.tensor([0.0, 0.2, 0.4, 0.5, 0.6, 0.7, 0.8, 1.0], dtype=F64)
    wanted = torch.tensor([0.002, 0.085, 0.965, 2.515, 5.84, 12.38, 24.41, 80.0], dtype=F64)
    torch.testing.assert_close(karras_sigmas(u, 0.002, 80.0), wanted, rtol=6e-3, atol=0)
