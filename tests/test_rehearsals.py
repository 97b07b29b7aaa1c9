"""Every task is timed and planned with random weights: particles, classes and GANs as text_to_image is."""

import json

import pytest
import torch

from scorefield import networks
from scorefield.cli import main
from scorefield.commands.common import build_config
from scorefield.cost.estimate import estimate
from scorefield.importer import rehearsal
from scorefield.networks.official import OFFICIAL, official
from scorefield.plugins import load_task
from scorefield.runfolder import RunFolder
from tests.tasks.test_class_to_image import unet
from tests.teachers import families
from tests.test_cost import measured

GAN = {
    "z_dim": 16,
    "c_dim": 3,
    "w_dim": 16,
    "img_resolution": 32,
    "img_channels": 3,
    "mapping_kwargs": {"num_layers": 2},
    "synthesis_kwargs": {"channel_base": 512, "channel_max": 16, "num_fp16_res": 0},
}


@pytest.fixture(scope="module")
def words(tmp_path_factory):
    """Overrides by task: small networks in files."""
    root = tmp_path_factory.mktemp("nets")
    torch.manual_seed(0)
    networks.save(unet(), root / "edm")
    networks.save(networks.build("Generator", GAN), root / "gan")
    edm = f"teacher.path={root / 'edm'}"
    return {
        "particles": [f"teacher.path={families.write('sd_eps', root / 'sd')}", "online.kind=lora", "particles.count=4"],
        "class_to_image": [edm, "training.accumulation=2"],
        "gan_refine": [edm, f"generator.path={root / 'gan'}"],
    }


def make(name, path, *more):
    task_class = load_task(name)
    config = build_config(task_class, None, ["training.device=cpu", "training.batch=8", *more])
    return task_class(config, RunFolder(path), "cpu")


TASKS = ["particles", "class_to_image", "gan_refine"]


@pytest.mark.parametrize("name", TASKS)
def test_the_estimate_is_what_the_allocator_counts(name, words, tmp_path):
    task = make(name, tmp_path, *words[name], "training.online_warmup=0")
    assert estimate(task, task.config, "cpu").per_device == pytest.approx(measured(task, 2), rel=0.15)


@pytest.mark.parametrize("name", TASKS)
def test_the_bench_times_it(name, words, capsys):
    given = ["training.device=cpu", "training.batch=4", "training.online_warmup=0", *words[name]]
    assert main(["bench", "--task", name, "--rounds", "1", "--json", *given]) == 0
    (row,) = json.loads(capsys.readouterr().out)["rows"]
    assert row["forward_equivalents"] == sum(each["forward_equivalents"] for each in row["passes"].values())
    assert row["memory_bytes"]["generator"] > 0 < row["step_seconds"]


def test_a_published_file_is_planned_without_it(monkeypatch, capsys):
    kind, settings = OFFICIAL["edm-cifar10-cond-vp"]
    small = (kind, {**settings, "model_channels": 16})
    monkeypatch.setitem(OFFICIAL, "edm-cifar10-cond-vp", small)
    given = ["run", "class_to_image", "--config", "edm_cifar10_cond", "--device-memory", "80GB", "--dry-run"]
    assert main(given) == 0
    assert "activations" in capsys.readouterr().out
    assert main([*given, "teacher=edm-cifar11.pkl"]) == 2
    assert 'there is no network at "edm-cifar11.pkl"' in capsys.readouterr().err


def test_every_published_file_of_the_presets_is_known():
    from scorefield import resources

    for preset in (resources.root() / "configs" / "class_to_image").glob("*.yaml"):
        named = [word.strip(" {},") for word in preset.read_text().split("path:")[1:]]
        for path in (word.split("}")[0].split(",")[0].strip() for word in named):
            assert not path.endswith(".pkl") or path in rehearsal.FILES, path
    for name in rehearsal.FILES.values():
        official(name)
