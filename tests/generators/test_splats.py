"""Gaussian splats: pictures and gradients against other computations, growth that keeps the optimizer's moments."""

import copy
import dataclasses
import math

import pytest
import torch
from torch import nn

from scorefield.denoiser import Denoiser
from scorefield.errors import UserError
from scorefield.generators.nerf import NerfSettings
from scorefield.generators.splats import PARTS, DensifyConfig, Scene, SplatGenerator, SplatSettings
from scorefield.runfolder import RunFolder
from scorefield.task import Players, Task
from scorefield.teachers.plain import Preconditioned
from scorefield.three_d.cameras import Cameras, orbit
from scorefield.three_d.splatting import BLUR, Gaussians, covariances, project, rotations, splat_cuda, splat_dense
from scorefield.training.player import Player
from scorefield.training.session import Session
from scorefield.training.settings import CheckpointConfig, MonitorsConfig, PlayerConfig, RunConfig, TrainingConfig

torch.set_num_threads(1)


def made_of(splats: SplatSettings, side: int, particles: int = 1, kind=SplatGenerator) -> SplatGenerator:
    """A generator before grey whose teacher sees its pictures as they are."""
    settings = NerfSettings(particles)
    settings.render.size, settings.background.learned = {0: side}, {0: 0.0}
    settings.background.named = {"grey": [0.5, 0.5, 0.5]}
    return kind(settings, splats, lambda view, ground, pose: ({}, {}, {}), lambda x: x, lambda z: z, side)


def some(count: int, seed: int = 0, dtype=torch.float32) -> Gaussians:
    rng = torch.Generator().manual_seed(seed)
    draw = lambda *shape: torch.randn(*shape, generator=rng, dtype=dtype)  # noqa: E731
    return Gaussians(
        0.3 * draw(count, 3),
        (0.4 * draw(count, 3) - 2.3).exp(),
        draw(count, 4),
        draw(count).sigmoid(),
        draw(count, 3).sigmoid(),
    )


def cameras(count: int = 3, side: int = 16) -> Cameras:
    turn = torch.arange(count) * 2.1
    return orbit(torch.linspace(-0.4, 0.9, count), turn, 2.0, 0.8, (side, side))


# ---------------------------------------------------------------------- the picture


def by_pixel(gaussians: Gaussians, camera: Cameras, row: int, column: int, background) -> torch.Tensor:
    """One pixel's colour, Gaussian by Gaussian, with world points mapped by the camera's own rays."""
    c2w, side = camera.c2w[0].double(), camera.size[0]
    focal = side / 2 / math.tan(camera.fovy[0].item() / 2)
    rotation, place = c2w[:3, :3], c2w[:3, 3]

    def to_pixel(point):
        local = rotation.T @ (point - place)
        return torch.stack([side / 2 + focal * local[0] / -local[2], side / 2 - focal * local[1] / -local[2]])

    drawn = []
    for n in range(len(gaussians.means)):
        mean = gaussians.means[n].double()
        turn = rotations(gaussians.quaternions[n : n + 1].double())[0]
        covariance = turn @ torch.diag(gaussians.scales[n].double() ** 2) @ turn.T
        slope = torch.autograd.functional.jacobian(to_pixel, mean)
        flat = slope @ covariance @ slope.T + BLUR * torch.eye(2)
        gap = torch.tensor([column + 0.5, row + 0.5]).double() - to_pixel(mean)
        alpha = min(0.999, gaussians.opacities[n].item() * math.exp(-0.5 * (gap @ torch.linalg.solve(flat, gap))))
        depth = -(rotation.T @ (mean - place))[2].item()
        drawn.append((depth, alpha if alpha >= 1 / 255 else 0.0, gaussians.colours[n].double()))
    colour, left = torch.zeros(3).double(), 1.0
    for _, alpha, own in sorted(drawn, key=lambda found: found[0]):
        colour, left = colour + left * alpha * own, left * (1 - alpha)
    return colour + left * background.double()


