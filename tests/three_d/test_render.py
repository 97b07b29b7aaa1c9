import importlib
import math

import pytest
import torch

from scorefield.errors import UserError
from scorefield.three_d import regularizers
from scorefield.three_d.cameras import orbit
from scorefield.three_d.occupancy import Occupancy
from scorefield.three_d.render import Render, Samples, cross_cube, render
from tests.three_d.fields import Ball, Bump

BLACK = torch.zeros(1, 3)


def chords(cameras, radius: float) -> tuple[torch.Tensor, torch.Tensor]:
    """Entry distance and length of each ray through a ball round the origin, [H, W]."""
    origins, directions = (ray[0].double() for ray in cameras.rays())
    along = -(origins * directions).sum(-1)
    miss = (origins + along[..., None] * directions).norm(dim=-1)
    half = (radius**2 - miss**2).clamp_min(0).sqrt()
    return along - half, 2 * half


def test_ball_of_constant_density_in_closed_form():
    sigma, radius, samples = 1.5, 0.6, 2000
    cameras = orbit(0.3, 0.7, 3.0, 0.5, (9, 9))
    seen = render(Ball(radius, sigma), cameras, samples=samples, background=BLACK)
    entry, length = chords(cameras, radius)
    wanted = 1 - (-sigma * length).exp()
    torch.testing.assert_close(seen.opacity[0, 0].double(), wanted, atol=4e-3, rtol=0)
    # expected distance of a truncated exponential: entry + 1 / sigma - L e^{-sigma L} / (1 - e^{-sigma L})
    hit = length > 0.2
    depth = entry + 1 / sigma - length * (-sigma * length).exp() / wanted.clamp_min(1e-9)
    torch.testing.assert_close(seen.depth[0, 0].double()[hit], depth[hit], atol=4e-3, rtol=0)
    colour = torch.tensor([0.8, 0.3, 0.1])[:, None, None] * seen.opacity[0]
    torch.testing.assert_close(seen.image[0], colour, atol=1e-5, rtol=0)


def test_background_fills_what_is_not_opaque():
    cameras = orbit(0.0, 0.0, 3.0, 0.5, (5, 5))
    white = render(Ball(), cameras, background=torch.ones(1, 3))
    black = render(Ball(), cameras, background=BLACK)
    torch.testing.assert_close(white.image - black.image, (1 - black.opacity).expand(1, 3, 5, 5), atol=1e-6, rtol=0)
    with pytest.raises(UserError, match="background must be"):
        render(Ball(), cameras, background=torch.ones(2, 3))


def test_gradient_of_a_render_is_its_finite_difference():
    field, cameras = Bump(), orbit(0.2, 0.4, 3.0, 0.6, (7, 7))
    mask = torch.rand(3, 7, 7, generator=torch.Generator().manual_seed(0))

    def value() -> torch.Tensor:
        seen = render(field, cameras, samples=80, background=BLACK)
        return (seen.image[0] * mask).sum() + seen.depth.sum() * 0.1

    (gradient,) = torch.autograd.grad(value(), field.values)
    for place in range(3):
        with torch.no_grad():
            field.values[place] += 1e-2
            up = value()
            field.values[place] -= 2e-2
            down = value()
            field.values[place] += 1e-2
        assert gradient[place].item() == pytest.approx(((up - down) / 2e-2).item(), rel=2e-2, abs=2e-3)


def test_skipping_empty_cells_changes_nothing():
    field = Bump((20.0, 0.1, 0.2), bound=2.0)
    cameras = orbit(torch.tensor([0.2, 0.5]), torch.tensor([0.4, 3.0]), 4.0, 0.6, (12, 12))
    grid = Occupancy(2.0, 16, 1e-3, step=4 * math.sqrt(3) / 64, decay=0.9)
    for iteration in range(20):
        share = grid.update(field, iteration)
    assert 0.02 < share < 0.6
    black = torch.zeros(2, 3)
    whole, masked = (render(field, cameras, samples=64, background=black, occupancy=g) for g in (None, grid))
    assert len(masked.weights) < 0.7 * len(whole.weights)
    torch.testing.assert_close(masked.image, whole.image, atol=1e-2, rtol=0)


