"""A real comparison of two losses on the embedded teacher, as small as it gets, with one variant that fails."""

import json
import re

import pytest
import torch
from safetensors.torch import save_file

from scorefield.cli import main

TINY = [
    "training.iterations=3",
    "training.batch=2",
    "training.log_every=1",
    "checkpoints.every=3",
    "evaluation.samples=8",
    "evaluation.teacher_steps=1",
    "evaluation.preview=2",
    "prompts.count=8",
    "training.device=cpu",
]


@pytest.fixture(scope="module")
def compared(tmp_path_factory):
    """(words, folder, exit status) of the comparison."""
    out = tmp_path_factory.mktemp("compare") / "two"
    broken = out.parent / "weights.safetensors"
    save_file({"other": torch.zeros(1)}, broken)  # whole, so that the check passes, and of another network
    words = ["compare", "--variant", "sim: loss.name=sim", "--variant", "dmd: loss.name=dmd"]
    words += ["--variant", f"broken: generator.init={broken}", "--out", str(out), "--jobs", "3", *TINY]
    return words, out, main(words)


def test_two_losses_side_by_side(compared):
    _, out, status = compared
    assert status == 1  # one variant failed
    record = json.loads((out / "comparison.json").read_text())
    states = {v["name"]: v["runs"][0]["state"] for v in record["variants"]}
    assert states == {"sim": "done", "dmd": "done", "broken": "failed"}
    assert "the saved generator does not fit" in record["variants"][2]["runs"][0]["error"]
    figures = {v["name"]: v["figures"] for v in record["variants"]}
    for name, passes in (("sim", 15), ("dmd", 12)):
        assert figures[name]["images"]["mean"] == 6
        assert figures[name]["network_evaluations"]["mean"] == 6 * passes
        assert {"prompt_accuracy", "frechet", "recall", "diversity", "x0_gap", "seconds"} <= set(figures[name])
        assert (out / f"{name}-seed0" / "report.html").exists()
    # same start, same prompts, same noise: what is measured before the first update is the same
    first = [json.loads((out / f"{n}-seed0" / "metrics.jsonl").read_text().split("\n")[0]) for n in ("sim", "dmd")]
    assert {key: v for key, v in first[0].items() if "eval" in key} == {
        key: v for key, v in first[1].items() if "eval" in key
    }
    assert {"eval/prompt_accuracy", "eval/frechet", "eval/recall", "eval/precision", "eval/diversity"} <= set(first[0])


def test_its_page(compared):
    _, out, _ = compared
    text = (out / "compare.html").read_text()
    links = re.findall(r'(?:src|href)="([^"]*)"', text)
    assert all(link.startswith("data:") or link.endswith("-seed0/report.html") for link in links)
    assert "2 of 3 runs done, 1 failed" in text
    assert text.count("<img") == 3 * 2  # teacher, sim, dmd; two prompts
    for title in (
        "recall while training",
        "generator&#39;s gradient norm",
        "|D_teacher − D_online| at generated images",
    ):
        assert text.count(f"<h3>{title}</h3>") == 3  # once an axis


def test_a_used_folder_is_refused_and_resuming_repeats_nothing(compared, capsys):
    words, out, _ = compared
    assert main(words) == 2
    assert "already holds a comparison" in capsys.readouterr().err
    kept = {path: path.stat().st_mtime_ns for path in out.glob("*/summary.json")}
    assert len(kept) == 2
    again = ["compare", "--resume", "--out", str(out)]
    # a mended variant takes the place of the one that never began; what is finished stands
    assert main([*again, "--variant", "broken: loss.name=dmd loss.weighting=none"]) == 0
    kept_now = {path: path.stat().st_mtime_ns for path in out.glob("*/summary.json")}
    assert len(kept_now) == 3
    assert kept.items() <= kept_now.items()
    lines = (out / "broken-seed0" / "metrics.jsonl").read_text().splitlines()
    assert [json.loads(line)["iteration"] for line in lines] == [0, 1, 2, 3, 3]
    assert main(again) == 0
    assert {path: path.stat().st_mtime_ns for path in out.glob("*/summary.json")} == kept_now
    record = json.loads((out / "comparison.json").read_text())
    assert [v["name"] for v in record["variants"]] == ["sim", "dmd", "broken"]
    assert record["asked"]["common"] == TINY
    capsys.readouterr()
    assert main([*again, "training.guidance_scale=3"]) == 2
    assert "sim-seed0 was run with other settings: training.guidance_scale (1.75 → 3.0)" in capsys.readouterr().err
