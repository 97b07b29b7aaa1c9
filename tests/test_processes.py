"""The end of a process that exchanged with others."""

import pytest
import torch.distributed as dist

from scorefield import cli, processes


@pytest.fixture
def group(tmp_path):
    """A process group of one."""
    dist.init_process_group("gloo", init_method=f"file://{tmp_path}/meet", rank=0, world_size=1)
    yield
    if dist.is_initialized():
        dist.destroy_process_group()


def test_leaving_ends_the_exchange_and_may_be_said_twice(group):
    assert dist.is_initialized()
    processes.leave()
    assert not dist.is_initialized()
    processes.leave()


def test_a_finished_command_leaves(group, capsys):
    assert cli.main(["list"]) == 0
    assert not dist.is_initialized()


def test_a_command_that_failed_does_not_wait_for_the_others(group, capsys):
    assert cli.main(["list", "--nothing"]) == 2
    assert dist.is_initialized()
