"""A field asked in chunks gives the same picture and gradients, and keeps a fraction of the graph."""

import pytest
import torch

from scorefield.errors import UserError
from scorefield.generators.nerf import NerfGenerator, NerfSettings
from scorefield.random import Draws
from scorefield.three_d.chunks import in_chunks
from scorefield.three_d.settings import FieldConfig, RegularizerConfig, RenderConfig


def generator(chunk: int, grid: str, occupancy: int) -> NerfGenerator:
    """Fields with every part that a training render asks: heads, sky, noise, normals."""
    torch.manual_seed(0)
    settings = NerfSettings(
        field=FieldConfig(grid=grid, levels=8, features=2, log2_size=10, resolutions=[8, 16], hidden=8),
        render=RenderConfig(size={0: 12}, samples=32, density_noise={0: 0.5}, occupancy=occupancy, chunk=chunk),
        regularizers=RegularizerConfig(orientation={0: 1.0}, entropy={0: 1.0}),
    )
    return NerfGenerator(settings, lambda view, ground, pose: ({}, {}, {}), lambda x: x, lambda z: z, 12)


def update(made: NerfGenerator) -> tuple[torch.Tensor, int]:
    """(the pictures, bytes that the graph keeps beside the parameters) of one backward pass."""
    own = {p.untyped_storage().data_ptr() for p in made.parameters()}
    kept: dict[int, torch.Tensor] = {}

    def pack(value):
        kept.setdefault(value.untyped_storage().data_ptr(), value)
        return value

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda value: value):
        batch = made.draw(Draws(0, 0, torch.arange(2)))
        x0 = made(batch)
        total = (x0 * torch.linspace(-1, 1, x0.numel()).view_as(x0)).sum()
        total = total + sum(made.regularize(x0, batch, 0).values())
    total.backward()
    return x0.detach(), sum(value.untyped_storage().nbytes() for place, value in kept.items() if place not in own)


@pytest.mark.parametrize("occupancy", [0, 4])
@pytest.mark.parametrize("grid", ["hash", "dense"])
def test_chunks_change_memory_and_nothing_else(grid, occupancy):
    whole, parted = generator(0, grid, occupancy), generator(500, grid, occupancy)
    (one, all_of_it), (two, little) = update(whole), update(parted)
    assert len(whole.seen.points) > 4 * 500
    torch.testing.assert_close(two, one, atol=1e-6, rtol=1e-6)
    for (name, wanted), given in zip(whole.named_parameters(), parted.parameters(), strict=True):
        assert wanted.grad.abs().max() > 0, name
        torch.testing.assert_close(given.grad, wanted.grad, atol=1e-6 * wanted.grad.abs().max().item(), rtol=1e-4)
    assert little < (0.25 if grid == "hash" else 0.6) * all_of_it


def test_without_a_graph_nothing_is_computed_twice():
    asked = []

    def ask(rows, noise):
        asked.append(len(rows))
        return rows if noise is None else rows * noise, rows[:, 0]

    rows, noise = torch.arange(14.0, requires_grad=True).view(7, 2), torch.full((7, 2), 2.0)
    with torch.no_grad():
        first, second = in_chunks(ask, 3, rows, noise)
        plain, _ = in_chunks(ask, 3, rows, None)
    assert torch.equal(first, 2 * rows)
    assert torch.equal(second, rows[:, 0])
    assert torch.equal(plain, rows)
    assert asked == [3, 3, 1] * 2
    in_chunks(ask, 3, rows, noise)[0].sum().backward()
    assert asked[6:] == [3, 3, 1, 1, 3, 3]
    assert in_chunks(ask, 3, rows[:0], None)[0].shape == (0, 2)


def test_an_impossible_chunk_is_refused():
    with pytest.raises(UserError, match="chunk at least 0"):
        RenderConfig(chunk=-1)
