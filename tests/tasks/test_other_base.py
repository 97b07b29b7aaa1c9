"""A LoRA for another base: refused with both bases named, wherever adapters are used again."""

import json
import shutil

import pytest
import torch
from safetensors.torch import load_file, save_file

from scorefield.cli import main
from scorefield.errors import UserError
from scorefield.evaluation.peers import Peer, PeerConfig
from scorefield.runfolder import RunFolder
from scorefield.teachers import base_weights
from tasks.text_to_image import export
from tests.tasks.test_exports import adapted
from tests.teachers import families

WEIGHTS = "transformer/diffusion_pytorch_model.safetensors"
REST = ["generator.kind=lora", "generator.lora_rank=2", "evaluation.judge=none", "training.device=cpu"]
REST += ["training.batch=2", "training.iterations=1", "evaluation.samples=2", "evaluation.teacher_steps=1"]
REST += ["evaluation.preview=2", f"teacher.max_tokens={families.TOKENS}"]


def refined(run, folder):
    """The teacher's folder with weights of the same shapes that are a little different."""
    shutil.copytree(run.parent / "teacher" if (run.parent / "teacher").exists() else run, folder)
    state = load_file(folder / WEIGHTS)
    name = next(key for key in state if key.endswith("to_q.weight"))
    save_file(state | {name: state[name] + 0.01}, folder / WEIGHTS)
    return folder


@pytest.fixture
def other(finished, tmp_path):
    return refined(finished, tmp_path / "other")


def start(finished, tmp_path, teacher, *more: str) -> int:
    words = [f"teacher.path={teacher}", f"prompts.path={finished.parent / 'prompts.txt'}", *REST, *more]
    return main(["run", "text_to_image", "--out", str(tmp_path / "new"), f"generator.init={finished}", *words])


def test_a_run_does_not_start_from_adapters_of_another_base(finished, other, tmp_path, capsys):
    assert start(finished, tmp_path, other) == 2
    said = capsys.readouterr().err.strip().splitlines()[-1]
    noted = json.loads((finished / "base.json").read_text())
    assert f"the LoRA of {finished} is for another base" in said
    assert noted["network"] in said
    assert f"of {finished.parent / 'teacher'}, and {other} has" in said


def test_the_same_base_is_taken_from_another_place_in_another_type(finished, tmp_path):
    same = shutil.copytree(finished.parent / "teacher", tmp_path / "same")
    assert start(finished, tmp_path, same, "teacher.dtype=bfloat16") == 0
    assert json.loads((tmp_path / "new" / "base.json").read_text())["teacher"] == str(same)


def test_pictures_are_not_made_with_adapters_on_a_base_that_changed(run, finished, tmp_path, capsys):
    other = refined(finished, tmp_path / "other")
    config = (run / "config.yaml").read_text()
    (run / "config.yaml").write_text(config.replace(str(finished.parent / "teacher"), str(other)))
    assert main(["sample", str(run), "a red thing"]) == 2
    assert "is for another base" in capsys.readouterr().err


def test_a_digest_is_of_weights_alone():
    network = torch.nn.Linear(3, 2)
    before = base_weights.digest(network)
    assert base_weights.digest(torch.nn.Linear(3, 2)) != before
    assert base_weights.digest(network.bfloat16()) == before


@pytest.fixture(scope="module")
def bases(tmp_path_factory):
    """Pipelines by family, and a LoRA for each."""
    root, found = tmp_path_factory.mktemp("bases"), {}
    for name in ("sd_eps", "sdxl", "sd3"):
        ours = families.teacher(name, families.write(name, root / name))
        (root / f"run-{name}").mkdir()
        (root / f"run-{name}" / "config.yaml").write_text("task: text_to_image\n")
        folder = RunFolder(root / f"run-{name}")
        out = export.write(ours, adapted(ours), folder, root / f"run-{name}" / "export", export.Wanted("lora"))
        found[name] = (str(root / name), str(out / "lora"))
    return found


@pytest.mark.parametrize(
    ("base", "lora", "why"),
    [("sd3", "sd_eps", "none of its layers is one of a"), ("sd_eps", "sdxl", "from checkpoint, the shape in current")],
)
def test_a_peers_lora_for_another_base_is_no_row_of_the_bare_one(base, lora, why, bases):
    Peer(PeerConfig(bases[base][0], lora=bases[base][1]), "cpu")  # its own is taken
    with pytest.raises(UserError) as caught:
        Peer(PeerConfig(bases[base][0], lora=bases[lora][1]), "cpu")
    assert f"is for another base than {bases[base][0]}: " in str(caught.value)
    assert why in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_peers_lora_that_does_not_exist(bases):
    with pytest.raises(UserError, match=r"the LoRA /nowhere/x\.safetensors does not exist"):
        Peer(PeerConfig(bases["sd_eps"][0], lora="/nowhere/x.safetensors"), "cpu")
