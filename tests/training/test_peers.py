"""The other processes: what is refused before they start, and what is said when one is gone."""

import re

import pytest
import torch

from scorefield.cli import main
from scorefield.errors import UserError
from scorefield.processes import check_launch
from scorefield.training import checkpoint
from scorefield.training.peers import PeerLost, mixed, watched

from . import ranks
from .conftest import torchrun
from .test_ranks import ROUNDING


def test_a_batch_that_does_not_fit_the_processes_is_refused_by_the_first_alone(monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "8")
    check_launch(64, 4)
    with pytest.raises(UserError, match="batch 4 is less than one sample for each of 8 processes: raise it to 8"):
        check_launch(4, 1)
    with pytest.raises(
        UserError, match="60 does not divide among 8 processes times 2 accumulation steps: use 48 or 64"
    ):
        check_launch(60, 2)
    monkeypatch.setenv("RANK", "3")
    with pytest.raises(SystemExit) as stop:
        check_launch(4, 1)
    assert stop.value.code == 2


def test_more_processes_than_prompts_are_refused(monkeypatch, tmp_path, capsys):
    (tmp_path / "prompts.txt").write_text("a red chair\na blue robot\n")
    monkeypatch.setenv("WORLD_SIZE", "4")
    words = ["run", "text_to_image", "--dry-run", f"prompts.path={tmp_path / 'prompts.txt'}", "training.batch=8"]
    monkeypatch.setattr("scorefield.commands.run.resolve_device", lambda device: "cpu")  # would wait for three others
    assert main([*words, "evaluation.judge=none"]) == 2
    said = capsys.readouterr().err
    assert "4 processes are more than the 2 prompts" in said
    assert len(said.strip().splitlines()) == 1


def test_a_launcher_that_shards_on_its_own_is_refused(monkeypatch):
    monkeypatch.setenv("ACCELERATE_USE_FSDP", "true")
    with pytest.raises(UserError, match=r"told to use FSDP.*training\.sharding=fsdp2"):
        check_launch(8, 1)


def test_unlike_devices_are_named_with_their_processes():
    assert mixed(["NVIDIA H100"] * 4) == mixed(["cpu"]) == ""
    text = mixed(["NVIDIA H100", "NVIDIA A100", "NVIDIA H100"])
    assert "NVIDIA H100 (processes 0, 2), NVIDIA A100 (process 1)" in text


def test_an_exchange_that_breaks_off_names_the_last_checkpoint(tmp_path):
    run = ranks.session(tmp_path)
    run.save()
    broken = RuntimeError("[gloo/transport/tcp/pair.cc:547] Connection closed by peer [127.0.0.1]:1234")
    with pytest.raises(RuntimeError, match="closed by peer"), watched(run, "again"):
        raise broken  # a process alone has no peers: a mistake of our own
    run.trainer.accelerator = Two()
    told = r"process 1 of 2 stops at iteration 0; .* iteration-000000; go on with: again"
    with pytest.raises(PeerLost, match=told), watched(run, "again"):
        raise broken
    with pytest.raises(RuntimeError, match="shapes"), watched(run, "again"):
        raise RuntimeError("shapes do not fit")


class Two:
    """Stands for accelerate's object in the second of two processes."""

    num_processes, process_index = 2, 1


@pytest.mark.slow
def test_a_killed_process_ends_the_other_and_the_run_goes_on_to_the_same_end(tmp_path):
    done = torchrun("-m", "tests.training.ranks", "lost", str(tmp_path), timeout=60)
    assert done.returncode != 0
    said = re.findall(r"another process of this run has ended.*", done.stderr)
    assert len(said) == 1
    assert "process 0 of 2 stops at iteration" in said[0]
    assert "the last checkpoint is iteration-000002" in said[0]
    assert checkpoint.newest_whole(tmp_path / "lost" / "checkpoints").name == "iteration-000002"
    again, straight = ranks.session(tmp_path / "lost", poison=True), ranks.session(tmp_path / "straight", poison=True)
    assert again.resume()
    again.run()
    straight.run()
    for part in ("generator", "ema", "online"):
        for name, value in straight.weights()[part].items():
            assert torch.allclose(value, again.weights()[part][name], rtol=0, atol=ROUNDING), (part, name)
