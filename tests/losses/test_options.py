"""Building losses: what is declared, what is refused, and what importing them costs."""

import dataclasses
import subprocess
import sys

import pytest
import torch

from scorefield import losses
from scorefield.errors import UserError
from scorefield.losses import LOSSES, Distance, Loss
from scorefield.losses.base import sum_elements


def given(batch=3, shape=(2, 4), dtype=torch.float32, grad=True):
    rng = torch.Generator().manual_seed(0)
    x0 = torch.randn(batch, *shape, generator=rng, dtype=dtype)
    x0 = x0.requires_grad_() if grad else x0
    sigma = torch.linspace(0.1, 5, batch, dtype=dtype)
    x_t = x0 + sigma.view(-1, *[1] * len(shape)) * torch.randn(x0.shape, generator=rng, dtype=dtype)
    return {"x0": x0, "x_t": x_t, "sigma": sigma, "teacher_x0": 0.6 * x_t, "online_x0": 0.5 * x_t.tanh()}


def test_the_six_losses():
    assert set(LOSSES) >= {"sim", "sid", "diff_instruct", "dmd", "vsd", "sds"}


@pytest.mark.parametrize("name", ["sim", "sid", "diff_instruct", "dmd", "vsd", "sds"])
@pytest.mark.parametrize("shape", [(2,), (3, 4, 4), (2, 3, 2, 2)])
def test_one_number_per_sample_and_samples_do_not_mix(name, shape):
    loss, tensors = losses.build(name), given(3, shape)
    together = loss(**tensors)
    alone = torch.cat([loss(**{k: v[i : i + 1] for k, v in tensors.items()}) for i in range(3)])
    assert together.shape == (3,)
    assert together.dtype == torch.float32
    torch.testing.assert_close(together, alone)
    (grad,) = torch.autograd.grad(together[1], tensors["x0"])
    assert grad[0].abs().max() == 0
    assert grad[1].abs().max() > 0


@pytest.mark.parametrize("name", ["sim", "sid", "dmd"])
def test_half_precision_is_widened(name):
    assert losses.build(name)(**given(dtype=torch.bfloat16)).dtype == torch.float32
    assert losses.build(name)(**given(dtype=torch.float64)).dtype == torch.float64


def test_declared_needs():
    needs = {name: losses.build(name).needs_jacobian for name in LOSSES}
    assert needs["sim"]
    assert needs["sid"]
    assert not any(needs[name] for name in ("diff_instruct", "dmd", "vsd", "sds"))
    assert not losses.build("sim", jacobian="none").needs_jacobian
    assert not losses.build("sds").needs_online
    with pytest.raises(UserError, match="online_x0"):
        losses.build("sid")(**{k: v for k, v in given().items() if k != "online_x0"})


def test_a_loss_of_ones_own_with_a_further_tensor():
    @dataclasses.dataclass(frozen=True)
    class Push(Loss):
        """Away from the unconditional estimate."""

        needs = ("teacher_uncond",)
        strength: float = 1.0

        def per_sample(self, *, x0, teacher_x0, teacher_uncond, **extra):
            return self.strength * sum_elements((teacher_uncond - teacher_x0).detach() * x0)

    LOSSES.register("test_push")(Push)
    try:
        loss, tensors = losses.build("test_push", strength=2.0), given()
        with pytest.raises(UserError, match="teacher_uncond"):
            loss(**tensors)
        uncond = torch.zeros_like(tensors["x0"])
        (grad,) = torch.autograd.grad(loss(**tensors, teacher_uncond=uncond).sum(), tensors["x0"])
        torch.testing.assert_close(grad, -2 * tensors["teacher_x0"])
    finally:
        LOSSES._parts.pop("test_push")


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("simm", {}, 'did you mean "sim"'),
        ("sim", {"distnce": "l2"}, 'did you mean "distance"'),
        ("sim", {"distance": "pseudohuber"}, 'did you mean "pseudo_huber"'),
        ("sim", {"weighting": "sidd"}, 'did you mean "sid"'),
        ("sim", {"space": "scores"}, 'did you mean "score"'),
        ("sim", {"jacobian": "exct"}, 'did you mean "exact"'),
        ("sim", {"jacobian": "none", "kappa": 1.0}, "kappa"),
        ("sim", {"c": -1.0}, "at least 0"),
        ("sim", {"c": "0.03"}, "finite number"),
        ("sim", {"c": float("nan")}, "finite number"),
        ("sim", {"c": 0.1, "distance": "l2"}, "no constant"),
        ("sim", {"c": 0.1, "distance": torch.abs}, "no constant"),
        ("sim", {"c": 0.0, "distance": "huber"}, "positive"),
        ("sim", {"k": 2.0}, "no exponent"),
        ("sim", {"k": 0.5, "distance": "power"}, "at least 1"),
        ("sim", {"distance": 3}, "callable"),
        ("sim", {"kappa": None}, "finite number"),
        ("sim", {"sigma_data": 0}, "positive"),
        ("sid", {"alpha": "high"}, "finite number"),
        ("dmd", {"alpha": 1.0}, "unknown option"),
    ],
)
def test_refusals(name, options, message):
    with pytest.raises(UserError, match=message):
        losses.build(name, **options)