def test_a_pixel_is_what_the_definition_says():
    gaussians, views, background = some(8), cameras(), torch.tensor([[0.2, 0.5, 0.9]]).expand(3, 3)
    made = splat_dense(gaussians, views, background)
    for view, row, column in ((0, 8, 8), (1, 7, 6), (2, 11, 8)):
        wanted = by_pixel(gaussians, views[view : view + 1], row, column, background[0])
        torch.testing.assert_close(made.image[view, :, row, column].double(), wanted, rtol=1e-4, atol=1e-5)
    assert made.image.std() > 0.05
    with_picture = splat_dense(gaussians, views, background[:, :, None, None].expand(3, 3, 16, 16))
    torch.testing.assert_close(made.image, with_picture.image)


def test_projection_is_that_of_gsplat():
    reference = pytest.importorskip("gsplat.cuda._torch_impl")
    gaussians, views = some(40, seed=3), cameras(side=24)
    extrinsics, intrinsics = views.to_opencv()
    wanted, _ = reference._quat_scale_to_covar_preci(gaussians.quaternions, gaussians.scales, True, False, triu=False)
    torch.testing.assert_close(covariances(gaussians), wanted, rtol=1e-4, atol=1e-6)
    means, turned = reference._world_to_cam(gaussians.means, wanted, extrinsics)
    centres, flat = reference._persp_proj(means, turned, intrinsics, 24, 24)
    ours = project(gaussians, views)
    torch.testing.assert_close(ours[0], centres, rtol=1e-4, atol=1e-3)
    torch.testing.assert_close(ours[1], flat, rtol=1e-3, atol=1e-3)
    torch.testing.assert_close(ours[2], means[..., 2], rtol=1e-4, atol=1e-4)


@pytest.mark.gpu
def test_the_kernels_of_gsplat_draw_the_same_picture():
    pytest.importorskip("gsplat")
    gaussians, views = some(200, seed=3), cameras(side=64)
    moved = Gaussians(*(getattr(gaussians, field.name).cuda() for field in dataclasses.fields(Gaussians)))
    background = torch.rand(3, 3)
    ours, theirs = splat_dense(gaussians, views, background), splat_cuda(moved, views.to("cuda"), background.cuda())
    assert (ours.image - theirs.image.cpu()).abs().max() < 0.02
    assert (ours.alpha - theirs.alpha.cpu()).abs().max() < 0.02


def test_gradients_are_finite_differences():
    gaussians, views = some(6, seed=5, dtype=torch.float64), cameras(2, side=6)
    views = Cameras(views.c2w.double(), views.fovy.double(), views.size)
    background, weights = torch.rand(2, 3).double(), torch.randn(2, 3, 6, 6).double()
    for field in dataclasses.fields(Gaussians):
        value = getattr(gaussians, field.name).clone().requires_grad_()

        def picture(value, name=field.name):
            return (
                weights * splat_dense(dataclasses.replace(gaussians, **{name: value}), views, background).image
            ).sum()

        (gradient,) = torch.autograd.grad(picture(value), value)
        step = 1e-5
        for place in range(0, value.numel(), 3):
            shift = torch.zeros(value.numel()).double()
            shift[place] = step
            shift = shift.view_as(value)
            slope = (picture(value.detach() + shift) - picture(value.detach() - shift)) / (2 * step)
            assert gradient.flatten()[place].item() == pytest.approx(slope.item(), rel=2e-3, abs=2e-4), field.name


# ---------------------------------------------------------------------- a known sphere


def sphere(views: Cameras, radius: float = 0.35) -> torch.Tensor:
    """Pictures [B, 3, H, W] of a ball on grey whose colour tells the direction of its surface."""
    origin, direction = views.rays()
    along = -(origin * direction).sum(-1)
    inside = radius**2 - (origin.square().sum(-1) - along**2)
    normal = (origin + (along - inside.clamp(min=0).sqrt())[..., None] * direction) / radius
    return torch.where(inside[..., None] > 0, 0.5 + 0.45 * normal, torch.tensor(0.5)).permute(0, 3, 1, 2)


def psnr(a: torch.Tensor, b: torch.Tensor) -> float:
    return -10 * (a - b).square().mean().log10().item()


