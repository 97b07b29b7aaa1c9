"""The average in host memory: the same numbers, in checkpoints too, and the iteration does not wait for it."""

import threading

import pytest
import torch

from scorefield.errors import UserError
from scorefield.generators.base import Changes
from scorefield.training.host_average import HostAverage
from scorefield.training.player import MovingAverage
from scorefield.training.settings import TrainingConfig

from .test_trainer import make

RAMP = {"half_life": 640, "rampup": 0.05}


def both(device: str):
    live = [torch.nn.Parameter(torch.randn(7, 3, device=device)), torch.nn.Parameter(torch.randn(5, device=device))]
    return live, [kind([("a", live[0]), ("b", live[1])], **RAMP) for kind in (MovingAverage, HostAverage)]


@pytest.mark.parametrize("device", ["cpu", pytest.param("cuda", marks=pytest.mark.gpu)])
def test_the_numbers_are_those_of_the_device(device):
    live, averages = both(device)
    for step in range(1, 30):
        averages[1].before_step()
        for parameter in live:
            parameter.data.mul_(0.9).add_(0.1 * step)
        for average in averages:
            average.update(64, 64 * step)
    plain, host = (average.state_dict() for average in averages)
    assert plain.keys() == host.keys()
    for name, value in plain.items():
        assert host[name].device.type == "cpu"
        torch.testing.assert_close(host[name], value.cpu(), rtol=1e-6, atol=0)
    before, averaged = [p.detach().clone() for p in live], [value.clone() for value in host.values()]
    averages[1].swap()
    for parameter, value in zip(live, averaged, strict=True):
        assert torch.equal(parameter.detach().cpu(), value)
    averages[1].swap()
    assert all(torch.equal(p, value) for p, value in zip(live, before, strict=True))


def test_a_run_with_it_ends_the_same_and_goes_on_from_either():
    plain, host = make(), make(ema_device="cpu")
    assert isinstance(host.average, HostAverage)
    for k in range(5):
        plain.iteration(k)
        host.iteration(k)
    assert_same(plain, host)
    again = make(ema_device="cpu")
    again.generator.load_state_dict(plain.generator.state_dict())
    again.average.load_state_dict(plain.average.state_dict())
    assert_same(again, plain)


def assert_same(a, b) -> None:
    for name, value in a.average.state_dict().items():
        assert torch.equal(value, b.average.state_dict()[name]), name
        assert not torch.equal(value, dict(a.generator.averaged())[name])


def test_the_iteration_does_not_wait_for_the_average():
    """While its thread is held up, live values may change: they were copied before."""
    live, (plain, host) = both("cpu")
    held, real = threading.Event(), host._average

    def slow(*given):
        held.wait(10)
        real(*given)

    host._average = slow
    plain.update(64, 64)
    host.update(64, 64)  # returns though nothing is averaged yet
    for parameter in live:
        parameter.data.fill_(100.0)
    held.set()
    for name, value in plain.state_dict().items():
        assert torch.equal(host.state_dict()[name], value)


def test_an_error_of_the_thread_is_raised():
    _, (_, host) = both("cpu")
    host._arriving[0] = torch.zeros(2)  # no longer fits
    host._copy = lambda: None
    host.update(64, 64)
    with pytest.raises(RuntimeError):
        host.wait()


def test_parameters_that_are_replaced_keep_their_average():
    live, averages = both("cpu")
    for average in averages:
        average.update(64, 64)
    grown = torch.nn.Parameter(torch.ones(8, 3))
    rows = torch.tensor([0, 1, 2, 3, 4, 5, 6, -1])
    for average in averages:
        average.follow(Changes({live[0]: grown}, rows={grown: rows}), [("a", grown), ("b", live[1])])
        average.update(64, 128)
    plain, host = (average.state_dict() for average in averages)
    assert all(torch.equal(plain[name], host[name]) for name in plain)
    assert torch.equal(host["a"][7], torch.ones(3))


def test_mistakes_are_one_sentence():
    with pytest.raises(UserError, match=r'training\.ema_device "gpu" is unknown'):
        TrainingConfig(ema_device="gpu")
    with pytest.raises(UserError, match=r"training\.ema_device=cpu is for whole networks"):
        TrainingConfig(ema_device="cpu", sharding="fsdp2")
