"""Two processes train what one trains: draws belong to samples, figures and masks to the whole batch."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from scorefield.runfolder import RunFolder
from scorefield.training import checkpoint

from . import ranks
from .conftest import ROOT, torchrun

ROUNDING = 1e-6  # of weights that move by 0.05 in steps of 0.01; 1.2e-7 is the largest that was seen


@pytest.fixture(scope="module")
def two(ended) -> list[dict]:
    """What each of two processes ended with, by scenario."""
    return [torch.load(ended / f"rank-{rank}.pt", weights_only=True) for rank in range(2)]


@pytest.fixture(scope="module")
def one() -> dict[str, dict]:
    return {name: ranks.finish(name) for name in ranks.SCENARIOS}


@pytest.mark.parametrize("name", ranks.SCENARIOS)
def test_the_number_of_processes_does_not_change_the_weights(name, one, two):
    alone, start = one[name]["weights"], ranks.make(**ranks.SCENARIOS[name]).generator.state_dict()
    moved = [(alone[f"generator.{n}"] - value).abs().max().item() for n, value in start.items() if "body" in n]
    assert max(moved) > 0.01  # there is something to compare
    for key, value in alone.items():
        assert torch.equal(two[0][name]["weights"][key], two[1][name]["weights"][key]), key
        assert torch.allclose(value, two[0][name]["weights"][key], rtol=0, atol=ROUNDING), key


@pytest.mark.slow
def test_four_processes_end_as_one(one, tmp_path):
    done = torchrun("-m", "tests.training.ranks", "equal", str(tmp_path), processes=4)
    assert done.returncode == 0, done.stderr[-3000:]
    for rank in range(4):
        whole, shares = torch.load(tmp_path / f"equal-{rank}.pt", weights_only=True)
        for found, scenarios in ((whole, ranks.SCENARIOS), (shares, ranks.SHARDED)):
            for name in scenarios:
                alone = one[name] if found is whole else ranks.finish(name, ranks.SHARDED)
                for key, value in alone["weights"].items():
                    assert torch.allclose(value, found[name]["weights"][key], rtol=0, atol=ROUNDING), (name, key)


@pytest.mark.parametrize("name", ranks.SCENARIOS)
def test_figures_speak_of_all_processes(name, one, two):
    for rank in range(2):
        seen = two[rank][name]["figures"]
        for key, value in one[name]["figures"].items():
            if key == "x0/std":  # of each process's own samples: the mean of two standard deviations
                continue
            assert seen[key] == pytest.approx(value, rel=1e-3, abs=1e-5), key


def test_masked_samples_are_counted_over_all_processes(one, two):
    expected = 3 * ranks.ITERATIONS
    assert one["masked"]["figures"]["nan_samples"] == expected
    assert [rank["masked"]["figures"]["nan_samples"] for rank in two] == [expected, expected]
    assert two[0]["masked"]["figures"]["skipped_steps"] == 0


def test_gradients_are_exchanged_once_an_update(two):
    # DDP splits so small a network into one bucket
    for name, scenario in ranks.SCENARIOS.items():
        updates = 0 if scenario.get("loss") == "sds" else scenario.get("online_updates", 1)
        wanted = {"generator": ranks.ITERATIONS, "online": ranks.ITERATIONS * updates}
        assert two[0][name]["exchanges"] == wanted, name


@pytest.mark.parametrize("name", ["accumulation"])
def test_accumulation_does_not_change_weights_or_figures(name, one):
    for key, value in one["plain"]["weights"].items():
        assert torch.allclose(value, one[name]["weights"][key], atol=1e-4), key
    for key, value in one["plain"]["figures"].items():
        if key != "x0/std":
            assert one[name]["figures"][key] == pytest.approx(value, rel=1e-3, abs=1e-5), key


def test_a_signal_to_one_process_stops_both_and_resuming_ends_as_one_process_ends(ended, tmp_path):
    straight = ranks.session(tmp_path / "straight", poison=True)
    straight.run()
    seen = [torch.load(ended / f"run-{rank}.pt", weights_only=True) for rank in range(2)]
    assert [end["stopped"] for end in seen] == [2, 2]  # where figures were due, in both
    folder = RunFolder(ended / "run")
    records = folder.metrics()
    assert [r["iteration"] for r in records if "loss/generator" in r] == [2, 4, 5]
    assert [r["iteration"] for r in records if "eval/mean" in r] == [0, 4, 5]  # a stopped run saves without a look
    for rank in range(2):
        assert seen[rank]["totals"]["nan_samples"] == straight.totals()["nan_samples"] == 3 * ranks.ITERATIONS
        for name, value in straight.generator.state_dict().items():
            assert torch.allclose(value, seen[rank]["weights"][name], atol=1e-4), name


@pytest.mark.parametrize("sharding", ["none", pytest.param("fsdp2", marks=pytest.mark.slow)])
def test_a_run_of_two_processes_writes_one_run_folder(tmp_path, sharding):
    settings = [
        "training.iterations=4", "training.batch=4", "training.log_every=2", "training.device=cpu",
        "checkpoints.every=2", "evaluation.samples=4", "evaluation.teacher_steps=1", "evaluation.preview=2",
        "evaluation.judge=none", "prompts.count=8",
    ]  # fmt: skip
    words = ["scorefield", "run", "tasks/text_to_image", *settings, "--out"]
    done = torchrun("-m", *words, str(tmp_path / "two"), f"training.sharding={sharding}")
    assert done.returncode == 0, done.stderr[-3000:]
    assert done.stderr.count("run folder: ") == 1
    assert done.stdout.count("report: ") == 1
    lines = [json.loads(line) for line in (tmp_path / "two" / "metrics.jsonl").read_text().splitlines()]
    assert [line["iteration"] for line in lines if "loss/generator" in line] == [2, 4]
    summary = json.loads((tmp_path / "two" / "summary.json").read_text())
    assert summary["images_generated"] == 16

    alone = [sys.executable, "-m", *words, str(tmp_path / "one")]
    assert subprocess.run(alone, cwd=ROOT, capture_output=True).returncode == 0
    first, second = (weights_of(tmp_path / name) for name in ("one", "two"))
    change = distance = 0.0
    for key, value in first["ema"].items():
        if "to_k.bias" in key:  # softmax does not see it: its gradient is rounding noise, which AdamW blows up
            continue
        change += (value - first["start"][key]).square().sum().item()
        distance += (value - second["ema"][key]).square().sum().item()
    assert distance < 1e-2 * change


def weights_of(run: Path) -> dict[str, dict[str, torch.Tensor]]:
    """Averaged weights of the last checkpoint and, as "start", the teacher's that they came from."""
    ema = checkpoint.load(run / "checkpoints" / "iteration-000004", ["ema"]).weights["ema"]
    start = load_file(ROOT / "assets/toybox/pipeline/transformer/diffusion_pytorch_model.safetensors")
    return {"ema": ema, "start": {f"denoiser.network.{k}": v.float() for k, v in start.items()}}
