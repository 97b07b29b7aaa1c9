"""Distributions of sigma and weights of the online score's loss."""

from types import SimpleNamespace

import pytest
import torch

from scorefield import noise_laws
from scorefield.errors import UserError
from scorefield.noise import DiscreteVP, RectifiedFlow
from scorefield.noise_laws import NOISE_LAWS, Karras, LogitNormalTime, LogNormal, UniformTimestep

torch.set_num_threads(1)
F64 = torch.float64
U = (torch.arange(20_000, dtype=F64) + 0.5) / 20_000
TEACHER = SimpleNamespace(sigma_min=0.01, sigma_max=50.0, process=DiscreteVP.linear())


def test_log_normal_has_its_moments():
    log = LogNormal(-1.2, 1.2, 1e-6, 1e6)(U).log()
    assert log.mean().item() == pytest.approx(-1.2, abs=1e-3)
    assert log.std().item() == pytest.approx(1.2, abs=2e-3)
    # what SiD's fake score sees of high noise
    assert (log.exp() > 12.4).double().mean().item() == pytest.approx(0.00097, abs=2e-4)


def test_karras_cut():
    sigma = Karras()(U)
    assert sigma.max().item() == pytest.approx(24.41, abs=0.02)
    assert (sigma > 12.38).double().mean().item() == pytest.approx(1 / 8, abs=1e-3)
    assert (sigma.diff() > 0).all()


def test_uniform_timestep():
    process = DiscreteVP.linear()
    steps = process.timestep(UniformTimestep(process, 20, 980)(U))
    torch.testing.assert_close(steps, 20 + 960 * U, rtol=1e-9, atol=1e-6)
    flow = UniformTimestep(RectifiedFlow(), 0.02, 0.98)(U)
    torch.testing.assert_close(flow / (1 + flow), 0.02 + 0.96 * U)
    scheduler = {"beta_schedule": "scaled_linear", "beta_start": 0.00085, "beta_end": 0.012}
    built = noise_laws.build(
        {"name": "uniform_timestep", "process": scheduler}, SimpleNamespace(sigma_min=0.01, sigma_max=20.0)
    )
    assert built.process == DiscreteVP.scaled_linear()


def test_logit_normal_time_and_its_shift():
    t = torch.sigmoid(0.7 + 1.6 * torch.special.ndtri(U))
    sigma = LogitNormalTime(0.7, 1.6, sigma_min=1e-9, sigma_max=1e9)(U)
    torch.testing.assert_close(sigma / (1 + sigma), t, rtol=1e-6, atol=1e-9)
    shifted = LogitNormalTime(0.7, 1.6, 3.0, sigma_min=1e-9, sigma_max=1e9)(U)
    torch.testing.assert_close(shifted / (1 + shifted), RectifiedFlow(shift=3.0).shifted(t), rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize("name", list(NOISE_LAWS))
def test_extreme_draws_stay_in_the_teachers_range(name):
    law = noise_laws.build({"name": name}, TEACHER)
    for u in (torch.tensor([0.0, 2**-24, 0.5, 1 - 2**-24, 1.0]), torch.rand(1000)):
        sigma = law(u)
        assert sigma.dtype == torch.float32
        assert sigma.shape == u.shape
        assert ((sigma >= 0.01 * 0.9999) & (sigma <= 50.0 * 1.0001)).all()


def test_build_cuts_the_default_range_and_keeps_the_recipe():
    assert noise_laws.build({"name": "karras"}, SimpleNamespace(sigma_min=1e-3, sigma_max=100.0)) == Karras()
    law = noise_laws.build({"name": "karras", "u_max": 0.9}, TEACHER)
    assert (law.sigma_min, law.sigma_max, law.u_max) == (0.01, 50.0, 0.9)
    wrapped = SimpleNamespace(sigma_min=0.01, sigma_max=50.0, denoiser=TEACHER)
    assert noise_laws.build({"name": "uniform_timestep"}, wrapped).process == TEACHER.process
    assert noise_laws.build({"name": "log_normal", "mean": 0.0}) == LogNormal(0.0)


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"name": "lognormal"}, 'did you mean "log_normal"'),
        ({"name": "karras", "umax": 0.8}, 'did you mean "u_max"'),
        ({"name": "karras", "sigma_max": 80.0}, "beyond the teacher"),
        ({"name": "karras", "u_min": 0.9, "u_max": 0.8}, "rising order"),
        ({"name": "karras", "u_max": 1.2}, "rising order"),
        ({"name": "log_normal", "std": 0.0}, "positive"),
        ({"name": "log_normal", "sigma_min": 5.0, "sigma_max": 1.0}, "sigma_min < sigma_max"),
        ({"name": "uniform_timestep", "high": 1000}, "out of range"),
        ({"name": "uniform_timestep", "low": 500, "high": 400}, "low < high"),
        ({"name": "logit_normal_time", "shift": 0.0}, "positive"),
    ],
)
def test_refusals(config, message):
    with pytest.raises(UserError, match=message):
        noise_laws.build(config, TEACHER)


