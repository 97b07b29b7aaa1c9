"""Time and memory at full size, measured in processes of their own."""

import subprocess
import sys

import pytest

from scorefield import networks
from scorefield.importer import load

from . import builders
from .test_open import as_pickled
from .writers import dump

MEASURE = """
import sys, time
import scorefield.importer.open, torch
torch.zeros(1).sum()
def status(key):
    # not getrusage: its peak outlives exec, so a large parent would count
    with open("/proc/self/status") as file:
        return next(int(line.split()[1]) << 10 for line in file if line.startswith(key))
before = status("VmRSS")
start = time.perf_counter()
if sys.argv[3] == "data":
    state = scorefield.importer.load(sys.argv[1], sys.argv[2]).state
else:
    state = scorefield.importer.open.open_network(sys.argv[1], sys.argv[2]).state_dict()
seconds = time.perf_counter() - start
peak = status("VmHWM")
print(seconds, peak - before, sum(t.nbytes for t in state.values()))
"""


def measure(path, network, form="data"):
    """(seconds, bytes above the imported libraries at the peak, bytes of the tensors), as data or as a "module"."""
    command = [sys.executable, "-c", MEASURE, str(path), network, form]
    seconds, peak, tensors = subprocess.run(command, capture_output=True, text=True, check=True).stdout.split()
    return float(seconds), int(peak), int(tensors)


needs_proc = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc")


@needs_proc
def test_memory_stays_near_the_file(tmp_path):
    file = builders.edm_file(builders.edm(resolution=32, width=64, blocks=4, mult=(2, 2, 2)))
    path = dump(tmp_path / "net.pkl", file)
    size = path.stat().st_size
    assert size > 50_000_000
    _, peak, tensors = measure(path, "ema")
    assert tensors <= peak <= 1.5 * size


@needs_proc
def test_a_module_takes_no_more_memory_than_its_tensors(tmp_path):
    kwargs = {"img_resolution": 32, "img_channels": 3, "label_dim": 0, "model_type": "SongUNet"}
    kwargs |= {"model_channels": 64, "channel_mult": [2, 2], "num_blocks": 3}
    network = networks.build("EDMPrecond", kwargs)
    path = dump(tmp_path / "net.pkl", builders.edm_file(as_pickled(network, kwargs)))
    size = path.stat().st_size
    assert size > 30_000_000
    _, peak, tensors = measure(path, "ema", "module")
    assert tensors <= peak <= 1.5 * size


@needs_proc
def test_networks_that_nobody_asked_for_take_no_memory(tmp_path):
    file = builders.gan_file(resolution=32, channels=8)
    file["G"] = builders.generator(resolution=32, channels=512, w_dim=512)
    path = dump(tmp_path / "net.pkl", file)
    size = path.stat().st_size
    assert size > 70_000_000
    _, peak, tensors = measure(path, "G_ema")
    assert tensors < 200_000
    assert peak < 0.25 * size


@pytest.mark.slow
@needs_proc
@pytest.mark.parametrize("zipped", [False, True], ids=["legacy", "zip"])
def test_edm_of_cifar10_size(tmp_path, zipped):
    network = builders.edm(resolution=32, width=128, blocks=4, mult=(2, 2, 2))
    assert sum(p.numel() for p in network.parameters()) == 55_733_891
    assert len(network.state_dict()) == 425
    path = dump(tmp_path / "net.pkl", builders.edm_file(network), zipped=zipped)
    best = min(measure(path, "ema") for _ in range(2))
    assert best[0] < 2
    assert best[1] < 1.5 * path.stat().st_size


@pytest.mark.slow
@needs_proc
def test_a_module_of_cifar10_size(tmp_path):
    class_name, kwargs = networks.official("edm-cifar10-uncond-vp")
    file = builders.edm_file(as_pickled(networks.build(class_name, kwargs), kwargs))
    path = dump(tmp_path / "net.pkl", file)
    best = min(measure(path, "ema", "module") for _ in range(2))
    assert best[0] < 2
    assert best[1] < 1.5 * path.stat().st_size


@pytest.mark.slow
@needs_proc
@pytest.mark.parametrize(("c_dim", "parameters", "tensors"), [(0, 19_947_539, 75), (10, 20_215_315, 77)])
def test_stylegan2_of_cifar10_size(tmp_path, c_dim, parameters, tensors):
    file = builders.gan_file("stylegan3", resolution=32, channels=512, w_dim=512, c_dim=c_dim)
    path = dump(tmp_path / "net.pkl", file)
    state = load(path).state
    assert len(state) == tensors
    assert sum(p.numel() for p in file["G_ema"].parameters()) == parameters
    seconds, peak, held = measure(path, "G_ema")
    assert seconds < 2
    assert peak < 1.5 * held
