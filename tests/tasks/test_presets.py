"""The presets at full scale: what their headers state, and that each fits its teacher's public configuration."""

import re
from functools import cache

import pytest
import torch

from scorefield import resources
from scorefield.commands.common import build_config
from scorefield.commands.run import passes_per_iteration
from scorefield.noise import DiscreteVP
from scorefield.runfolder import RunFolder
from scorefield.teachers.known import KNOWN, write_known
from tasks.text_to_image import TextToImage

PRESETS = sorted(p.stem for p in (resources.root() / "configs" / "text_to_image").glob("*.yaml"))
# those of published teachers; the others name one that this repository trains
FULL = [name for name in PRESETS if any(hub in resources.preset("text_to_image", name).read_text() for hub in KNOWN)]
# noise level of the first step: timestep of 1000 for eps models, 1000 t for flows
STARTS = {"pixart": 440, "sd15": 625, "sdxl": 399, "sd35": 714, "flux": 714, "sana": 714}
PARAMETERS = {"pixart": 610.9, "sd15": 859.5, "sdxl": 2567.5, "sd35": 2243.2, "flux": 11901.4, "sana": 1604.5}


def task_of(name: str, tmp_path) -> TextToImage:
    preset = resources.preset("text_to_image", name)
    (tmp_path / "prompts.txt").write_text("\n".join(f"picture number {k}" for k in range(50)))
    path = re.search(r"path: (\S+/\S+)", preset.read_text())[1]
    words = [f"teacher.path={write_known(path, tmp_path / 'teacher')}", f"prompts.path={tmp_path / 'prompts.txt'}"]
    task = TextToImage(build_config(TextToImage, preset, words), RunFolder(tmp_path / "run"), "cpu")
    task.check()
    return task


@cache
def network_of(hub_id: str):
    """The network without storage, and (inputs + outputs) of its attention layers."""
    import diffusers

    _, _, kind, settings, _, _ = KNOWN[hub_id]
    with torch.device("meta"):
        network = getattr(diffusers, kind).from_config(settings)
    ends = ("to_q", "to_k", "to_v", "to_out.0")
    layers = [m for name, m in network.named_modules() if isinstance(m, torch.nn.Linear) and name.endswith(ends)]
    return sum(p.numel() for p in network.parameters()), sum(m.in_features + m.out_features for m in layers)


def test_every_family_has_a_preset_and_a_lora_variant():
    for family in STARTS:
        assert any(name.startswith(family) and not name.endswith("lora") for name in FULL), family
        assert any(name.startswith(family) and name.endswith("lora") for name in FULL), family


@pytest.mark.parametrize("name", FULL)
def test_a_preset_fits_its_teacher_and_states_its_costs(name, tmp_path):
    task = task_of(name, tmp_path)
    config, family = task.config, name.split("_")[0]
    header = resources.preset("text_to_image", name).read_text()

    process, sigma = task.pipeline.process, task.init_sigma()
    if isinstance(process, DiscreteVP):
        assert process.timestep(torch.tensor([sigma])).round().item() == STARTS[family]
        if family in ("pixart", "sd15"):
            assert abs(sigma - 2.5) < 0.01
    else:
        assert sigma / (1 + sigma) * 1000 == pytest.approx(STARTS[family])

    passes = passes_per_iteration(config.build_loss(), config.training)
    assert f"Cost: {passes:g} forward passes" in header

    hub_id = re.search(r"path: (\S+/\S+)", header)[1]
    parameters, sides = network_of(hub_id)
    assert parameters / 1e6 == pytest.approx(PARAMETERS[family], abs=0.1)
    if config.generator.kind == "lora":
        assert config.online.kind == "lora"
        trained = 20 * config.generator.lora_rank + 16 * config.online.lora_rank
        expected = 2 * parameters + sides * trained
    else:
        expected = 38 * parameters
    stated = float(re.search(r"Memory: ([\d.]+) GB", header)[1])
    assert stated == pytest.approx(expected / 1e9, rel=0.03)


def test_accumulation_makes_the_papers_batches():
    from pathlib import Path

    for name, batch in (("pixart_512", 256), ("pixart_512_batch1024", 1024)):
        config = build_config(TextToImage, Path(name), [])
        assert config.training.batch == batch
        assert divmod(config.training.batch, config.training.accumulation) == (8, 0)  # what 80 GB hold