def test_infinite_noise_is_never_sampled():
    zero = DiscreteVP.scaled_linear().zero_terminal_snr()
    with pytest.raises(UserError, match="infinite noise"):
        UniformTimestep(zero, 0, 999)
    assert UniformTimestep(zero, 0, 998)(torch.ones(1, dtype=F64)).isfinite().all()
    with pytest.raises(UserError, match="process"):
        noise_laws.build({"name": "uniform_timestep"}, SimpleNamespace(sigma_min=0.01, sigma_max=1.0))


def test_online_weights():
    sigma = torch.tensor([0.2, 1.0, 5.0], dtype=F64)
    t = sigma / (1 + sigma)
    wanted = {
        "none": torch.ones(3, dtype=F64),
        "x0": torch.ones(3, dtype=F64),
        "edm": (sigma**2 + 0.25) / (sigma * 0.5) ** 2,
        "eps": sigma**-2,
        "snr": sigma**-2,
        "snr_plus_one": sigma**-2 + 1,
        "min_snr": torch.tensor([5.0, 1.0, 0.04], dtype=F64),
        "flow": t**-2,
        "one_minus_t": 1 - t,
    }
    for name, weight in wanted.items():
        torch.testing.assert_close(noise_laws.online_weighting(name, 0.5)(sigma), weight)
    with pytest.raises(UserError, match='did you mean "min_snr"'):
        noise_laws.online_weighting("minsnr")


def test_online_weights_are_the_error_of_that_form():
    """Weight times squared x0 error is the squared error of eps, v, flow velocity and EDM's F."""
    from scorefield.noise import convert

    x_t, first, second = torch.randn(3, 4, 6, dtype=F64)
    sigma = torch.tensor([0.1, 0.7, 2.0, 9.0], dtype=F64)
    vp, flow, ve = (1 + sigma**2).rsqrt(), 1 / (1 + sigma), torch.ones(4, dtype=F64)
    for name, form, alpha in (
        ("eps", "eps", vp),
        ("snr_plus_one", "v", vp),
        ("flow", "flow", flow),
        ("edm", "edm", ve),
    ):
        gap = 0
        for sign, x0 in ((1, first), (-1, second)):
            gap = gap + sign * convert(x0, "x0", form, x_t=x_t, alpha=alpha, sigma=alpha * sigma, sigma_data=0.5)
        weight = noise_laws.online_weighting(name, 0.5)(sigma)
        torch.testing.assert_close((gap**2).sum(1), weight * ((first - second) ** 2).sum(1))


def test_stages_switch_or_move_between_laws():
    laws = {0: {"name": "log_normal", "mean": 1.0, "std": 0.5}, 10: {"name": "log_normal", "mean": -1.0, "std": 0.5}}
    u = torch.tensor([0.5])
    jump = noise_laws.build({"name": "stages", "laws": laws})
    move = noise_laws.build({"name": "stages", "laws": laws, "blend": True})
    told = [[noise_laws.law_at(law, k)(u).log().item() for k in (0, 5, 10, 20)] for law in (jump, move)]
    assert told[0] == pytest.approx([1, 1, -1, -1], abs=1e-5)
    assert told[1] == pytest.approx([1, 0, -1, -1], abs=1e-5)
    plain = LogNormal()
    assert noise_laws.law_at(plain, 7) is plain
    with pytest.raises(UserError, match="0 among them"):
        noise_laws.build({"name": "stages", "laws": {5: laws[0]}})
