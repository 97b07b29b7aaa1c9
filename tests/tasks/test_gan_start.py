"""What a GAN learns from the teacher's own pictures before the loss: frequencies, the fitted mapping, a whole run."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from scorefield import networks
from scorefield.cli import main
from scorefield.importer.open import open_network
from tasks.gan_refine import balance, start
from tasks.gan_refine.settings import BalanceConfig, StartConfig
from tests.importer.test_open import as_pickled
from tests.importer.writers import dump
from tests.tasks.test_gan_refine import CLASSES, SIDE, gan, gan_kwargs, run, unet


def blobs(counts, draw, width=6):
    """Points around as many centres, ``counts`` of each, and which centre each is of."""
    of = torch.arange(len(counts)).repeat_interleave(torch.tensor(counts))
    return 5 * torch.eye(width)[of] + 0.3 * torch.randn(len(of), width, generator=draw), of


def looked(points, classes=None):
    classes = torch.zeros(len(points), dtype=torch.int64) if classes is None else classes
    return balance.Looked(points, torch.ones(len(points), 1), classes)


def test_weights_are_the_ratio_of_frequencies():
    draw = torch.Generator().manual_seed(0)
    taught, _ = blobs([400, 400, 400], draw)
    shown, of = blobs([1200, 900, 300], draw)
    settings = BalanceConfig(clusters=[3, 3], components=4, power=1.0)
    found = balance.log_ratios(taught, shown, settings, 0).exp()
    for kind, ratio in enumerate((2 / 3, 8 / 9, 8 / 3)):  # a third each of 1,200, over their shares of 2,400
        assert found[of == kind].mean() == pytest.approx(ratio, rel=0.04)
    weighted = balance.weights(looked(taught), looked(shown), settings)
    assert weighted.mean() == pytest.approx(1)
    shares = torch.stack([weighted[of == kind].sum() for kind in range(3)]) / weighted.sum()
    assert torch.allclose(shares, torch.full((3,), 1 / 3), atol=0.02)


def test_each_class_is_weighted_by_itself_and_small_ones_not_at_all():
    draw = torch.Generator().manual_seed(1)
    taught, shown = (
        torch.cat([blobs(counts, draw)[0], torch.randn(3, 6, generator=draw)]) for counts in ([90, 30], [30, 90])
    )
    labels = torch.cat([torch.zeros(120, dtype=torch.int64), torch.ones(3, dtype=torch.int64)])
    settings = BalanceConfig(clusters=[4], components=3)
    found = balance.weights(looked(taught, labels), looked(shown, labels), settings)
    assert torch.equal(found[labels == 1], torch.ones(3))
    assert found[:30].mean() > 3 * found[30:120].mean()


def test_what_colours_explain_is_no_kind_of_its_own():
    """Bright and dark squares on the left or right: both kinds of place, whatever the brightness."""
    draw = torch.Generator().manual_seed(2)
    count = 400
    bright, right = (torch.rand(count, generator=draw) < 0.5 for _ in range(2))
    pictures = 0.02 * torch.randn(count, 3, 8, 8, generator=draw)
    pictures[~right, :, 2:6, 1:4] += 0.5
    pictures[right, :, 2:6, 4:7] += 0.5
    pictures += 2.0 * bright.float()[:, None, None, None]
    found = {}
    for name, features in (
        ("as seen", pictures.flatten(1)),
        ("unexplained", balance.unexplained(pictures.flatten(1), balance.colours(pictures))),
    ):
        of = balance.clusters(features, 2, torch.Generator().manual_seed(0)).bool()
        found[name] = {
            key: float((of == truth).float().mean()) for key, truth in (("bright", bright), ("right", right))
        }
    assert abs(found["as seen"]["bright"] - 0.5) > 0.45
    assert abs(found["unexplained"]["right"] - 0.5) > 0.45


def test_the_fitted_mapping_draws_what_the_weights_ask_for():
    """Half of the w on either side of the mean at first; the weights want nine tenths on one."""
    torch.manual_seed(0)
    mapping = networks.build(
        "Generator",
        {
            "z_dim": 8,
            "c_dim": 2,
            "w_dim": 8,
            "img_resolution": 8,
            "img_channels": 3,
            "mapping_kwargs": {"num_layers": 2},
        },
    ).mapping
    c = torch.eye(2)[torch.arange(4000) % 2]
    ws = mapping(torch.randn(4000, 8), c)[:, 0].detach()
    direction = torch.linalg.svd(ws - ws.mean(0), full_matrices=False).Vh[0]
    side = (ws - ws.mean(0)) @ direction > 0
    weighted = torch.where(side, 0.9 / side.float().mean(), 0.1 / (~side).float().mean())
    settings = BalanceConfig(steps=300, batch=512)
    fitted = balance.fit(mapping, ws, c, weighted, settings, 0, lambda text: None)
    with torch.no_grad():
        shares = [
            float((m(torch.randn(4000, 8), c)[:, 0] @ direction > ws.mean(0) @ direction).float().mean())
            for m in (mapping, fitted)
        ]
        assert torch.allclose(fitted.w_avg, fitted(torch.randn(4000, 8), c)[:, 0].mean(0), atol=0.1 * float(ws.std()))
    assert shares[0] < 0.6
    assert shares[1] > 0.7


def test_the_jump_to_a_lower_level_is_exact_for_one_gaussian():
    """For data N(m, s^2) the flow keeps (x - m) / sqrt(s^2 + sigma^2), which Heun's method approaches."""

    class Normal(torch.nn.Module):
        sigma_min, sigma_max, label_dim, shape = 0.002, 80.0, 0, (1, 4, 4)

        def forward(self, x_t, sigma, condition):
            level = sigma.view(-1, 1, 1, 1)
            return 8 + 0.25 / (0.25 + level**2) * (x_t - 8)

    z = torch.randn(512, 1, 4, 4, generator=torch.Generator().manual_seed(0))
    found = start.sampled(Normal(), {}, z, StartConfig(teacher_steps=40), 64)
    wanted = 8 + (80 * z - 8) * (0.25 / (0.25 + 80**2)) ** 0.5
    assert torch.allclose(found, wanted, atol=0.02)


