"""The estimate of a run's memory against the allocator's own count, and the refusal of what cannot fit."""

import copy
import json
import re

import pytest
import torch

from scorefield.cli import main
from scorefield.cost.budget import advise, memory_of, read_size
from scorefield.cost.estimate import Estimate, estimate
from scorefield.cost.ledger import Ledger
from scorefield.errors import UserError
from scorefield.plugins import load_task
from scorefield.runfolder import RunFolder
from scorefield.teachers import known
from scorefield.teachers.shared import holder
from scorefield.training.trainer import Trainer
from tests.teachers import families

SMALL = "teacher.options={resolution: 32}"
FEW = ["prompts.count=64", "evaluation.samples=8", "evaluation.preview=4"]
LORA = ["generator.kind=lora", "generator.lora_rank=2", "online.kind=lora"]


def make(path, *words):
    from scorefield.commands.common import build_config

    task_class = load_task("text_to_image")
    common = ["training.device=cpu", "training.batch=4", "training.guidance_scale=3", *FEW]
    return task_class(build_config(task_class, None, [*common, *words]), RunFolder(path), "cpu")


def allocated(call) -> int:
    """The most bytes that a call holds at once, as torch's CPU allocator counts them."""
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU], profile_memory=True) as profile:
        call()
    events = (e for e in profile.profiler.kineto_results.events() if e.name() == "[memory]")
    held = most = 0
    for event in sorted(events, key=lambda e: e.start_ns()):
        held += event.nbytes()
        most = max(most, held)
    return most


def measured(task, iterations: int = 1) -> int:
    """Peak bytes of iterations with real tensors: what lived before them, and what the allocator gave in them."""
    players = task.rehearse()
    config = task.config
    trainer = Trainer(config.training, players.teacher, players.online, players.generator, config.build_loss())
    trainer.iteration(0)
    whole = (holder(players.teacher), players.online, players.generator, *players.beside.values())
    held = [value for module in whole for value in (*module.parameters(), *module.buffers())]
    held += trainer.average.shadow
    for player in (trainer.online_player, trainer.generator_player):
        held += [v for state in player.optimizer.state.values() for v in state.values()]
    storages = {v.untyped_storage()._cdata: v.untyped_storage().nbytes() for v in held}
    return sum(storages.values()) + allocated(lambda: [trainer.iteration(k) for k in range(1, 1 + iterations)])


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("pixart_sigma", ["training.accumulation=2", "training.precision=bf16", *LORA]),
        ("pixart_sigma", ["training.activation_checkpointing=[teacher,online]", "training.split_guidance=true"]),
        ("pixart_sigma", ["training.activation_checkpointing=[teacher,online,generator]", *LORA]),
        pytest.param(
            "flux_schnell",
            ["training.accumulation=2", "training.precision=bf16", *LORA, SMALL],
            marks=pytest.mark.slow,
        ),
        pytest.param("sd_eps", ["training.batch=16"], marks=pytest.mark.slow),
        pytest.param("sd3", ["loss={name: dmd}", "training.online_updates=1"], marks=pytest.mark.slow),
        pytest.param("sdxl", ["training.accumulation=4", "training.precision=bf16", *LORA], marks=pytest.mark.slow),
    ],
)
def test_the_estimate_is_what_the_allocator_counts(name, words, tmp_path):
    task = make(tmp_path, f"teacher.path={families.write(name, tmp_path / name)}", *words)
    task.memory_beside = dict
    assert estimate(task, task.config, "cpu").per_device == pytest.approx(measured(task), rel=0.05)


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    """A folder with a small PixArt, its text encoder and its autoencoder."""
    return families.write("pixart_sigma", tmp_path_factory.mktemp("tiny") / "pixart")


def test_roles_hold_what_they_should(tiny, tmp_path):
    task = make(tmp_path, f"teacher.path={tiny}")
    task.check()
    before = copy.deepcopy(task.config)
    found = estimate(task, task.config, "cuda", devices=2).memory
    assert task.config == before
    trained = found["EMA"]
    assert found["teacher"] == found["online score"] == found["generator"] > trained  # buffers are not averaged
    assert found["optimizer states"] == pytest.approx(4 * trained, rel=0.01)
    assert found["gradient exchange"] == pytest.approx(2 * trained, rel=0.01)
    text = task.pipeline.encode(task.prompts.train)
    kept = 4 * text["text"].shape[-1] * text["text_mask"].sum().item()
    assert found["embeddings"] == pytest.approx(kept, rel=0.01)
    assert found["autoencoder"] == sum(p.numel() * 4 for p in task.pipeline.part("vae").parameters())
    shared = make(tmp_path, f"teacher.path={tiny}", *LORA)
    shared.check()
    lean = estimate(shared, shared.config, "cuda").memory
    assert lean["teacher"] == found["teacher"]
    assert lean["generator"] < found["generator"] / 4


def test_an_average_in_host_memory_takes_nothing_of_a_gpu(tiny, tmp_path):
    task = make(tmp_path, f"teacher.path={tiny}", "training.ema_device=cpu")
    task.check()
    there = estimate(task, task.config, "cuda")
    assert there.memory["EMA"] == 0
    here = estimate(task, task.config, "cpu")  # where it is also copied to, in the device's own memory
    task.memory_beside = dict
    assert estimate(task, task.config, "cpu").per_device == pytest.approx(
        measured(task) + here.memory["EMA"] / 2, rel=0.05
    )
    assert here.memory["EMA"] > 0


