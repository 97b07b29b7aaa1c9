"""Planted failures, each on its own monitor's figure, and the watch that turns figures into warnings."""

import re

import pytest
import torch

from scorefield import resources
from scorefield.config import load
from scorefield.denoiser import Denoiser
from scorefield.errors import UserError
from scorefield.monitors import MONITORS, Probe
from scorefield.monitors.noise import neighbour_correlation
from scorefield.monitors.texture import grid_strength
from scorefield.monitors.watch import Watch
from scorefield.training.settings import MonitorsConfig, RunConfig

PROMPTS, SAMPLES, SIDE = 4, 4, 64


def smooth(seed: int, scale: float = 0.5, blur: int = 9) -> torch.Tensor:
    """Smooth random pictures [P, K, 3, SIDE, SIDE], within about ±1."""
    noise = torch.randn(PROMPTS * SAMPLES, 3, SIDE, SIDE, generator=torch.Generator().manual_seed(seed))
    for _ in range(2):
        noise = torch.nn.functional.avg_pool2d(noise, blur, 1, blur // 2)
    return (noise / noise.std() * scale).unflatten(0, (PROMPTS, SAMPLES))


class Still(Denoiser):
    """An online score that learns nothing: D = x / (1 + sigma^2) + offset."""

    offset = 0.0

    def forward(self, x_t, sigma, condition):
        return x_t / (1 + sigma.view(-1, 1, 1, 1) ** 2) + self.offset


def probe(x: torch.Tensor, online: Denoiser | None = None) -> Probe:
    return Probe(x, x, {}, online)


def figures(*looks: Probe, **settings) -> tuple[list[dict], Watch]:
    watch = Watch(MonitorsConfig(grace=0.0, **settings), 100)
    return [watch.look(seen, 10 * k)[0] for k, seen in enumerate(looks)], watch


def tripped(*looks: Probe, **settings) -> set[str]:
    return {warning["monitor"] for warning in figures(*looks, **settings)[1].warnings}


def test_smooth_pictures_that_change_a_little_trip_nothing():
    torch.manual_seed(0)
    online = Still()
    looks = []
    for k in range(6):
        looks.append(probe(smooth(1) + 0.1 * k * smooth(2), online))
        assert not tripped(looks[0], probe(smooth(3)))
    watch = Watch(MonitorsConfig(grace=0.0), 100)
    for k, seen in enumerate(looks):
        online.offset = 0.1 * k  # it follows
        watch.look(seen, k)
    assert watch.warnings == []


@pytest.mark.parametrize(
    ("monitor", "planted"),
    [
        ("noise", lambda x: x + 3 * torch.randn_like(x)),
        ("saturation", lambda x: (4 * x).clamp(-1, 1)),
        ("brightness", lambda x: x + 0.4),
        ("diversity", lambda x: x[:, :1].expand_as(x)),
        ("diversity", lambda x: x.mean((0, 1), keepdim=True).expand_as(x)),
        ("noise", lambda x: x * float("nan")),
        ("diversity", lambda x: x * float("nan")),
    ],
)
def test_a_planted_failure_trips_its_monitor(monitor, planted):
    torch.manual_seed(0)
    assert monitor in tripped(probe(smooth(1)), probe(planted(smooth(1))))


@pytest.mark.parametrize("period", [2, 4, 8])
@pytest.mark.parametrize("rows", [False, True])
def test_a_planted_grid_trips_texture_alone(period, rows):
    wave = ((torch.arange(SIDE) % period) == 0).float()
    wave = (wave - wave.mean()) * 0.35
    grid = wave[:, None] if rows else wave[None, :]
    textured = smooth(4) + grid
    assert "texture" in tripped(probe(smooth(1)), probe(textured))
    assert "texture" not in tripped(probe(smooth(1)), probe(smooth(4)))
    # a picture that began with the grid (an autoencoder's own) is not blamed on the training
    assert "texture" not in tripped(probe(textured), probe(textured))


def test_a_frozen_online_score_trips_lag_and_a_following_one_does_not():
    online = Still()
    moving = [probe(smooth(1) + 0.2 * k, online) for k in range(3)]
    assert "lag" in tripped(*moving, lines={"brightness": 9.0})
    watch = Watch(MonitorsConfig(grace=0.0, lines={"brightness": 9.0}), 100)
    for k, seen in enumerate(moving):
        online.offset = 0.1 * k
        watch.look(seen, k)
    assert watch.warnings == []
    still = [probe(smooth(1), Still()) for _ in range(3)]
    assert "lag" not in tripped(*still)  # nothing to follow
    assert "monitor/lag" not in figures(probe(smooth(1)), probe(smooth(2)))[0][1]  # a loss without an online score


def test_figures_mean_what_they_say():
    white = torch.randn(64, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    assert abs(neighbour_correlation(white)) < 0.01
    assert neighbour_correlation(smooth(0).flatten(0, 1)) > 0.9
    assert grid_strength(white) < 1.6
    assert grid_strength(white[..., :5, :5]) is None
    seen, _ = figures(probe(smooth(1)), probe(smooth(1) + 5 * torch.randn(1, generator=torch.Generator()).sign()))
    assert seen[0]["monitor/noise"] == 0
    assert seen[0]["monitor/diversity"] == 1


def grounds(pale: list[int]) -> torch.Tensor:
    """Pictures like ``smooth(1)`` on dark grounds, those numbered in ``pale`` on pale ones."""
    x = smooth(1, 0.1).flatten(0, 1) - 0.4
    x[pale] += 0.8
    return x.unflatten(0, (PROMPTS, SAMPLES))


def test_other_backgrounds_are_no_drift_and_a_shift_of_all_is():
    start, other = grounds([0, 1, 2, 3]), grounds([4, 5, 6, 7, 8, 9, 10, 11])
    assert (other - start).mean() > 0.5 * start.std()  # the mean of all has moved beyond the line
    assert "brightness" not in tripped(probe(start), probe(other))
    for shift in (0.3, -0.3):
        assert "brightness" in tripped(probe(start), probe(start + shift))
        one_channel = torch.tensor([0.0, shift, 0.0]).view(3, 1, 1)
        assert "brightness" in tripped(probe(start), probe(start + one_channel))
    assert "brightness" in tripped(probe(start), probe(start * float("nan")))


def test_patience_grace_lines_and_episodes():
    good, bad = probe(smooth(1)), probe(smooth(1) + 0.9)
    assert not tripped(good, bad, good, bad, patience=2)
    _, watch = figures(good, bad, bad, bad, good, bad)
    assert [w["iteration"] for w in watch.warnings if w["monitor"] == "brightness"] == [10, 50]
    assert "monitor/brightness is" in next(w["text"] for w in watch.warnings if w["monitor"] == "brightness")
    late = Watch(MonitorsConfig(grace=0.5), 100)
    late.look(good, 0)
    assert late.look(bad, 40)[1] == []
    assert late.look(bad, 60)[1] != []
    assert not tripped(good, bad, lines={"brightness": 100.0, "saturation": 1.0})
    assert not tripped(good, bad, enabled=["noise"])


def test_state_goes_on_where_it_was():
    torch.manual_seed(0)
    looks = [probe(smooth(k), Still()) for k in range(4)]
    whole, _ = figures(*looks)
    first = Watch(MonitorsConfig(grace=0.0), 100)
    for k in range(2):
        first.look(looks[k], 10 * k)
    second = Watch(MonitorsConfig(grace=0.0), 100)
    second.load_state(first.state())
    assert [second.look(looks[k], 10 * k)[0] for k in (2, 3)] == whole[2:]
    assert second.warnings[: len(first.warnings)] == first.warnings


def test_bad_settings_are_refused():
    with pytest.raises(UserError, match="rollback"):
        load(RunConfig, overrides=["monitors.action=rolback"])
    with pytest.raises(UserError, match="diversity"):
        Watch(MonitorsConfig(enabled=["diversty"]), 10)
    with pytest.raises(UserError, match="noise"):
        Watch(MonitorsConfig(lines={"nose": 1.0}), 10)
    assert load(RunConfig, overrides=["monitors.lines.noise=0.7"]).monitors.lines == {"noise": 0.7}
    assert set(MONITORS) >= set(MonitorsConfig().enabled)


def test_the_page_on_failures_tells_every_monitors_line():
    page = (resources.root() / "docs" / "failures.md").read_text()
    told = dict(re.findall(r"^\| `(\w+)` \| .* \| ((?:above|below) [\d.]+) \|$", page, re.M))
    own = {name: MONITORS.get(name) for name in MONITORS}
    assert told == {name: f"{'above' if part.above else 'below'} {part.line:g}" for name, part in own.items()}
