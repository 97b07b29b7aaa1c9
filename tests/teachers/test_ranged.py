"""Several teachers by noise level: each sample is answered by the one in whose range it lies."""

import json
import math

import pytest
import torch

from scorefield import networks
from scorefield.cli import main
from scorefield.errors import UserError
from scorefield.teachers.edm import EDMDenoiser
from scorefield.teachers.ranged import RangedTeacher

SIDE = 16
KWARGS = {"img_resolution": SIDE, "img_channels": 3, "model_type": "SongUNet", "model_channels": 32}
KWARGS |= {"channel_mult": [1], "num_blocks": 1, "attn_resolutions": []}


def network(kind="EDMPrecond", classes=0, **more):
    made = networks.build(kind, {**KWARGS, "label_dim": classes, **more})
    for p in made.parameters():  # away from the zeros that branches start at
        p.data.add_(0.05 * torch.randn_like(p))
    return made


def test_each_sample_asks_the_teacher_of_its_noise_level():
    torch.manual_seed(0)
    low, high = EDMDenoiser(network()).eval(), EDMDenoiser(network("VEPrecond")).eval()
    both = RangedTeacher([(2.0, high), (0.0, low)])
    assert (both.sigma_min, both.sigma_max) == (0.002, 80.0)
    sigma = torch.tensor([5.0, 0.1, 2.0, 1.9, 60.0])
    x = torch.randn(5, 3, SIDE, SIDE, requires_grad=True)
    found = both(x, sigma, {})
    near = {"rtol": 1e-3, "atol": 1e-3}  # convolutions round otherwise in another batch
    for row, owner in enumerate((high, low, high, low, high)):
        torch.testing.assert_close(found[row : row + 1], owner(x[row : row + 1], sigma[row : row + 1], {}), **near)
    assert x.grad is None
    found.sum().backward()  # the losses go through the teacher's inputs
    assert (x.grad.flatten(1).abs().sum(1) > 0).all()
    only = both(x[1:2], sigma[1:2], {})  # a range without samples is not asked
    torch.testing.assert_close(only, found[1:2], **near)


def test_teachers_that_do_not_fit_together():
    low = EDMDenoiser(network()).eval()
    narrow = EDMDenoiser(network("VEPrecond", sigma_min=3.0, sigma_max=50.0)).eval()
    assert RangedTeacher([(0.0, low), (3.0, narrow)]).sigma_max == 50.0
    for parts, message in (
        ([(0.0, low), (2.0, narrow)], "knows only 3 to 50"),
        ([(0.0, low), (0.0, narrow)], "same noise level"),
        ([(0.0, narrow), (60.0, low)], "knows only 3 to 50"),
        ([(0.0, low), (90.0, low)], "knows only"),
        ([(0.0, low), (3.0, EDMDenoiser(network(classes=4)).eval())], "must be alike"),
    ):
        with pytest.raises(UserError, match=message):
            RangedTeacher(parts)


def test_a_refinement_under_two_teachers(tmp_path, capsys):
    torch.manual_seed(0)
    networks.save(network(classes=3), tmp_path / "low")
    networks.save(network("VPPrecond", classes=3), tmp_path / "high")
    kwargs = {"z_dim": 8, "c_dim": 3, "w_dim": 8, "img_resolution": SIDE, "img_channels": 3}
    small = {"channel_base": 8 * SIDE, "channel_max": 8}
    networks.save(networks.build("Generator", {**kwargs, "synthesis_kwargs": small}), tmp_path / "gan")
    words = ["run", "gan_refine", f"generator={tmp_path / 'gan'}", f"teacher={tmp_path / 'low'}"]
    more = f"teacher.further=[{{path: {tmp_path / 'high'}, above: 1.5}}]"
    small_run = ["training.iterations=3", "training.batch=4", "training.online_warmup=1", "training.device=cpu"]
    small_run += ["checkpoints.every=3", "evaluation.preview=2", "training.log_every=1"]
    losses = {}
    for name, extra in (("one", []), ("two", [more])):
        assert main([*words, *extra, *small_run, "--out", str(tmp_path / name)]) == 0
        lines = [json.loads(line) for line in (tmp_path / name / "metrics.jsonl").read_text().splitlines()]
        losses[name] = [line["loss/generator"] for line in lines if "loss/generator" in line]
        assert all(math.isfinite(value) for value in losses[name])
    assert losses["one"] != losses["two"]
    assert main(["export", str(tmp_path / "two")]) == 0
    capsys.readouterr()
    assert main([*words, "teacher.further=[{path: x}]", "--dry-run"]) == 2
    assert "above > 0" in capsys.readouterr().err
    assert main([*words, more.replace("1.5", "100"), "--dry-run"]) == 2
    assert "move its bound" in capsys.readouterr().err
