"""Pixel-space one-step distillation on tiny random teachers: the start, a whole run, its files, and what it refuses."""

import json

import pytest
import torch

from scorefield import config as configuration
from scorefield import networks, resources
from scorefield.cli import main
from scorefield.commands.common import open_run
from scorefield.evaluation.judge import Judge
from scorefield.importer.open import open_network
from scorefield.random import Draws
from scorefield.runfolder import RunFolder
from scorefield.training.trainer import Trainer
from tasks.class_to_image import ClassToImage
from tasks.class_to_image.settings import ClassToImageConfig
from tasks.class_to_image.task import PRESETS

torch.set_num_threads(1)
SIDE, CLASSES = 16, 3


def unet(classes=CLASSES, channels=3, augment=0, side=SIDE, **more):
    kwargs = {"img_resolution": side, "img_channels": channels, "label_dim": classes, "model_type": "SongUNet"}
    small = {"model_channels": 16, "channel_mult": [1, 2], "num_blocks": 1, "attn_resolutions": []}
    network = networks.build("EDMPrecond", kwargs | small | {"augment_dim": augment} | more)
    with torch.no_grad():  # away from the zeros that residual branches start at
        for p in network.parameters():
            p.add_(torch.randn_like(p) * 0.05)
    return network


@pytest.fixture
def place(tmp_path):
    torch.manual_seed(0)
    networks.save(unet(), tmp_path / "teacher")
    networks.save(unet(classes=0, augment=9, dropout=0.2), tmp_path / "free")
    return tmp_path


COMMON = ["training.iterations=3", "training.batch=4", "training.device=cpu", "checkpoints.every=2"]
COMMON += [
    "training.log_every=1",
    "training.online_warmup=0",
    "evaluation.judge=none",
    "evaluation.preview=3",
    "evaluation.teacher_steps=2",
]


def run(place, *words, teacher="teacher"):
    given = [f"teacher={place / teacher}", *COMMON, *words]
    return main(["run", "class_to_image", "--out", str(place / "run"), *given])


def task(place, *words, teacher="teacher", device="cpu"):
    overrides = [f"teacher.path={place / teacher}", *COMMON, *words]
    found = ClassToImage(configuration.load(ClassToImageConfig, None, overrides), RunFolder(place / "run"), device)
    found.check()
    return found


def test_the_untrained_student_is_the_teacher_called_once(place):
    """x = D(2.5 z, 2.5, label) with EDM's preconditioning written out around the raw network."""
    started = task(place)
    players = started.build()
    draws = Draws(7, 0, torch.arange(4))
    batch = players.generator.draw(draws)
    z, label = draws.normal("z", 3, SIDE, SIDE), batch.teacher_condition["label"]
    assert label.sum(1).tolist() == [1.0] * 4
    raw = networks.load(place / "teacher").eval().model
    total = 2.5**2 + 0.5**2
    seen = 2.5 * z / total**0.5
    with torch.no_grad():
        output = raw(seen, torch.full((4,), 2.5).log() / 4, label, None)
        wanted = 0.5**2 / total * (2.5 * z) + 2.5 * 0.5 / total**0.5 * output
        torch.testing.assert_close(players.generator(batch), wanted, rtol=1e-5, atol=1e-5)
    assert started.config.generator.init_sigma == 2.5


def test_a_run_with_classes_and_its_files(place, capsys):
    torch.manual_seed(0)
    Judge({"object": [str(k) for k in range(CLASSES)]}, (8, 8, 8, 16)).save(place / "judge")
    words = [
        "evaluation.data=toybox",
        "evaluation.samples=12",
        "evaluation.real=20",
        "evaluation.running=8",
        "evaluation.per_class=2",
    ]
    assert run(place, *words, f"evaluation.judge={place}", "evaluation.nearest=2") == 0
    out = place / "run"
    summary = json.loads((out / "summary.json").read_text())
    assert summary["overhead_ratio"] == summary["step_seconds"] / summary["bare_seconds"] > 0
    for who in ("real", "teacher", "student"):
        assert summary[who].keys() >= {
            "frechet",
            "kid",
            "inception_score",
            "precision",
            "recall",
            "density",
            "coverage",
        }
    assert summary["teacher"]["steps"] == 3
    assert summary["student"]["steps"] == 1
    assert summary["frechet_name"] == "FD-judge"
    assert 0 <= summary["student"]["label_accuracy"] <= 1
    page = (out / "report.html").read_text()
    for words in ("FD-judge", "Diversity by class", "Nearest real pictures", "Inception score"):
        assert words in page

    assert main(["sample", str(out), "0", "2", "--out", str(place / "pictures")]) == 0
    assert len(list((place / "pictures").glob("*.png"))) == 2
    assert main(["sample", str(out), "3"]) == 2
    assert "0 to 2" in capsys.readouterr().err

    reference = str(place / "reference.npz")
    assert main(["evaluate", str(out), "--samples", "9", "--device", "cpu", "--save-reference", reference]) == 0
    again = json.loads((out / "summary.json").read_text())
    assert again["student"]["samples"] == 9
    assert main(["evaluate", str(out), "--samples", "9", "--device", "cpu", "--reference", reference]) == 0
    third = json.loads((out / "summary.json").read_text())
    assert third["reference"] == reference
    assert third["student"]["frechet"] == pytest.approx(again["student"]["frechet"], rel=1e-6)
    capsys.readouterr()
    for flags, message in ((["--samples", "2"], "at least 5"), (["--features", "nobody"], "no feature network")):
        assert main(["evaluate", str(out), "--device", "cpu", *flags]) == 2
        assert message in capsys.readouterr().err


