"""Roles in shares: what processes that each hold a part train is what one trains whole, and any number resumes it."""

import errno
import shutil
import threading

import pytest
import torch
from torch import nn

from scorefield import losses
from scorefield.errors import UserError
from scorefield.generators.particles import Particles
from scorefield.teachers.online import full_copy, with_lora
from scorefield.training import checkpoint, shards
from scorefield.training.sharding import blocks, innermost
from scorefield.training.trainer import Trainer

from . import ranks
from .conftest import torchrun
from .test_ranks import ROUNDING


@pytest.fixture(scope="module")
def two(ended):
    """What each of two processes ended with, by scenario."""
    return [torch.load(ended / f"sharded-{rank}.pt", weights_only=True) for rank in range(2)]


@pytest.fixture(scope="module")
def one():
    return {name: ranks.finish(name, ranks.SHARDED) for name in ranks.SHARDED}


@pytest.fixture(scope="module")
def straight(tmp_path_factory):
    """One process without sharding, from first to last iteration: a run by the name of its sharded twin."""
    found = {name: ranks.session(tmp_path_factory.mktemp(name), **settings) for name, settings in ranks.RUNS.items()}
    for run in found.values():
        run.run()
    return found


@pytest.mark.parametrize("name", ranks.SHARDED)
def test_shares_train_to_the_same_weights_and_figures(name, one, two):
    start = dict(ranks.make(**ranks.SHARDED[name]).generator.named_parameters())
    moved = [(one[name]["weights"][f"generator.{n}"] - v).abs().max() for n, v in start.items() if "blocks" in n]
    assert min(moved) > 0.001  # every block has something to compare
    for rank in range(2):
        for key, value in one[name]["weights"].items():
            assert torch.allclose(value, two[rank][name]["weights"][key], rtol=0, atol=ROUNDING), key
        for key, value in one[name]["figures"].items():
            if key != "x0/std":  # of each process's own samples
                assert two[rank][name]["figures"][key] == pytest.approx(value, rel=1e-3, abs=1e-5), key


def test_each_process_holds_half_of_weights_moments_and_average(one, two):
    for name in ranks.SHARDED:
        for what, total in one[name]["bytes"].items():
            held = [two[rank][name]["bytes"][what] for rank in range(2)]
            steps = 4 * (0 if what != "moments" else 2 * 12)  # AdamW's step counts, one number a tensor, in both
            assert sum(held) == total + steps, what
            assert max(held) < 0.62 * total, what  # an odd number of rows divides unevenly


def test_frozen_networks_are_left_without_gradients(two):
    for rank in range(2):
        for name in ranks.SHARDED:
            assert two[rank][name]["gradients left"] == [], name


@pytest.mark.parametrize("name", ranks.RUNS)
def test_a_run_of_two_stops_resumes_and_is_looked_at_like_any_other(name, ended, straight):
    seen = [torch.load(ended / f"{name}-run-{rank}.pt", weights_only=True) for rank in range(2)]
    assert [end["stopped"] for end in seen] == [2, 2]
    records = ranks.RunFolder(ended / name).metrics()
    before = straight[name].folder.metrics()
    assert [r["iteration"] for r in records if "eval/mean" in r] == [0, 4, 5]
    looks = {r["iteration"]: r["eval/mean"] for r in before if "eval/mean" in r}
    for record in records:
        if "eval/mean" in record:  # the averaged weights, gathered for the look
            assert record["eval/mean"] == pytest.approx(looks[record["iteration"]], abs=1e-5)
    for rank in range(2):
        assert seen[rank]["totals"]["nan_samples"] == straight[name].totals()["nan_samples"]
        for key, value in straight[name].generator.state_dict().items():
            assert torch.allclose(value, seen[rank]["weights"][key], rtol=0, atol=ROUNDING), key


def at_two(ended, path, name="sharded"):
    """A copy of a run that ends with the checkpoint that two processes wrote at its second iteration."""
    shutil.copytree(ended / name, path)
    for later in checkpoint.listed(path / "checkpoints")[:-1]:
        shutil.rmtree(later)
    assert [p.name for p in checkpoint.listed(path / "checkpoints")] == ["iteration-000002"]
    return path


