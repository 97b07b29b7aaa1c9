"""The documentation: links and anchors lead somewhere, keys and commands exist, figures are the code's."""

import argparse
import dataclasses
import importlib
import inspect
import re
import shlex

import pytest
import torch
import yaml

from scorefield import config as configuration
from scorefield import losses, noise_laws
from scorefield.cli import VERBS, module_of
from scorefield.commands.run import passes_per_iteration
from scorefield.errors import UserError
from scorefield.evaluation.peers import PeerConfig
from scorefield.evaluation.scores import SCORES
from scorefield.losses import DISTANCES, LOSSES
from scorefield.losses.weighting import GENERATOR_WEIGHTINGS
from scorefield.noise import DiscreteVP, karras_sigmas
from scorefield.noise_laws import NOISE_LAWS
from scorefield.plugins import load_task, task_folders
from scorefield.pretrain.build import PretrainConfig
from scorefield.pretrain.edm import EDMTrainConfig
from scorefield.pretrain.gan import GANTrainConfig
from scorefield.training.settings import TrainingConfig

from .packages import ROOT, blocks, section

PAGES = ["README.md", "CONTRIBUTING.md", *(f"docs/{path.name}" for path in sorted((ROOT / "docs").glob("*.md")))]
CONFIGS = [load_task(name).Config for name in task_folders()]
KNOWN = list(dict.fromkeys(key for config in CONFIGS for key in configuration.dotted_keys(config)))
FREE = list(dict.fromkeys(key for config in CONFIGS for key in configuration.free_sections(config)))
SECTIONS = {key.split(".")[0] for key in KNOWN}
TRAININGS = {"train-teacher": PretrainConfig, "train-edm": EDMTrainConfig, "train-gan": GANTrainConfig}
OWN = TRAININGS | {"evaluate": PeerConfig}  # verbs whose key=value words are not a task's
EXTRA = {"ring.radius", "ring.std", "loss.temperature"}  # of CONTRIBUTING's own package


def prose(page: str) -> str:
    """A page without its code blocks."""
    return re.sub(r"^```.*?^```$", "", (ROOT / page).read_text(encoding="utf-8"), flags=re.MULTILINE | re.DOTALL)


def anchors(page: str) -> set[str]:
    """Ids of a page's headings, as GitHub and mkdocs make them."""
    found = set()
    for heading in re.findall(r"^#+ (.+)$", prose(page), re.MULTILINE):
        found.add(re.sub(r"[^\w\- ]", "", heading.lower()).strip().replace(" ", "-"))
    return found


def links(page: str) -> list[str]:
    return re.findall(r"\]\(([^)\s]+)\)", prose(page))


def broken(page: str) -> list[str]:
    """Relative links of a page whose file or anchor is not there."""
    bad = []
    for link in links(page):
        if link.startswith(("http:", "https:", "mailto:")):
            continue
        path, _, anchor = link.partition("#")
        target = ((ROOT / page).parent / path).resolve() if path else ROOT / page
        if not target.exists() or (anchor and anchor not in anchors(str(target.relative_to(ROOT)))):
            bad.append(link)
    return bad


ALL_PAGES = PAGES + sorted(path.relative_to(ROOT).as_posix() for path in (ROOT / "docs").glob("*/*.md"))


@pytest.mark.parametrize("page", ALL_PAGES)
def test_links_lead_somewhere(page):
    assert broken(page) == []


def test_the_check_of_links_sees_a_broken_one(tmp_path, monkeypatch):
    (tmp_path / "a.md").write_text("# One two\n[x](b.md) [y](#one-two) [z](#three) [w](https://nowhere)\n")
    monkeypatch.setattr("tests.extend.test_docs.ROOT", tmp_path)
    assert broken("a.md") == ["b.md", "#three"]


def menu(entry) -> list[str]:
    """Pages of a menu, sections and all."""
    if isinstance(entry, str):
        return [entry]
    below = entry.values() if isinstance(entry, dict) else entry
    return [name for part in below for name in menu(part)]


