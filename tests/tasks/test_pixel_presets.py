"""The presets of published pixel-space teachers, through to a page, on small pickled networks of their classes."""

import json

import pytest
import torch

from scorefield import networks
from scorefield.cli import main
from tests.importer import builders
from tests.importer.test_open import as_pickled
from tests.importer.writers import dump

SMALL = {"model_channels": 32, "channel_mult": [1, 2], "num_blocks": 1, "attn_resolutions": [16]}
SONG = {"model_type": "SongUNet", "augment_dim": 9, "dropout": 0.13, **SMALL}
TEACHERS = {
    "edm_cifar10_uncond": {"img_resolution": 32, "label_dim": 0, **SONG},
    "edm_cifar10_cond": {"img_resolution": 32, "label_dim": 10, **SONG},
    "ffhq64": {"img_resolution": 64, "label_dim": 0, **SONG, "dropout": 0.05},
    "afhq64": {"img_resolution": 64, "label_dim": 0, **SONG, "dropout": 0.25},
    "imagenet64": {
        "img_resolution": 64,
        "label_dim": 1000,
        "model_type": "DhariwalUNet",
        "use_fp16": True,
        "dropout": 0.1,
        **SMALL,
    },
}


@pytest.mark.parametrize("preset", TEACHERS)
def test_a_preset_trains_the_class_of_its_teacher(tmp_path, preset):
    torch.manual_seed(0)
    kwargs = {"img_channels": 3, **TEACHERS[preset]}
    network = networks.build("EDMPrecond", kwargs)
    for p in network.parameters():  # away from the zeros that branches start at
        p.data.add_(0.02 * torch.randn_like(p))
    path = dump(tmp_path / "teacher.pkl", builders.edm_file(as_pickled(network, kwargs)))
    words = ["training.iterations=2", "training.batch=4", "training.accumulation=2", "training.log_every=1"]
    words += ["checkpoints.every=2", "evaluation.preview=2", "evaluation.teacher_steps=2", "training.device=cpu"]
    out = tmp_path / "run"
    assert main(["run", "class_to_image", "--config", preset, "--out", str(out), f"teacher={path}", *words]) == 0
    lines = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    last = [line for line in lines if "loss/generator" in line][-1]
    assert last["iteration"] == 2
    assert all(abs(last[f"loss/{who}"]) < float("inf") for who in ("generator", "online"))
    assert main(["export", str(out), "--out", str(tmp_path / "out")]) == 0
    state = torch.load(tmp_path / "out" / "generator.pt", weights_only=True)
    network.load_state_dict(state)  # the documented line: official names, nothing missing, nothing more
    assert list(state) == list(network.state_dict())
    assert (tmp_path / "run" / "report.html").is_file()