@pytest.mark.gpu
def test_cuda_marching_gives_the_same_picture():
    from scorefield.three_d.render import can_march

    if not can_march("cuda"):
        pytest.skip("nerfacc's extension does not build here")
    field = Bump((20.0, 0.1, 0.2)).cuda()
    cameras = orbit(0.2, 0.4, 3.0, 0.6, (32, 32)).to("cuda")
    grid = Occupancy(1.0, 16, 1e-4).cuda()
    for iteration in range(20):
        grid.update(field, iteration)
    black = torch.zeros(1, 3, device="cuda")
    marched, batched = (
        render(field, cameras, samples=512, background=black, occupancy=grid, march=march) for march in (True, False)
    )
    torch.testing.assert_close(marched.image, batched.image, atol=5e-3, rtol=0)
    torch.testing.assert_close(marched.opacity, batched.opacity, atol=5e-3, rtol=0)


def test_an_occupancy_grid_that_prunes_everything_keeps_all_and_warns_once():
    grid, empty = Occupancy(1.0, 8), Ball(sigma=0.0)
    with pytest.warns(UserWarning, match="empty everywhere") as said:
        shares = [grid.update(empty, iteration) for iteration in range(40)]
    assert len(said) == 1
    assert shares[-1] == 1.0
    assert grid.holds(torch.rand(10, 3) * 2 - 1).all()
    seen = render(empty, orbit(0.0, 0.0, 3.0, 0.5, (4, 4)), background=BLACK, occupancy=grid)
    assert seen.opacity.max() == 0
    assert seen.image.requires_grad  # the field can come back


@pytest.mark.parametrize("saved", [False, True])
def test_a_nan_keeps_its_cell_until_the_field_is_repaired(saved):
    """One NaN of the field, or one in the record of a checkpoint: neither prunes a cell for good."""
    grid, dense, thin = Occupancy(1.0, 4), Ball(radius=3.0, sigma=50.0), Ball(radius=0.4, sigma=50.0)

    class Torn(Ball):
        def density(self, points):
            return torch.where((points > 0.5).all(-1), float("nan"), super().density(points))

    corner, beside = torch.tensor([[0.75, 0.75, 0.75]]), torch.tensor([[-0.75, 0.75, 0.75]])
    if saved:
        grid.estimator.occs.fill_(float("nan"))
        grid.update(thin, 0)
    else:
        grid.update(Torn(radius=3.0, sigma=50.0), 0)
    assert grid.estimator.occs.isfinite().all()
    assert grid.holds(corner)  # a picture of it shows that something is broken
    grid.update(dense, 1)
    assert grid.holds(corner)
    assert grid.holds(beside)
    for look in range(40):
        grid.update(thin, look)
    assert not grid.holds(corner)
    assert not grid.holds(beside)


def test_rays_that_miss_the_cube_see_the_background():
    cameras = orbit(0.0, 0.0, 3.0, 0.5, (4, 4), target=torch.tensor([0.0, 0.0, 9.0]))
    seen = render(Ball(), cameras, background=torch.full((1, 3), 0.25))
    torch.testing.assert_close(seen.image, torch.full((1, 3, 4, 4), 0.25))
    near, far = cross_cube(torch.tensor([[0.0, -3.0, 0.0]]), torch.tensor([[0.0, 1.0, 0.0]]), 1.0)
    assert (near.item(), far.item()) == (2.0, 4.0)


def test_normals_of_a_ball_point_outward_at_the_camera():
    class Soft(Ball):
        def density(self, points):
            return 40 * torch.sigmoid(30 * (self.radius - points.norm(dim=-1)))

    cameras = orbit(0.4, 1.1, 3.0, 0.5, (9, 9))
    seen = render(Soft(), cameras, samples=200, background=BLACK, normals=True)
    toward = cameras.c2w[0, :3, 3] / 3
    assert (seen.normal[0, :, 4, 4] @ toward).item() > 0.97
    assert regularizers.orientation(seen).item() < 1e-2


