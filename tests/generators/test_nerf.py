"""The NeRF generator: what it draws, what it renders, and what it does with broken fields."""

import pytest
import torch

from scorefield.errors import UserError
from scorefield.generators.nerf import NerfGenerator, NerfSettings
from scorefield.random import Draws
from scorefield.three_d.settings import (
    BackgroundConfig,
    CameraConfig,
    FieldConfig,
    RegularizerConfig,
    RenderConfig,
    ramp,
    stage,
)

NAMED = {"grey": [0.5, 0.5, 0.5], "navy": [0.1, 0.1, 0.3]}


def told(view, ground, pose):
    return {"view": view, "ground": ground}, {"ground": ground}, {"bad": view}


def make(**sections) -> NerfGenerator:
    torch.manual_seed(0)
    base = {
        "cameras": CameraConfig([8, 30], "uniform", 30.0, [3.5, 3.8], [33, 34]),
        "field": FieldConfig(resolutions=[8], hidden=-1, blob_scale=4.0, density_scale=5.0),
        "render": RenderConfig(size={0: 8, 5: 12}, samples=24, occupancy=8, occupancy_every=2),
        "background": BackgroundConfig(learned={0: 0.0}, named=NAMED),
    }
    return NerfGenerator(NerfSettings(**(base | sections)), told, lambda x: x, lambda z: z, pixels=8)


def draws(iteration: int = 0, count: int = 8) -> Draws:
    return Draws(0, iteration, torch.arange(count))


def test_a_batch_tells_view_background_and_pose():
    batch = make().draw(draws())
    assert batch.latents["background"].shape == (8, 3)
    ground = batch.teacher_condition["ground"]
    assert set(ground.tolist()) == {0, 1}
    colours = torch.tensor(list(NAMED.values()))
    assert torch.equal(batch.latents["background"], colours[ground])
    assert torch.equal(batch.online_condition["pose"], batch.latents["c2w"].flatten(1))
    assert torch.equal(batch.negative_condition["bad"], batch.teacher_condition["view"])
    assert sorted(batch.teacher_condition["view"].tolist()) == [0, 0, 1, 1, 1, 1, 2, 2]


def test_the_online_score_is_not_told_the_camera_of_some_pictures():
    generator = make(camera_dropout=0.25)
    asked = draws(count=400)
    condition, pictures = {"pose": torch.ones(400, 16), "ground": torch.arange(400)}, torch.zeros(400, 3)
    seen, told_now = generator.online_view(pictures, condition, asked)
    assert seen is pictures
    assert torch.equal(told_now["ground"], condition["ground"])
    kept = told_now["pose"].amin(1)
    assert torch.equal(kept, told_now["pose"].amax(1))  # a pose goes whole
    assert 0.18 < 1 - kept.mean() < 0.32
    assert torch.equal(generator.online_view(pictures, condition, asked)[1]["pose"], told_now["pose"])
    assert make().online_view(pictures, condition, asked)[1] is condition
    with pytest.raises(UserError, match="camera_dropout"):
        make(camera_dropout=1.0)


def test_one_particle_is_drawn_per_iteration_and_only_it_learns():
    generator = make(particles=3)
    drawn = [generator.draw(draws(k)).latents["particle"] for k in range(60)]
    assert all(len(set(row.tolist())) == 1 for row in drawn)
    assert torch.bincount(torch.stack(drawn)[:, 0]).min() >= 10
    batch = generator.draw(draws(0))
    generator(batch).sum().backward()
    moved = [any(p.grad is not None for p in field.parameters()) for field in generator.fields]
    assert moved == [k == int(batch.latents["particle"][0]) for k in range(3)]


def test_schedules_go_by_iteration():
    generator = make()
    assert [int(generator.draw(draws(k)).latents["size"][0]) for k in (0, 4, 5, 90)] == [8, 8, 12, 12]
    assert generator(generator.draw(draws(5))).shape == (8, 3, 8, 8)  # resized to what the teacher takes
    assert [stage({0: 1, 10: 2}, k) for k in (0, 9, 10)] == [1, 1, 2]
    assert [ramp({0: 1.0, 10: 2.0}, k) for k in (0, 5, 10, 99)] == [1.0, 1.5, 2.0, 2.0]


def test_a_render_depends_on_the_draws_alone():
    generator = make(render=RenderConfig(size={0: 8}, samples=24, density_noise={0: 0.5}, occupancy=0))
    first, again, other = (generator(generator.draw(draws(k))) for k in (0, 0, 1))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


def test_the_learned_background_takes_its_share_and_learns():
    generator = make(background=BackgroundConfig(learned={0: 0.5}, named=NAMED))
    batch = generator.draw(draws(0, 400))
    share = batch.latents["learned"].float().mean().item()
    assert 0.4 < share < 0.6
    assert torch.equal(batch.teacher_condition["ground"] < 0, batch.latents["learned"])
    generator(generator.draw(draws(0))).sum().backward()
    assert all(p.grad is not None for p in generator.fields[0].sky.parameters())
    assert len(generator.parameter_groups()) == 2  # without heads: grid and background


def test_regularizers_are_weighted_and_named():
    generator = make(regularizers=RegularizerConfig(entropy={0: 0.0, 10: 2.0}, orientation={0: 1.0}))
    batch = generator.draw(draws(5))
    terms = generator.regularize(generator(batch), batch, 5)
    assert set(terms) == {"entropy", "orientation"}
    late = generator.regularize(None, batch, 10)
    assert late["entropy"].item() == pytest.approx(2 * terms["entropy"].item())


def test_the_round_trip_pulls_the_picture_to_what_the_decoder_makes():
    render = RenderConfig(size={0: 8}, samples=24, occupancy=0, encoder_gradient="decoder")
    generator = make(render=render, regularizers=RegularizerConfig(roundtrip={0: 1.0}))
    generator.decode = lambda z: z.mean((2, 3), keepdim=True).expand_as(z)
    batch = generator.draw(draws())
    x0 = generator(batch)
    terms = generator.regularize(x0, batch, 0)
    wanted = (x0 - x0.mean((2, 3), keepdim=True)).square().sum() / 2 / len(x0)
    assert terms["roundtrip"].item() == pytest.approx(wanted.item(), rel=1e-4)


def test_a_field_with_nan_gives_rows_that_the_trainer_masks():
    generator = make()
    generator.fields[0].grid.levels[0].data.fill_(float("nan"))
    assert generator(generator.draw(draws())).isnan().flatten(1).any(1).all()


def test_occupancy_follows_the_field_and_is_saved():
    generator = make()
    before = generator.grids[0].estimator.binaries.float().mean()
    for k in range(8):
        generator.after_step(k)
    after = generator.grids[0].estimator.binaries.float().mean()
    assert after < before
    copy = make()
    copy.load_state_dict(generator.state_dict())
    assert torch.equal(copy.grids[0].estimator.binaries, generator.grids[0].estimator.binaries)


@pytest.mark.parametrize(
    "broken",
    [
        lambda: CameraConfig(elevation=[30, 8]),
        lambda: CameraConfig(elevation_law="areal"),
        lambda: CameraConfig(up_jitter=-0.1),
        lambda: RenderConfig(size={5: 64}),
        lambda: RenderConfig(encoder_gradient="none"),
        lambda: BackgroundConfig(named={"grey": [1.0, 2.0, 0.0]}),
        lambda: FieldConfig(grid="octree"),
        lambda: NerfSettings(particles=0),
    ],
)
def test_impossible_settings_are_refused(broken):
    with pytest.raises(UserError):
        broken()