def test_it_fits_a_sphere_and_densification_helps():
    turn = torch.arange(6) * (2 * math.pi / 6)
    views = orbit(0.6 * (3 * turn).sin(), turn, 1.6, 0.7, (20, 20))
    unseen = orbit(0.2, turn[:4] + 0.5, 1.6, 0.7, (20, 20))
    grey = torch.full((6, 3), 0.5)
    law = DensifyConfig(every=15, start=15, stop=46, gradient=5e-5, split_scale=0.1, scale=2.0, most=90)
    generator = made_of(SplatSettings(count=60, bound=0.4, densify=law), 20)
    player = Player(generator.parameter_groups(), PlayerConfig(learning_rate=0.1, betas=(0.9, 0.99)), 60)
    before = psnr(generator.look(unseen, 0, background=grey[:4]).image, sphere(unseen))
    for k in range(60):
        made = generator.look(views, 0, background=grey)
        (made.image - sphere(views)).square().mean().backward()
        player.step(k)
        if changes := generator.after_step(k):
            player.apply(changes)
    assert before < 18
    assert 60 < len(generator.fields[0]) <= 90
    assert psnr(generator.look(unseen, 0, background=grey[:4]).image, sphere(unseen)) > 22


# ---------------------------------------------------------------------- growing while training


def scene(count: int = 5) -> Scene:
    torch.manual_seed(0)
    made = Scene.ball(count, 0.5, 0.5, seed=1)
    made.log_scales.data.fill_(math.log(0.01))
    return made


def test_survivors_keep_their_moments_and_newcomers_start_without():
    settings = SplatSettings(count=5, densify=DensifyConfig(every=1, start=0, gradient=0.1, split_scale=0.05))
    generator = made_of(settings, 16)
    one = generator.fields[0] = scene()
    player = Player(generator.parameter_groups(), PlayerConfig(learning_rate=1e-3, betas=(0.9, 0.99)), 10)
    for name in PARTS:
        getattr(one, name).grad = torch.randn_like(getattr(one, name))
    player.step(0)
    one.opacity_logits.data[1] = -9.0  # faded: removed
    one.log_scales.data[3] = math.log(0.1)  # large and pulled at: split
    one.pull[:], one.views[:] = torch.tensor([4.0, 0, 0, 4.0, 0]), 2  # 0 is small: cloned
    old = {
        name: (getattr(one, name).detach().clone(), copy.copy(player.optimizer.state[getattr(one, name)]))
        for name in PARTS
    }
    player.apply(generator.after_step(0))
    assert len(one) == 3 + 1 + 2
    for name in PARTS:
        new, (values, state) = getattr(one, name), old[name]
        moments = player.optimizer.state[new]
        for key in ("exp_avg", "exp_avg_sq"):
            assert torch.equal(moments[key][:3], state[key][[0, 2, 4]]), name
            assert moments[key][3:].abs().max() == 0
            assert state[key].abs().max() > 0
        assert moments["step"] == state["step"]
        assert torch.equal(new[:4], values[[0, 2, 4, 0]])
    torch.testing.assert_close(one.log_scales[4:], old["log_scales"][0][[3, 3]] - math.log(1.6))
    assert (one.means[4:] - old["means"][0][3]).norm(dim=1).min() > 0.005
    assert {id(p) for p in player.parameters} == {id(p) for p in generator.parameters()}
    assert one.pull.shape == one.views.shape == (6,)
    assert one.pull.abs().max() == 0


def test_a_limit_holds_and_an_empty_scene_is_refused():
    settings = SplatSettings(count=5, densify=DensifyConfig(every=1, start=0, gradient=0.1, most=6, split_scale=9.0))
    generator = made_of(settings, 16)
    one = generator.fields[0] = scene()
    one.pull[:], one.views[:] = torch.tensor([1.0, 3, 2, 5, 4]), 1
    strongest = one.means.detach()[3].clone()
    generator.after_step(0)
    assert len(one) == 6
    assert torch.equal(one.means[5], strongest)
    one.opacity_logits.data.fill_(-9)
    with pytest.raises(UserError, match="faded"):
        generator.after_step(1)