def test_pages_keep_to_themselves_and_are_all_in_the_menu():
    for page in PAGES:
        if page.startswith("docs/"):
            assert not [link for link in links(page) if link.startswith("..")], page
    text = (ROOT / "mkdocs.yml").read_text()
    there = {path.relative_to(ROOT / "docs").as_posix() for path in (ROOT / "docs").rglob("*.md")}
    assert set(menu(yaml.safe_load(text)["nav"])) == there


# ---------------------------------------------------------------------- configuration keys


def option_names() -> set[str]:
    """Keys below the free sections: options of every loss and noise law."""
    laws = {field.name for name in NOISE_LAWS for field in dataclasses.fields(NOISE_LAWS.get(name))} | {"name"}
    found = {f"loss.{field.name}" for name in LOSSES for field in dataclasses.fields(LOSSES.get(name))} | {"loss.name"}
    return found | {f"training.{law}.{option}" for law in ("generator_noise", "online_noise") for option in laws}


def is_key(text: str) -> bool:
    parts = text.split(".")
    if parts[-1] == "*":
        return any(key.startswith(text[:-1]) for key in KNOWN)
    if text in EXTRA or text in KNOWN or text in option_names():
        return True
    if text.startswith("monitors.lines."):
        return parts[-1] in set(registries()[-1])
    if text.startswith("evaluation.score_options.") and len(parts) == 4:
        return parts[2] in SCORES and parts[3] in inspect.signature(SCORES.get(parts[2])).parameters
    return text.startswith(("teacher.options.", "generator.options."))


def mentioned_keys(text: str) -> list[str]:
    """Dotted words in backticks, with or without =value, that begin like a section of the configuration."""
    words = [word for span in re.findall(r"`([^`]+)`", text) for word in span.split()]
    keys = [word.partition("=")[0] for word in words]
    return [key for key in keys if re.fullmatch(r"[a-z_]+(\.[a-z_]+)*\.([a-z_]+|\*)", key) and _section(key)]


def _section(key: str) -> bool:
    first = key.split(".")[0]
    return first in SECTIONS and not key.endswith((".yaml", ".txt", ".json", ".md"))


@pytest.mark.parametrize("page", PAGES)
def test_every_key_that_is_mentioned_exists(page):
    assert [key for key in mentioned_keys(prose(page)) if not is_key(key)] == []


def test_the_check_of_keys_sees_a_wrong_one():
    text = "`training.iteration` `loss.alpha=1` `training.generator_noise.umax` `monitors.*` `task.txt` `evaluation.*`"
    assert [key for key in mentioned_keys(text) if not is_key(key)] == [
        "training.iteration",
        "training.generator_noise.umax",
    ]
    assert len([key for page in PAGES for key in mentioned_keys(prose(page))]) > 80


# ---------------------------------------------------------------------- commands


def commands() -> list[tuple[str, list[str]]]:
    """(page, words) of every ``scorefield`` command in code blocks and in backticks."""
    found = []
    for page in PAGES:
        shown = [text.replace("\\\n", " ") for language, _, text in blocks(page) if language == "bash"]
        lines = [line for text in shown for line in text.splitlines()]
        lines += re.findall(r"`(scorefield [^`]+)`", prose(page))
        for line in lines:
            line = re.sub(r"^.*python -m scorefield", "scorefield", line)
            if line.startswith("scorefield "):
                found.append((page, shlex.split(line, comments=True)[1:]))
    return found


def complaint(words: list[str]) -> str | None:
    """What is wrong with a command line: its verb, a flag, or an override; None if nothing is."""
    verb, rest = words[0], words[1:]
    if verb == "VERB":
        return None
    if verb not in VERBS:
        return f"no verb {verb}"
    parser = argparse.ArgumentParser(exit_on_error=False)
    importlib.import_module(f"scorefield.commands.{module_of(verb)}").add_arguments(parser)
    keys = configuration.dotted_keys(OWN[verb]) if verb in OWN else [*KNOWN, *EXTRA]
    free = configuration.free_sections(OWN[verb]) if verb in OWN else FREE
    flags = {flag for action in parser._actions for flag in action.option_strings}
    for before, word in zip(["", *rest], rest, strict=False):
        if word.startswith("--") and word not in flags:
            return f"no flag {word} of {verb}"
        if before == "--score-option":
            if not is_key(f"evaluation.score_options.{word.partition('=')[0]}"):
                return f"no score option {word}"
            continue
        if "=" in word and not word.startswith("-") and "images=N" not in word and ":" not in word:
            try:
                key = configuration.parse_override(word, keys, free)[0]
            except UserError as error:
                return None if word.startswith("network_evaluations=") else str(error)
            inside = verb in OWN and key.partition(".")[0] in free
            if key not in keys and not inside and not is_key(key):
                return f"no key {key}"
    return None


