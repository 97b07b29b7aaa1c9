"""Roles in shares: what processes that each hold a part train is what one trains whole, and any number resumes it."""

import errno
import shutil

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
    """One process without sharding, from first to last iteration."""
    run = ranks.session(tmp_path_factory.mktemp("straight"), poison=True, deep=True)
    run.run()
    return run


@pytest.mark.parametrize("name", ranks.SHARDED)
def test_shares_train_to_the_same_weights_and_figures(name, one, two):
    start = ranks.make(**ranks.SHARDED[name]).generator.state_dict()
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


def test_a_run_of_two_stops_resumes_and_is_looked_at_like_any_other(ended, straight):
    seen = [torch.load(ended / f"sharded-run-{rank}.pt", weights_only=True) for rank in range(2)]
    assert [end["stopped"] for end in seen] == [2, 2]
    records = ranks.RunFolder(ended / "sharded").metrics()
    before = straight.folder.metrics()
    assert [r["iteration"] for r in records if "eval/mean" in r] == [0, 4, 5]
    looks = {r["iteration"]: r["eval/mean"] for r in before if "eval/mean" in r}
    for record in records:
        if "eval/mean" in record:  # the averaged weights, gathered for the look
            assert record["eval/mean"] == pytest.approx(looks[record["iteration"]], abs=1e-5)
    for rank in range(2):
        assert seen[rank]["totals"]["nan_samples"] == straight.totals()["nan_samples"]
        for name, value in straight.generator.state_dict().items():
            assert torch.allclose(value, seen[rank]["weights"][name], rtol=0, atol=ROUNDING), name


def at_two(ended, path):
    """A copy of the run that ends with the checkpoint that two processes wrote at its second iteration."""
    shutil.copytree(ended / "sharded", path)
    for later in checkpoint.listed(path / "checkpoints")[:-1]:
        shutil.rmtree(later)
    assert [p.name for p in checkpoint.listed(path / "checkpoints")] == ["iteration-000002"]
    return path


def matches(found, straight):
    for part, values in found.items():
        for name, value in straight.weights()[part].items():
            assert torch.allclose(value, values[name], rtol=0, atol=ROUNDING), (part, name)


def test_one_process_resumes_what_two_have_saved(ended, tmp_path, straight):
    matches(ranks.resumed_run(at_two(ended, tmp_path / "sharded")), straight)


@pytest.mark.slow
@pytest.mark.parametrize("processes", [2, 4])
def test_other_numbers_of_processes_resume_what_two_have_saved(processes, ended, tmp_path, straight):
    at_two(ended, tmp_path / "sharded")
    done = torchrun("-m", "tests.training.ranks", "resumed", str(tmp_path), processes=processes)
    assert done.returncode == 0, done.stderr[-3000:]
    for rank in range(processes):
        matches(torch.load(tmp_path / f"resumed-{rank}.pt", weights_only=True), straight)
    # and what four have written goes on in one
    last = checkpoint.newest_whole(tmp_path / "sharded" / "checkpoints")
    assert last.name == "iteration-000005"
    assert len(list((last / "shards").glob("*.distcp"))) == processes
    matches({"ema": checkpoint.load(last, ["ema"]).weights["ema"]}, straight)


def test_the_average_of_a_sharded_checkpoint_reads_like_any_other(ended, straight):
    saved = checkpoint.load(ended / "sharded" / "checkpoints" / "iteration-000005", ["ema"])
    assert saved.iteration == 5
    assert set(saved.weights) == {"ema"}
    matches(saved.weights, straight)


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


# ---------------------------------------------------------------------- what is sharded


def test_lora_roles_and_generators_without_a_network_are_refused():
    online, teacher = with_lora(ranks.Network(), 2, ("body.0",))
    student = ranks.players().generator
    with pytest.raises(UserError, match=r"LoRA roles on the teacher's weights .* use training\.sharding=none"):
        Trainer(ranks.training(sharding="fsdp2"), teacher, online, student, losses.build("sim"))
    shared = ranks.Network()
    with pytest.raises(UserError, match="teacher and online score are not: they share weights"):
        Trainer(ranks.training(sharding="fsdp2"), shared, shared, student, losses.build("sim"))
    particles = Particles(torch.zeros(2, 3, 4, 4))
    three = ranks.Network(), full_copy(ranks.Network()), particles
    with pytest.raises(UserError, match="a Particles is not"):
        Trainer(ranks.training(sharding="fsdp2"), *three, losses.build("sim"))


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