def test_the_same_generators_give_the_same_jitter():
    cameras = orbit(torch.tensor([0.2, 0.5]), torch.tensor([0.4, 3.0]), 3.0, 0.6, (6, 6))
    black = torch.zeros(2, 3)
    make = lambda: [torch.Generator().manual_seed(seed) for seed in (1, 2)]  # noqa: E731
    first, second = (render(Bump(), cameras, background=black, generator=make()) for _ in range(2))
    assert torch.equal(first.image, second.image)
    plain = render(Bump(), cameras, background=black)
    assert not torch.equal(first.image, plain.image)
    torch.testing.assert_close(first.image, plain.image, atol=0.03, rtol=0)


def test_regularizers_in_closed_form():
    cameras = orbit(0.0, 0.0, 3.0, 0.2, (1, 1))
    seen = render(Ball(0.6, 1.5), cameras, samples=2000, background=BLACK)
    alpha = seen.opacity.item()
    entropy = -(alpha * math.log(alpha) + (1 - alpha) * math.log(1 - alpha))
    assert regularizers.opacity_entropy(seen).item() == pytest.approx(entropy, rel=1e-4)
    assert regularizers.sparsity(seen).item() == pytest.approx(math.sqrt(alpha**2 + 0.01), rel=1e-4)
    # variance of an exponential cut off at L
    s, length = 1.5, 1.2
    e, kept = math.exp(-s * length), 1 - math.exp(-s * length)
    mean = 1 / s - length * e / kept
    second = 2 / s**2 - (length**2 + 2 * length / s) * e / kept
    assert regularizers.z_variance(seen).item() == pytest.approx(second - mean**2, rel=1e-2)


def test_orientation_by_hand():
    """Three samples of two pixels: only those whose normal looks away from the camera count, squared, by weight."""
    normals = torch.tensor([[0.0, 0.6, 0.8], [0.0, 0.0, -1.0], [1.0, 0.0, 0.0]], requires_grad=True)
    weights = torch.tensor([0.2, 0.5, 0.3], requires_grad=True)
    ray, none, flat = torch.tensor([0, 0, 1]), torch.zeros(3), torch.zeros(3, 3)
    along = torch.tensor([[0.0, 0.0, 1.0], [0.0, 0.0, 1.0], [0.6, 0.8, 0.0]])
    picture, opacity = torch.zeros(1, 3, 1, 2), torch.tensor([[[[0.7, 0.3]]]])
    seen = Render(picture, opacity, opacity, None, weights, Samples(ray, none, none), flat, along, normals)
    value = regularizers.orientation(seen)
    assert value.item() == pytest.approx((0.2 * 0.8**2 + 0.5 * 0 + 0.3 * 0.6**2) / 2)
    value.backward()
    wanted = torch.stack([0.2 * 2 * 0.8 * along[0], 0 * along[1], 0.3 * 2 * 0.6 * along[2]]) / 2
    torch.testing.assert_close(normals.grad, wanted)
    assert weights.grad is None  # it turns surfaces, and makes none vanish


def test_orientation_of_a_ball_seen_from_within_and_from_without():
    """From within, every normal of a shell looks away: the term is near the opacity there, and near 0 from outside."""

    class Shell(Ball):
        def density(self, points):
            return 40 * torch.sigmoid(30 * (0.1 - (points.norm(dim=-1) - self.radius).abs()))

        def normals(self, points):
            return points / points.norm(dim=-1, keepdim=True)

    inside, outside = orbit(0.0, 0.0, 0.01, 0.5, (5, 5)), orbit(0.0, 0.0, 3.0, 0.1, (5, 5))
    values = [
        regularizers.orientation(render(Shell(), cameras, samples=400, background=BLACK, normals=True)).item()
        for cameras in (inside, outside)
    ]
    assert values[0] == pytest.approx(1, abs=0.05)
    assert values[1] < 1e-2


def test_a_missing_extra_is_one_sentence(monkeypatch):
    from scorefield.three_d.extra import need

    def missing(name):
        raise ImportError(name)

    monkeypatch.setattr(importlib, "import_module", missing)
    with pytest.raises(UserError, match=r'nerfacc, which is not installed: pip install "scorefield\[three-d\]"'):
        need("nerfacc")
