"""Trackers see the figures of a run, and only where one was named."""

import importlib.util

import pytest

from scorefield.cli import main
from scorefield.errors import UserError
from scorefield.training import trackers

from .test_session import make


def scalars(folder):
    """{tag: {step: value}} as TensorBoard shows them."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    seen = EventAccumulator(str(folder), purge_orphaned_data=True)
    seen.Reload()
    return {tag: {e.step: e.value for e in seen.Scalars(tag)} for tag in seen.Tags()["scalars"]}


def test_tensorboard_holds_what_metrics_hold(tmp_path):
    session = make(tmp_path, iterations=10)
    session.config.trackers = ["tensorboard"]
    session.run()
    again = make(tmp_path, iterations=20)
    again.config.trackers = ["tensorboard"]
    assert again.resume()
    again.run()
    seen = scalars(tmp_path / "tensorboard")
    for key in ("loss/generator", "eval/shift", "grad_norm/online"):
        noted = {r["iteration"]: r[key] for r in again.folder.metrics() if key in r}
        assert noted.keys() >= {5, 10, 15, 20}
        assert seen[key] == pytest.approx(noted)


def test_none_is_opened_unasked(tmp_path, monkeypatch):
    def opened():
        raise AssertionError("a tracker was looked up")

    monkeypatch.setattr(trackers, "kinds", opened)
    session = make(tmp_path, iterations=5)
    assert session.config.trackers == []
    session.run()
    assert not (tmp_path / "tensorboard").exists()


def test_any_of_accelerates_trackers_is_told_the_settings_and_closed(tmp_path, monkeypatch):
    from accelerate.tracking import GeneralTracker

    told = []

    class Noted(GeneralTracker):
        name, requires_logging_directory = "json", False  # a module that is there

        def __init__(self, run_name):
            super().__init__()
            told.append(("made", run_name))

        @property
        def tracker(self):
            return self

        def store_init_configuration(self, values):
            told.append(("settings", values["training"]["batch"]))

        def log(self, values, step=None, **more):
            told.append((step, values["images"]))

        def finish(self):
            told.append(("closed",))

    monkeypatch.setattr(trackers, "kinds", lambda: {"json": Noted})
    session = make(tmp_path / "mine", iterations=5)
    session.config.trackers = ["json"]
    session.run()
    assert told == [("made", "mine"), ("settings", 16), (0, 0), (5, 80), (5, 80), ("closed",)]


@pytest.mark.parametrize(("project", "expected"), [("", "scorefield"), ("mine", "mine")])
def test_wandb_is_a_run_of_one_project_with_its_files_in_the_run_folder(project, expected, tmp_path, monkeypatch):
    made = []

    class Noted:
        requires_logging_directory = False

        def __init__(self, run_name, **given):
            made.append((run_name, given))

        def store_init_configuration(self, values):
            pass

    monkeypatch.setattr(trackers, "kinds", lambda: {"wandb": Noted})
    monkeypatch.setattr(trackers, "check", lambda names: None)
    monkeypatch.delenv("WANDB_PROJECT", raising=False)
    if project:
        monkeypatch.setenv("WANDB_PROJECT", project)
    trackers.Trackers(["wandb"], tmp_path / "run", 0, {})
    assert made == [(expected, {"name": "run", "dir": str(tmp_path / "run")})]


def test_a_missing_package_and_an_unknown_name_are_one_sentence(monkeypatch, capsys):
    find = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name in ("wandb", "aim") else find(name))
    with pytest.raises(UserError, match=r'names wandb, which is not installed: pip install "scorefield\[wandb\]"'):
        trackers.check(["wandb"])
    with pytest.raises(UserError, match="names aim, which is not installed: pip install aim"):
        trackers.check(["tensorboard", "aim"])
    assert main(["run", "text_to_image", "training.device=cpu", "trackers=[tensorbored]"]) == 2
    assert 'tracker "tensorbored" is unknown: did you mean "tensorboard"?' in capsys.readouterr().err