def test_what_is_exported_is_the_generator(place):
    assert run(place) == 0
    assert main(["export", str(place / "run"), "--out", str(place / "out")]) == 0
    found, start = open_network(place / "out" / "generator"), open_network(place / "teacher")
    assert any(not torch.equal(a, b) for a, b in zip(found.parameters(), start.parameters(), strict=True))
    restored, weights, _ = open_run(place / "run", "cpu")
    generator = restored.restore(weights)
    batch = restored.batch(generator, torch.arange(2), 5)
    z, label = batch.latents["z"], batch.teacher_condition["label"]
    start.load_state_dict(torch.load(place / "out" / "generator.pt", weights_only=True))  # the documented lines
    for network in (found, start):
        images = network.eval()(2.5 * z, 2.5 * torch.ones(2), label)
        torch.testing.assert_close(images, generator(batch))
    assert "one-hot [B, 3]" in (place / "out" / "README.md").read_text()
    # and goes on from there, as from a published one-step generator
    again = task(place, f"generator.init={place / 'out' / 'generator'}").build().generator
    torch.testing.assert_close(again(batch).detach(), generator(batch))


def test_sids_recipe_on_an_unconditional_teacher_resumes_to_the_same_weights(place):
    """Augmentation and dropout of the networks that learn, and all of it keyed."""
    recipe = ["online.augment=0.5", "online.mirror=0.5", "training.fresh_samples=true", "training.dropout=trained"]
    assert run(place, *recipe, "training.iterations=4", teacher="free") == 0
    whole = open_run(place / "run", "cpu")[1]
    for folder in (place / "run" / "checkpoints").glob("iteration-000004"):
        for file in folder.iterdir():
            file.unlink()
        folder.rmdir()
    arguments = ["run", "class_to_image", "--out", str(place / "run"), "--resume", f"teacher={place / 'free'}"]
    assert main([*arguments, *COMMON, *recipe, "training.iterations=4"]) == 0
    resumed = open_run(place / "run", "cpu")[1]
    assert all(torch.equal(whole[name], resumed[name]) for name in whole)
    assert main(["sample", str(place / "run"), "any"]) == 0


def test_the_online_score_alone_learns_of_augmentation(place):
    started = task(place, "online.augment=1.0", teacher="free")
    players = started.build()
    x0, draws = torch.rand(3, 3, SIDE, SIDE), Draws(0, 0, torch.arange(3))
    seen, condition = players.generator.online_view(x0, {}, draws)
    assert condition["augment"].shape == (3, 9)
    assert not torch.allclose(seen, x0)
    part = Draws(0, 0, torch.arange(1, 3))
    torch.testing.assert_close(players.generator.online_view(x0[1:], {}, part)[0], seen[1:])  # whatever the batch
    sigma = torch.ones(3)
    told = players.online(x0, sigma, condition)
    assert not torch.allclose(told, players.online(x0, sigma, {}))
    names = {
        n for player in (players.online, players.generator) for n, p in player.named_parameters() if p.requires_grad
    }
    assert {n for n in names if "map_augment" in n} == {"network.model.map_augment.weight"}  # the online score's


def trainer_of(started):
    players = started.build()
    parts = players.teacher, players.online, players.generator
    return players, Trainer(started.config.training, *parts, started.config.build_loss())


@pytest.mark.parametrize("mode", ["none", "trained", "matched"])
def test_dropout_modes(place, mode):
    """Which networks drop in which update."""
    started = task(
        place, f"training.dropout={mode}", f"training.fresh_samples={str(mode == 'trained').lower()}", teacher="free"
    )
    players = started.build()
    trainer = Trainer(
        started.config.training, players.teacher, players.online, players.generator, started.config.build_loss()
    )
    seen = []
    student = players.generator.denoiser
    for name, player in (("teacher", players.teacher), ("online", players.online), ("student", student)):
        hook = lambda module, _, name=name: seen.append((name, torch.is_grad_enabled(), module.network.training))  # noqa: E731
        player.register_forward_pre_hook(hook)
    trainer.iteration(0)
    drops = [(name, training) for name, _, training in seen]
    expected = {
        "none": [("student", False), ("online", False), ("teacher", False), ("online", False)],
        "trained": [("student", False), ("online", True), ("student", True), ("teacher", False), ("online", False)],
        "matched": [("student", True), ("online", True), ("teacher", True), ("online", True)],
    }
    assert drops == expected[mode]