@pytest.fixture
def place(tmp_path):
    torch.manual_seed(0)
    networks.save(unet(), tmp_path / "teacher")
    average = gan()
    networks.save(average, tmp_path / "gan")
    with torch.no_grad():
        for p in average.parameters():
            p.add_(0.01 * torch.randn_like(p))
    networks.save(average, tmp_path / "G")
    kwargs = {"c_dim": CLASSES, "img_resolution": SIDE, "img_channels": 3, "channel_base": 64, "channel_max": 8}
    networks.save(networks.build("Discriminator", kwargs), tmp_path / "D")
    return tmp_path


def words(place, *more):
    small = [
        "start.pictures=24",
        "start.teacher_steps=2",
        f"start.adversary.networks={place}",
        "start.adversary.steps=3",
    ]
    small += [
        "start.adversary.batch=4",
        "start.balance.clusters=[2]",
        "start.balance.latents=60",
        "start.balance.steps=4",
    ]
    return [*small, "start.balance.batch=16", *more]


def test_a_run_starts_from_what_was_learnt_and_keeps_it(place, capsys):
    assert run(place, *words(place, "training.generator.learning_rate=1e-12")) == 0
    told = "".join(capsys.readouterr())
    assert all(text in told for text in ("teacher: 24 of 24", "gan: 3 steps", "balance: step 4"))
    folder = place / "run" / "start"
    begun = open_network(folder / "G_ema").state_dict()
    original = open_network(place / "gan").state_dict()
    moved = {name for name in original if not torch.equal(original[name], begun[name])}
    assert {"mapping.fc0.weight", "mapping.w_avg", "synthesis.b8.conv0.weight"} <= moved
    facts = json.loads((place / "run" / "summary.json").read_text())["learnt_before"]
    assert facts["pictures"] == 24
    assert facts["adversary_steps"] == 3

    assert main(["export", str(place / "run"), "--out", str(place / "out")]) == 0
    given = open_network(place / "out" / "G_ema").state_dict()
    assert all(torch.allclose(given[name], begun[name], atol=1e-5) for name in begun)  # the mean latent, too

    written = (folder / "G_ema.safetensors").stat().st_mtime_ns
    more = [*words(place, "training.generator.learning_rate=1e-12"), "training.iterations=6"]
    common = ["training.batch=4", "training.device=cpu", "training.online_warmup=2", "checkpoints.every=2"]
    common += ["evaluation.judge=none", "evaluation.preview=3", "training.log_every=1"]
    players = [f"generator={place / 'gan'}", f"teacher={place / 'teacher'}"]
    assert main(["run", "gan_refine", "--out", str(place / "run"), "--resume", *players, *common, *more]) == 0
    assert (folder / "G_ema.safetensors").stat().st_mtime_ns == written  # not learnt again


def test_minutes_end_the_adversary_and_its_steps_are_told(place):
    assert run(place, *words(place, "start.adversary.steps=1000000", "start.adversary.minutes=0.001")) == 0
    facts = json.loads((place / "run" / "start" / "start.json").read_text())
    assert 1 <= facts["adversary_steps"] < 1000


def test_an_interrupted_start_goes_on(place):
    assert run(place, *words(place)) == 0
    whole = open_network(place / "run" / "start" / "G_ema").state_dict()
    folder = place / "run" / "start"
    for name in ("G_ema.json", "G_ema.safetensors", "start.json"):
        (folder / name).unlink()  # as if stopped after the adversary
    assert run(place, *words(place), "--resume") == 0
    again = open_network(folder / "G_ema").state_dict()
    assert all(torch.equal(whole[name], again[name]) for name in whole)