def test_every_command_that_is_shown_exists():
    shown = commands()
    assert len(shown) > 25
    assert [(page, words, said) for page, words in shown if (said := complaint(words))] == []


@pytest.mark.parametrize(
    "line",
    [
        "rum x",
        "run x --resumee",
        "run x loss.alpah=1",
        "run x training.iteration=3",
        "train-gan training.stepz=1",
        "run x evaluation.score_options.clip.pth=y",
    ],
)
def test_the_check_of_commands_sees_a_wrong_one(line):
    assert complaint(line.split())


# ---------------------------------------------------------------------- names, figures, examples


@pytest.mark.parametrize("page", PAGES)
def test_python_names_and_files_that_are_mentioned_exist(page):
    for span in re.findall(r"`([^`\s]+)`", prose(page)):
        if re.fullmatch(r"scorefield(\.\w+)+", span) and span.split(".")[1] not in ("losses", "tasks"):
            module, _, name = span.rpartition(".")
            group = f"scorefield.{name}" in {r.group for r in registries()}
            assert group or hasattr(importlib.import_module(module), name), span
        if re.fullmatch(r"(scorefield|tests|configs|assets|scripts)/[\w/]+\.\w+(\.\w+)?", span):
            assert (ROOT / span).exists(), span


def registries():
    from scorefield.generators.base import GENERATORS
    from scorefield.monitors import MONITORS
    from scorefield.teachers.base import TEACHERS

    return (LOSSES, DISTANCES, NOISE_LAWS, TEACHERS, GENERATORS, SCORES, MONITORS)


def test_contributing_names_every_group():
    text = (ROOT / "CONTRIBUTING.md").read_text()
    for registry in registries():
        assert f"`{registry.group}`" in text


def test_mathematics_covers_every_part():
    text = (ROOT / "docs/mathematics.md").read_text()
    own = [name for name in LOSSES if LOSSES._homes.get(name) == "scorefield"]
    for name in own:
        assert f"`loss.name={name}`" in text
    for name in [*DISTANCES, *GENERATOR_WEIGHTINGS, *NOISE_LAWS]:
        assert f"`{name}`" in text, name
    defaults = {row[0]: row[1] for row in table(section("docs/mathematics.md", "## SIM"))}
    for field in dataclasses.fields(LOSSES.get("sim")):
        if field.name != "sigma_data":
            stated = defaults[f"`loss.{field.name}`"].strip("`")
            assert stated == {None: "null"}.get(
                field.default, f"{field.default:g}" if field.name == "kappa" else field.default
            )


def table(text: str) -> list[list[str]]:
    """Rows of all tables in a text, without heads and rules."""
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in text.splitlines() if line.startswith("|")]
    rules = [k for k, row in enumerate(rows) if set(row[0]) == {"-"}]
    return [row for k, row in enumerate(rows) if k not in rules and k + 1 not in rules]


def test_the_table_of_costs_is_the_programs():
    rows = [row for row in table((ROOT / "docs/cost.md").read_text()) if len(row) == 4]
    assert len(rows) == len([name for name in LOSSES if LOSSES._homes[name] == "scorefield"]) + 1
    for label, *stated in rows:
        name = re.findall(r"`(\w+)`", label)[0]
        loss = losses.build(name, **({"jacobian": "none"} if "jacobian" in label else {}))
        guided = ({}, {"guidance_scale": 2.0}, {"guidance_scale": 2.0, "online_guidance_scale": 2.0})
        assert [float(cell) for cell in stated] == [passes_per_iteration(loss, TrainingConfig(**g)) for g in guided]
    sim = losses.build("sim")
    plain = passes_per_iteration(sim, TrainingConfig())
    assert passes_per_iteration(sim, TrainingConfig(online_updates=2)) == plain + 3
    assert passes_per_iteration(sim, TrainingConfig(fresh_samples=True)) == plain + 1
    assert passes_per_iteration(sim, TrainingConfig(accumulation=2)) == plain + 1