def test_matched_networks_drop_the_same(place):
    """Teacher and online score are still the same network: with equal masks they agree, else they would not."""
    started = task(place, "training.dropout=matched", "loss.name=diff_instruct", teacher="free")
    players = started.build()
    trainer = Trainer(
        started.config.training, players.teacher, players.online, players.generator, started.config.build_loss()
    )
    sample = trainer._render(trainer._parts(0)[0])
    loss = trainer._generator_loss(sample, 0)
    assert abs(float(loss.detach())) < 1e-6
    assert float(trainer.seen["x0_gap/rms"]) < 1e-12
    x, sigma = torch.randn(2, 3, SIDE, SIDE), torch.ones(2)
    players.online.train()
    assert not torch.allclose(players.online(x, sigma, {}), players.online(x, sigma, {}))


@pytest.mark.parametrize(
    ("words", "teacher", "message"),
    [
        (["online.augment=0.1"], "teacher", "not trained to be told"),
        (["online.mirror=0.1"], "teacher", "give online.augment"),
        (["generator.labels=[1,1]"], "teacher", "3 numbers"),
        (["generator.labels=[1,1]"], "free", "unconditional"),
        (["generator.init=nowhere"], "teacher", "nowhere"),
        (["generator.init_sigma=100"], "teacher", "outside the teacher's noise levels"),
        (["training.dropout=trained", "training.fresh_samples=false"], "teacher", "fresh_samples"),
        (["training.dropout=some"], "teacher", "dropout"),
        (["evaluation.samples=1"], "teacher", "at least 5"),
        ([], "grey", "1 channels"),
        ([], "gan", "StyleGAN2 generator"),
        ([], "nothing", "no network at"),
    ],
)
def test_what_does_not_fit_is_refused_before_anything_starts(place, capsys, words, teacher, message):
    if teacher == "grey":
        networks.save(unet(channels=1), place / "grey")
    if teacher == "gan":
        kwargs = {"z_dim": 8, "c_dim": 0, "w_dim": 8, "img_resolution": 16, "img_channels": 3}
        networks.save(networks.build("Generator", kwargs | {"synthesis_kwargs": {"channel_max": 8}}), place / "gan")
    assert run(place, *words, teacher=teacher) == 2
    assert message in capsys.readouterr().err
    assert not (place / "run" / "checkpoints").exists()


def test_another_architecture_is_no_start(place, capsys):
    networks.save(unet(num_blocks=2), place / "deeper")
    assert run(place, f"generator.init={place / 'deeper'}") == 2
    assert "architecture" in capsys.readouterr().err


@pytest.mark.parametrize(
    "path", sorted((resources.root() / "configs" / "class_to_image").glob("*.yaml")), ids=lambda p: p.stem
)
def test_presets_read_and_follow_the_recipe(path):
    found = configuration.load(ClassToImageConfig, path)
    loss, training = found.build_loss(), found.training
    assert type(loss).__name__.lower() == "sim"
    assert (found.generator.init_sigma, training.sigma_data) == (2.5, 0.5)
    if path.stem not in ("default", "cifar10_small"):  # minutes of training, whose laws reach further up
        assert training.generator_noise == {"name": "karras", "u_min": 0.0, "u_max": 0.8}
        assert training.online_noise == {"name": "log_normal", "mean": -1.2, "std": 1.2}
        assert (training.dropout, training.fresh_samples, training.ema_rampup) == ("trained", True, 0.05)
        assert training.batch % training.accumulation == 0


@pytest.mark.parametrize("name", list(PRESETS))
def test_a_published_teacher_brings_its_preset(name, capsys):
    assert main(["config", "class_to_image", f"teacher=/somewhere/{name}"]) == 0
    found = capsys.readouterr().out
    assert main(["config", "class_to_image", "--config", PRESETS[name], f"teacher=/somewhere/{name}"]) == 0
    assert capsys.readouterr().out == found
    wanted = resources.preset("class_to_image", PRESETS[name]).read_text()
    assert name in wanted


def test_another_teacher_is_not_held_against_toybox(place, capsys):
    assert main(["config", "class_to_image", f"teacher={place / 'teacher'}"]) == 0
    found = capsys.readouterr().out
    assert "data: none" in found
    assert main(["config", "class_to_image"]) == 0
    assert "data: toybox" in capsys.readouterr().out