def test_kept_pictures_of_other_settings_or_broken_are_told(place, capsys):
    assert run(place, *words(place)) == 0
    folder = place / "run" / "start"
    (folder / "start.json").unlink()
    np.savez(folder / "pictures.npz", images=np.zeros((5, 3, SIDE, SIDE), np.uint8))
    assert run(place, *words(place), "--resume") == 2
    assert "[5, 3, 16, 16] and [24, 3, 16, 16] are asked for" in capsys.readouterr().err
    (folder / "pictures.npz").write_bytes(b"PK not a zip")
    assert run(place, *words(place), "--resume") == 2
    assert "delete it to draw them anew" in capsys.readouterr().err


def test_without_classes_and_at_another_resolution(place):
    networks.save(unet(classes=0), place / "teacher")
    networks.save(gan(2 * SIDE, classes=0), place / "gan")
    assert run(place, *words(place)[:2], *words(place)[5:], "start.adversary.networks=none") == 0
    begun = open_network(place / "run" / "start" / "G_ema").state_dict()
    original = open_network(place / "gan").state_dict()
    moved = {name for name in original if not torch.equal(original[name], begun[name])}
    assert moved
    assert all(name.startswith("mapping.") for name in moved)


def test_an_unconditional_gan_goes_on_with_its_own_training(place):
    networks.save(unet(classes=0), place / "teacher")
    average = gan(classes=0)
    networks.save(average, place / "gan")
    networks.save(average, place / "G")
    kwargs = {"c_dim": 0, "img_resolution": SIDE, "img_channels": 3, "channel_base": 64, "channel_max": 8}
    networks.save(networks.build("Discriminator", kwargs), place / "D")
    assert run(place, *words(place)) == 0


def test_a_pickle_brings_its_own_adversaries(place, capsys):
    kwargs = {"c_dim": CLASSES, "img_resolution": SIDE, "img_channels": 3, "channel_base": 64, "channel_max": 8}
    players = {"G": open_network(place / "G"), "D": open_network(place / "D"), "G_ema": open_network(place / "gan")}
    arguments = {"G": gan_kwargs(), "D": kwargs, "G_ema": gan_kwargs()}
    dump(place / "gan.pkl", {key: as_pickled(network, arguments[key]) for key, network in players.items()})
    chosen = [word for word in words(place) if "networks" not in word]
    assert run(place, *chosen, generator="gan.pkl") == 0
    begun = open_network(place / "run" / "start" / "G_ema").state_dict()

    assert run(place, *words(place), "--out", str(place / "other")) == 0
    folders = open_network(place / "other" / "start" / "G_ema").state_dict()
    assert all(torch.equal(begun[name], folders[name]) for name in folders)  # as from the three folders
    assert "gan: 3 steps" in "".join(capsys.readouterr())


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["start.adversary.networks=own"], "is no pickle that brings G and D"),
        (["start.adversary.networks=nowhere"], "neither a local folder nor"),
        (["start.teacher_steps=1"], "teacher_steps at least 2"),
        (["start.balance.clusters=[1]"], "at least 2 each"),
    ],
)
def test_what_cannot_start_is_refused(place, capsys, more, message):
    assert run(place, *words(place, *more)) == 2
    assert message in capsys.readouterr().err
    assert not (place / "run" / "start").exists()


def test_adversaries_of_another_gan_are_refused(place, capsys):
    torch.manual_seed(5)
    networks.save(gan(), place / "G")
    assert run(place, *words(place)) == 2
    assert "is not what generator.path" in capsys.readouterr().err
    networks.save(open_network(place / "gan"), place / "G")
    networks.save(gan(), place / "D")
    assert run(place, *words(place)) == 2
    assert "does not hold G and D" in capsys.readouterr().err
    kwargs = {"c_dim": CLASSES, "img_resolution": 2 * SIDE, "img_channels": 3, "channel_base": 64, "channel_max": 8}
    networks.save(networks.build("Discriminator", kwargs), place / "D")
    assert run(place, *words(place)) == 2
    assert "sees 32 px" in capsys.readouterr().err


def test_several_processes_are_told_to_start_with_one(place, capsys, monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "2")
    task = type("Task", (), {})()
    task.config = type("Config", (), {"start": StartConfig(pictures=5)})()
    with pytest.raises(start.UserError, match="one process"):
        start.check(task, None)


def test_the_embedded_adversaries_are_of_the_embedded_gan():
    assets = Path(networks.__file__).parents[2] / "assets" / "toybox32"
    assert start.alike(open_network(assets / "adversaries" / "G"), open_network(assets / "gan")) > 0.9