def test_the_dry_run_prints_the_tables_figure(capsys):
    from scorefield.cli import main

    words = ["training.device=cpu", "training.guidance_scale=2", "training.online_updates=1"]
    assert main(["run", "text_to_image", "--dry-run", *words]) == 0
    assert "12 forward passes an image" in capsys.readouterr().out


def test_the_noise_levels_of_other_projects():
    text = section("docs/conversions.md", "## Noise levels")
    stable, linear = DiscreteVP.scaled_linear(), DiscreteVP.linear()
    for process, timestep in ((stable, 625), (stable, 399), (linear, 440)):
        sigma = process.ve_sigma(torch.tensor([float(timestep)])).item()
        assert re.search(rf"timestep {timestep} [^\n]*\| {sigma:.4f} \|", text)
    assert f"{karras_sigmas(torch.tensor(0.8), 0.002, 80.0).item():.2f}" in text


def test_alpha_kappa_and_distance_agree_as_stated():
    rng = torch.Generator().manual_seed(0)
    x0 = torch.randn(3, 4, generator=rng)
    x_t = x0 + torch.randn(3, 4, generator=rng)
    seen = {"x0": x0, "x_t": x_t, "sigma": torch.ones(3), "teacher_x0": 0.6 * x_t, "online_x0": 0.4 * x_t.tanh()}
    spans = re.findall(r"`(loss\.name=\S+ [^`]+)`", section("docs/conversions.md", "## SiD and its alpha"))
    built = []
    for span in spans:
        options = dict(pair.removeprefix("loss.").split("=") for pair in span.split())
        options = {k: float(v) if re.fullmatch(r"[\d.]+", v) else v for k, v in options.items()}
        built.append(losses.build(options.pop("name"), **options)(**seen))
    _, one, squared, half, path = built
    torch.testing.assert_close(2 * one, squared)
    torch.testing.assert_close(2 * half, path)


def test_the_examples_of_the_python_page_run(capsys):
    for language, title, text in blocks("docs/python.md"):
        if language == "python" and not title:  # the titled one is the README's, tested with it
            exec(text, {"__name__": "example"})
    assert float(capsys.readouterr().out.strip()) > 0


def test_metrics_that_are_listed_are_those_of_a_run():
    import scorefield
    from scorefield.teachers.analytic import Gaussian

    seen: dict[str, float] = {}
    scorefield.distill(
        torch.nn.Linear(2, 2),
        Gaussian(torch.ones(2), torch.eye(2)),
        online=scorefield.Preconditioned(torch.nn.Linear(3, 2)),
        latents=(2,),
        iterations=1,
        watch=lambda k, figures: seen.update(figures),
    )
    listed = set(re.findall(r"`([a-z0-9_]+(?:/[a-z0-9_]+)?)`", section("docs/run-folder.md", "## Metrics")))
    assert set(seen) <= listed
    session = (ROOT / "scorefield/training/session.py").read_text()
    assert [key for key in listed - set(seen) if f'"{key}"' not in session] == []
    mentioned = {m for page in PAGES for m in re.findall(r"`((?:loss|x0|x0_gap|grad_norm|sigma)/\w+)`", prose(page))}
    assert mentioned <= set(seen)


def test_noise_laws_and_keys_of_the_ring_preset_build():
    (text,) = [text for _, title, text in blocks("CONTRIBUTING.md") if title == "orchard/configs/default.yaml"]
    preset = yaml.safe_load(text)
    for law in ("generator_noise", "online_noise"):
        assert noise_laws.build(preset["training"][law])(torch.rand(3)).shape == (3,)
