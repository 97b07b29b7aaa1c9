"""Stages of a scene with a loss of their own, as ProlificDreamer has them: VSD, SDS on normals, VSD on the texture."""

import itertools
import json

from scorefield.cli import main
from scorefield.training import checkpoint
from tests.tasks.test_text_to_3d import run
from tests.tasks.test_text_to_3d_stages import SMALL
from tests.teachers import families

SHOWN = "geometry={resolution: 20, levels: [8], shading: {normal: 1}}"
LOSSES = "loss_stages={1: {name: sds, weighting: sigma_squared}, 3: {name: vsd}}"


def test_the_geometry_stage_goes_without_an_online_score(tmp_path):
    words = ["loss={name: vsd}", LOSSES, "training.guidance_stages={1: 100.0, 3: 7.5}", SHOWN]
    out = tmp_path / "run"
    assert run(out, *[word for word in SMALL if not word.startswith("geometry=")], *words) == 0
    lines = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    told = {line["iteration"]: "loss/online" in line for line in lines if "loss/generator" in line}
    assert told == {1: True, 2: False, 3: False, 4: True}
    weights = [checkpoint.load(out / "checkpoints" / f"iteration-{k:06d}").weights for k in (1, 2, 3, 4)]
    moved = [
        any(not before["online"][name].equal(value) for name, value in after["online"].items())
        for before, after in itertools.pairwise(weights)
    ]
    assert moved == [False, False, True]
    assert json.loads((out / "summary.json").read_text())["assets"][0]["glb"]


def test_the_published_stages_are_planned(tmp_path, capsys):
    folder = families.write("sd_eps", tmp_path / "sd")
    words = ["--config", "prolificdreamer-stages", "prompt=a red chair", f"teacher.path={folder}"]
    words += ["field.log2_size=12", "field.levels=4", "training.device=cpu"]
    assert main(["run", "text_to_3d", "--dry-run", *words, "--device-memory", "80GB"]) == 0
    out = capsys.readouterr().out
    assert "from iteration 25000 {'name': 'sds', 'weighting': 'sigma_squared'}: 5 passes an image" in out
    assert "from iteration 40000 {'name': 'vsd', 'weighting': 'sigma_squared'}: 9 passes an image" in out
    assert main(["run", "text_to_3d", "--dry-run", *words, "loss_stages={80000: {name: sds}}"]) == 2
    assert "80000 is none of the iterations 1 to 69999" in capsys.readouterr().err