class Ball(Denoiser):
    """Believes in pictures of the sphere seen from the pose that it is told, give or take 0.3."""

    sigma_min, sigma_max = 0.01, 50.0

    def forward(self, x_t, sigma, condition):
        views = Cameras(condition["c2w"], condition["fovy"], x_t.shape[2:])
        mean, variance = 2 * sphere(views) - 1, 0.09
        return mean + variance / (variance + sigma.view(-1, 1, 1, 1) ** 2) * (x_t - mean)


class Posed(SplatGenerator):
    """Tells the teacher the camera itself."""

    def draw(self, draws):
        batch = super().draw(draws)
        batch.teacher_condition = {key: batch.latents[key] for key in ("c2w", "fovy")}
        batch.online_condition = {}
        return batch


class Splats(Task):
    name = "splats"


class Online(nn.Module):
    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(3, 1, 1))

    def forward(self, x):
        return x[:, :-1] * self.weight if x.shape[1] > 3 else x * self.weight


def session(path, iterations=24):
    player = PlayerConfig(learning_rate=0.05, betas=(0.9, 0.99))
    training = TrainingConfig(
        iterations=iterations,
        batch=2,
        device="cpu",
        generator=player,
        online=player,
        log_every=4,
        ema_half_life_images=20,
    )
    config = RunConfig(
        task="splats",
        training=training,
        loss={"name": "sds"},
        checkpoints=CheckpointConfig(every=9, keep=9),
        monitors=MonitorsConfig(enabled=[]),
    )
    law = DensifyConfig(every=6, start=6, stop=19, gradient=1e-3, split_scale=0.05, scale=2.0, most=80)
    torch.manual_seed(0)
    generator = made_of(SplatSettings(count=30, bound=0.4, densify=law), 12, 2, Posed)
    folder = RunFolder(path)
    folder.path.mkdir(exist_ok=True)
    players = Players(Ball(), Preconditioned(nn.Linear(1, 1), sigma_data=1.0), generator)
    return Session(Splats(config, folder, "cpu"), players, folder, say=lambda text: None)


def test_a_run_resumes_across_densification_bit_for_bit(tmp_path):
    straight = session(tmp_path / "a")
    straight.run()
    sizes = [len(one) for one in straight.generator.fields]
    assert max(sizes) > 30
    first = session(tmp_path / "b", iterations=9)
    first.run()
    assert max(len(one) for one in first.generator.fields) > 30  # the checkpoint is of another size than a fresh start
    again = session(tmp_path / "b")
    assert again.resume()
    again.run()
    assert [len(one) for one in again.generator.fields] == sizes
    for name, value in straight.generator.state_dict().items():
        assert torch.equal(value, again.generator.state_dict()[name]), name
    for a, b in zip(straight.trainer.average.shadow, again.trainer.average.shadow, strict=True):
        assert torch.equal(a, b)


def test_the_average_of_survivors_lives_on(tmp_path):
    made = session(tmp_path)
    trainer = made.trainer
    for k in range(5):
        trainer.iteration(k)
    before = dict(zip(trainer.average.names, [s.clone() for s in trainer.average.shadow], strict=True))
    live = {n: p.detach().clone() for n, p in made.generator.named_parameters()}
    rows: dict[str, torch.Tensor] = {}
    apply = trainer.apply

    def noted(changes):
        rows.update({n: changes.rows[p] for n, p in made.generator.named_parameters() if p in changes.rows})
        apply(changes)

    trainer.apply = noted
    trainer.iteration(5)
    name = next(n for n in rows if n.endswith("means"))
    kept = rows[name] >= 0
    found = trainer.average.state_dict()[name]
    assert found.shape == dict(made.generator.named_parameters())[name].shape
    gap = (found[kept] - before[name][rows[name][kept]]).abs().max()
    assert gap < (found[kept] - live[name][rows[name][kept]]).abs().max() + 0.05
    assert not torch.equal(found[kept], dict(made.generator.named_parameters())[name][kept])