def matches(found, straight):
    for part, values in found.items():
        for name, value in straight.weights()[part].items():
            assert torch.allclose(value, values[name], rtol=0, atol=ROUNDING), (part, name)


@pytest.mark.parametrize("name", ranks.RUNS)
def test_one_process_resumes_what_two_have_saved(name, ended, tmp_path, straight):
    at_two(ended, tmp_path / name, name)
    matches(ranks.resumed_run(tmp_path / name, **ranks.RUNS[name]), straight[name])


@pytest.mark.slow
@pytest.mark.parametrize("processes", [2, 4])
def test_other_numbers_of_processes_resume_what_two_have_saved(processes, ended, tmp_path, straight):
    for name in ranks.RUNS:
        at_two(ended, tmp_path / name, name)
    done = torchrun("-m", "tests.training.ranks", "resumed", str(tmp_path), processes=processes)
    assert done.returncode == 0, done.stderr[-3000:]
    for name in ranks.RUNS:
        for rank in range(processes):
            matches(torch.load(tmp_path / f"resumed-{rank}.pt", weights_only=True)[name], straight[name])
        # and what four have written goes on in one
        last = checkpoint.newest_whole(tmp_path / name / "checkpoints")
        assert last.name == "iteration-000005"
        assert len(list((last / "shards").glob("*.distcp"))) == processes
        matches({"ema": checkpoint.load(last, ["ema"]).weights["ema"]}, straight[name])


@pytest.mark.parametrize("name", ranks.RUNS)
def test_the_average_of_a_sharded_checkpoint_reads_like_any_other(name, ended, straight):
    saved = checkpoint.load(ended / name / "checkpoints" / "iteration-000005", ["ema"])
    assert saved.iteration == 5
    assert set(saved.weights) == {"ema"}
    matches(saved.weights, straight[name])


def test_damaged_shares_are_passed_over(ended, tmp_path):
    said = []
    root = shutil.copytree(ended / "sharded" / "checkpoints", tmp_path / "checkpoints")
    share = root / "iteration-000005" / "shards" / "__1_0.distcp"
    share.write_bytes(share.read_bytes()[:-1])
    assert checkpoint.newest_whole(root, said.append).name == "iteration-000004"
    assert "shards/__1_0.distcp is truncated or changed" in said[0]
    with pytest.raises(UserError, match="cannot be used"):
        checkpoint.load(root / "iteration-000005", ["ema"])


def test_a_checkpoint_of_the_other_kind_or_of_other_networks_is_refused(ended, tmp_path):
    with pytest.raises(UserError, match=r"iteration-000002 was written with training\.sharding=fsdp2"):
        ranks.session(at_two(ended, tmp_path / "whole"), poison=True, deep=True).resume()
    with pytest.raises(UserError, match=r"does not fit: .*blocks"):
        ranks.session(at_two(ended, tmp_path / "shallow"), poison=True, sharding="fsdp2").resume()


def test_a_full_disk_leaves_the_earlier_checkpoint(tmp_path, monkeypatch):
    run = ranks.session(tmp_path, sharding="fsdp2")
    run.save()

    def full(path):
        raise OSError(errno.ENOSPC, "No space left on device")

    run.iteration = 2
    monkeypatch.setattr(shards, "checksum", full)
    with pytest.raises(UserError, match=r"iteration-000002: No space left on device \(earlier ones are untouched"):
        run.save()
    assert [path.name for path in (tmp_path / "checkpoints").iterdir() if path.is_dir()] == ["iteration-000000"]
    assert checkpoint.damage(tmp_path / "checkpoints" / "iteration-000000") == ""


def test_a_failed_write_in_a_library_says_why(tmp_path, monkeypatch):
    def failing(*given, **options):
        raise shards.dcp.CheckpointException("save", {1: (OSError(errno.ENOSPC, "No space left on device"), None)})

    monkeypatch.setattr(shards.dcp, "save", failing)
    with pytest.raises(UserError, match="process 1: No space left on device"):
        ranks.session(tmp_path, sharding="fsdp2").save()