def test_a_ledger_follows_real_tensors():
    ledger = Ledger(torch.device("cpu"))
    kept = torch.zeros(100)
    ledger.book("kept", [kept, kept[3:]])  # a view is no more memory
    with ledger:
        made = torch.ones(50) * 2
        del made
        made = torch.ones(10)
        ledger.book("other", [made])
    assert ledger.live == {"kept": 400, "other": 40, "activations": 0}
    assert (ledger.peak, ledger.at_peak) == (800, {"kept": 400, "activations": 400})
    del made, kept
    assert ledger.total == 0


def plan(capsys, *words) -> tuple[int, str, str]:
    status = main(["run", "text_to_image", "--dry-run", "training.batch=64", *FEW, *words])
    seen = capsys.readouterr()
    return status, seen.out, seen.err


def test_what_cannot_fit_is_refused_with_the_switches_that_help(tiny, capsys):
    status, out, err = plan(capsys, f"teacher.path={tiny}", "--device-memory", "602MB")
    assert status == 2
    assert "activations" in out
    last = err.strip().splitlines()[-1]
    found = re.search(r"it would fit, in ([\d.]+ .B), with (training.accumulation=\d+) \(-[\d.]+ .B\)$", last)
    assert found, last
    status, out, err = plan(capsys, f"teacher.path={tiny}", "--device-memory", "602MB", found[2])  # and so it does
    assert (status, found[1] in out) == (0, True)
    assert "fits" in out.splitlines()[-1]


def test_switches_are_taken_in_order_until_the_run_fits():
    """Memory of a made-up run: 10 a sample held at once, 40 for an online score of its own, 20 that nothing lowers."""

    def ask(config):
        held = config.training.batch / config.training.accumulation
        return Estimate(1, {"all": 10 * held + 20 + (40 if config.online.kind == "full" else 1)}, 0)

    config = make(".", "training.batch=16").config
    said = advise(config, 130, ask(config), ask)
    assert said == "it would fit, in 0.1 kB, with training.accumulation=4 (-0.12 kB)"
    said = advise(config, 45, ask(config), ask)
    assert said == "it would fit, in 0.031 kB, with training.accumulation=16 (-0.15 kB) online.kind=lora (-0.039 kB)"
    assert advise(config, 25, ask(config), ask).startswith("even with training.accumulation=16")
    assert "take a device with more memory" in advise(config, 25, ask(config), ask)


def test_a_model_of_the_hub_is_planned_without_it(monkeypatch, capsys):
    tiny = {**known.PIXART, "num_layers": 1, "num_attention_heads": 2, "cross_attention_dim": 144, "sample_size": 8}
    made = ("PixArtAlphaPipeline", "transformer", "PixArtTransformer2DModel", tiny, known.LINEAR, known.BLOCKS4)
    monkeypatch.setitem(known.KNOWN, "PixArt-alpha/PixArt-XL-2-512x512", made)
    words = ["--config", "pixart_512", "prompts.path=toybox", "--device-memory", "80GB", "--devices", "4"]
    words += ["training.accumulation=4"]
    status, out, err = plan(capsys, *words)
    assert status == 0, err
    assert "PixArt-alpha/PixArt-XL-2-512x512" in out
    assert "all 4" in out
    assert "335 MB" in out  # the autoencoder's 83.7 million parameters
    assert plan(capsys, "teacher.path=some/model")[0] == 2


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["--device-memory", "large"], '"large" is no size of a memory'),
        (["--devices", "0"], "--devices must be at least 1"),
        (["--devices", "3"], "training.batch 64 does not divide among 3 devices"),
    ],
)
def test_mistakes_are_one_sentence(words, expected, capsys):
    status, _, err = plan(capsys, *words)
    assert status == 2
    assert expected in err
    assert main(["run", "text_to_image", *words]) == 2


def test_sizes():
    assert read_size("80GB") == 80e9
    assert read_size("1.5 GiB") == 1.5 * 2**30
    assert memory_of("cpu") > 1e8
    for wrong in ("80", "GB", "1.2.3GB", "-4GB"):
        with pytest.raises(UserError, match="no size"):
            read_size(wrong)


def test_a_plan_for_the_device_at_hand_says_how_fast_it_could_be(tiny, capsys):
    """The bound holds for what bench measures of the same configuration."""
    words = [f"teacher.path={tiny}", "training.device=cpu", "training.batch=8", "training.accumulation=1"]
    assert main(["run", "text_to_image", "--dry-run", *FEW, *words]) == 0
    found = re.search(r"at most ([\d.e+]+) images/s, ([\d.e-]+) s an iteration", capsys.readouterr().out)
    assert float(found[1]) * float(found[2]) == pytest.approx(8, rel=0.02)
    assert main(["bench", "--json", "--rounds", "1", *words]) == 0
    (row,) = json.loads(capsys.readouterr().out)["rows"]
    assert float(found[1]) > row["images_per_second"]
    status, out, _ = plan(capsys, f"teacher.path={tiny}", "--device-memory", "80GB")
    assert status == 0
    assert "images/s" not in out  # a device that is not here


def test_a_plan_says_that_it_does_not_foresee_what_compiling_changes(tiny, capsys):
    words = [f"teacher.path={tiny}", "--device-memory", "80GB"]
    assert "training.compile is on" in plan(capsys, *words, "training.compile=true")[1]
    assert "training.compile" not in plan(capsys, *words)[1]


def test_the_online_scores_average_is_foreseen(tiny, tmp_path):
    found = []
    for words in ([], ["training.online_half_life_images=100"]):
        task = make(tmp_path, f"teacher.path={tiny}", *words)
        task.check()
        found.append(estimate(task, task.config, "cuda").memory["EMA"])
    assert found[1] == 2 * found[0] > 0