def test_shapes_are_checked():
    loss = losses.build("sim")
    with pytest.raises(UserError, match="one per sample"):
        loss(**{**given(), "sigma": torch.ones(3, 1, 1)})
    with pytest.raises(UserError, match="teacher_x0 has shape"):
        loss(**{**given(), "teacher_x0": torch.zeros(3, 2, 1)})


@pytest.mark.parametrize("bad", [lambda y: y.sum(), lambda y: y, lambda y: 3.0, lambda y: torch.zeros(len(y))])
def test_user_distances_are_checked(bad):
    with pytest.raises(UserError, match="distance must"):
        losses.build("sim", distance=bad)(**given())


def test_default_constant():
    """iCT's rule: 0.00054 sqrt(D) at sigma_data 0.5, so CIFAR's D = 3072 gives 0.030."""
    pictures = torch.empty(1, 3, 32, 32)
    assert losses.build("sim").constant(pictures) == pytest.approx(0.00054 * 3072**0.5)
    assert losses.build("sim", sigma_data=1.0).constant(pictures) == pytest.approx(2 * 0.00054 * 3072**0.5)
    assert losses.build("sim", distance="charbonnier").constant(pictures) == pytest.approx(0.00054)
    assert losses.build("sim", c=0.07).constant(pictures) == 0.07
    # the two spaces agree at sigma = sigma_data
    tensors = {**given(), "sigma": torch.full((3,), 0.5)}
    score, x0 = (losses.build("sim", space=space)(**tensors) for space in ("score", "x0"))
    torch.testing.assert_close(score, x0 / 0.25)


def test_without_jacobian_a_callable_works_under_no_grad():
    tensors = given()
    with torch.no_grad():
        tensors["teacher_x0"], tensors["online_x0"] = tensors["teacher_x0"] * 1, tensors["online_x0"] * 1
    loss = losses.build("sim", distance=lambda y: y.square().flatten(1).sum(1), jacobian="none")
    (grad,) = torch.autograd.grad(loss(**tensors).sum(), tensors["x0"])
    torch.testing.assert_close(grad, 2 * (tensors["online_x0"] - tensors["teacher_x0"]).detach())


def test_sid_weight_is_omega_with_a_floor():
    tensors = given()
    plain, weighted = (losses.build("sid", weighting=w)(**tensors) for w in ("none", "sid"))
    omega = (tensors["x0"] - tensors["teacher_x0"]).abs().flatten(1).mean(1)
    torch.testing.assert_close(weighted, plain / omega)
    same = {**tensors, "teacher_x0": tensors["x0"] * 1}
    torch.testing.assert_close(
        losses.build("sid")(**same), losses.build("sid", weighting="none")(**same) * 1e5, rtol=1e-4, atol=1e-4
    )


def test_losses_are_values_and_take_distance_objects():
    loss = losses.build("sim", c=0.1)
    assert loss == dataclasses.replace(loss)
    custom = Distance(lambda y, c, k: y.square().flatten(1).sum(1), lambda y, c, k: 2 * y)
    squared = losses.build("sim", distance="squared_l2")
    torch.testing.assert_close(losses.build("sim", distance=custom)(**given()), squared(**given()))


def test_importing_losses_needs_nothing_but_torch():
    code = (
        "import sys, torch; before = set(sys.modules); import scorefield.losses; "
        "print(*sorted({m.split('.')[0] for m in set(sys.modules) - before}))"
    )
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
    foreign = [m for m in out if m != "scorefield" and m not in sys.stdlib_module_names and m != "torch"]
    assert foreign == []