def test_shares_are_written_behind_training_from_a_copy(tmp_path, monkeypatch):
    run = ranks.session(tmp_path, sharding="fsdp2", asynchronous=True)
    real, going = shards.dcp.save, threading.Event()

    def waiting(*given, **options):
        assert going.wait(60)
        return real(*given, **options)

    monkeypatch.setattr(shards.dcp, "save", waiting)
    before = ranks.plain(run.generator.state_dict())
    run.save()  # returns at once: nothing lets the writing go on yet
    assert checkpoint.listed(tmp_path / "checkpoints") == []
    run.trainer.iteration(0)
    going.set()
    run.writer.wait()
    saved = checkpoint.load(tmp_path / "checkpoints" / "iteration-000000", ["generator"]).weights["generator"]
    assert any(not torch.equal(value, run.generator.state_dict()[key]) for key, value in before.items())
    assert all(torch.equal(value, saved[key]) for key, value in before.items())
    assert (tmp_path / "checkpoints" / "latest.txt").read_text().strip() == "iteration-000000"


# ---------------------------------------------------------------------- what is sharded


def test_weights_that_no_pass_of_a_network_gathers_are_refused():
    student = ranks.players().generator
    shared = ranks.Network()
    with pytest.raises(UserError, match="teacher and online score are not: they share weights"):
        Trainer(ranks.training(sharding="fsdp2"), shared, shared, student, losses.build("sim"))
    particles = Particles(torch.zeros(2, 3, 4, 4))
    three = ranks.Network(), full_copy(ranks.Network()), particles
    with pytest.raises(UserError, match="a Particles is not"):
        Trainer(ranks.training(sharding="fsdp2"), *three, losses.build("sim"))
    online, teacher = with_lora(ranks.Network(), 2, ("body.0",))
    online.beside = nn.Linear(2, 2)
    with pytest.raises(
        UserError, match=r"LoRA roles with weights beside the adapter \(here the online score\) are not"
    ):
        Trainer(ranks.training(sharding="fsdp2"), teacher, online, student, losses.build("sim"))


def test_adapters_exchange_gradients_in_the_last_accumulation_step_alone(monkeypatch):
    """Their gradients are small enough to wait whole; those of whole networks are exchanged in every step."""
    asked = []

    class Root(nn.Module):
        def set_requires_gradient_sync(self, last):
            asked.append(last)

    trainer = ranks.make(deep=True, lora=ranks.BOTH, accumulation=4, sharding="fsdp2")
    assert trainer.sharding.late == []  # alone, there is nobody to exchange with
    trainer.sharding.late = [Root()]
    trainer.iteration(0)
    assert asked == [False, False, False, True] * 2  # the online score's update, then the generator's


def test_an_unknown_sharding_is_refused():
    with pytest.raises(UserError, match=r'training\.sharding "fsdp" is unknown: did you mean "fsdp2"'):
        ranks.training(sharding="fsdp")


def test_blocks_are_what_diffusers_never_splits_else_what_stands_in_lists():
    from diffusers import PixArtTransformer2DModel

    network = PixArtTransformer2DModel(
        num_layers=3, num_attention_heads=2, attention_head_dim=4, in_channels=4, out_channels=4, sample_size=4,
        cross_attention_dim=8, caption_channels=8, patch_size=2,
    )  # fmt: skip
    found = blocks(network)
    assert found == [network.pos_embed, *network.transformer_blocks]
    nested = nn.ModuleDict(
        {"a": nn.Linear(1, 1), "b": nn.ModuleList([nn.Sequential(nn.ModuleList([nn.Linear(1, 1)]))])}
    )
    assert blocks(nn.Sequential(nested)) == [nested["a"], nested["b"][0]]


def test_a_role_is_sharded_at_the_network_that_holds_all_its_parameters():
    generator = ranks.players().generator
    assert innermost(generator) is generator.denoiser
    generator.denoiser.network = nn.Linear(1, 1)
    assert innermost(generator) is generator.denoiser  # the network inside it does not hold all
