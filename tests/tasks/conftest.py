"""A finished run of a small student that is an adapter, for what is done with runs afterwards."""

import shutil

import pytest


@pytest.fixture(scope="session")
def finished(tmp_path_factory):
    from scorefield.cli import main
    from tests.teachers import families

    root = tmp_path_factory.mktemp("finished")
    (root / "prompts.txt").write_text("\n".join(f"a red thing number {k}" for k in range(20)))
    settings = {
        "teacher.path": families.write("pixart_sigma", root / "teacher"),
        "teacher.max_tokens": families.TOKENS,
        "prompts.path": root / "prompts.txt",
        "training.iterations": 1,
        "training.batch": 2,
        "training.device": "cpu",
        "evaluation.samples": 4,
        "evaluation.teacher_steps": 2,
        "evaluation.preview": 2,
        "evaluation.judge": "none",
        "generator.kind": "lora",
        "generator.lora_rank": 2,
    }
    words = [f"{key}={value}" for key, value in settings.items()]
    assert main(["run", "text_to_image", "--out", str(root / "run"), *words]) == 0
    return root / "run"


@pytest.fixture
def run(finished, tmp_path):
    """A copy of it, to be changed."""
    return shutil.copytree(finished, tmp_path / "run")
