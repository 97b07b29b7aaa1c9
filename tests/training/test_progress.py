"""The live line of a run: what it shows, and when it keeps quiet."""

import io
import re

import pytest

from scorefield.training.progress import Progress

from .test_session import make

FIGURES = {"images_per_sec": 123.4, "x0_gap/rms": 0.54321, "loss/online": 1.5, "loss/generator": -20.0}
SHOWN = "123 img/s  gap 0.5432  online 1.5  generator -20"


class Screen(io.StringIO):
    """A terminal, or not."""

    def __init__(self, terminal: bool):
        super().__init__()
        self.terminal = terminal

    def isatty(self) -> bool:
        return self.terminal


@pytest.fixture
def now(monkeypatch):
    """The time that the line reads."""
    found = [1000.0]
    monkeypatch.setattr("scorefield.training.progress.time.monotonic", lambda: found[0])
    return found


def screen(monkeypatch, terminal: bool) -> Screen:
    found = Screen(terminal)
    monkeypatch.setattr("sys.stderr", found)
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", "140")
    return found


def test_off_a_terminal_a_line_comes_now_and_then_and_at_the_end(monkeypatch, now):
    paper = screen(monkeypatch, terminal=False)
    with Progress(total=100, done=40, batch=8) as progress:
        now[0] += 10
        progress.show(45, FIGURES)
        assert paper.getvalue() == ""  # not yet
        now[0] += 20
        progress.show(50, FIGURES)  # ten iterations in half a minute, fifty to go
        assert paper.getvalue() == f"  50/100  {SHOWN}  2.5 min left\n"
        now[0] += 14
        progress.show(60, FIGURES)
        now[0] += 2
        progress.show(70, FIGURES)
        now[0] += 1
        progress.show(100, FIGURES)
    lines = paper.getvalue().splitlines()
    assert [line.split()[0] for line in lines] == ["50/100", "70/100", "100/100"]
    assert lines[-1].endswith("0.0 min left")


def test_on_a_terminal_a_bar_shows_place_figures_and_time_left(monkeypatch, now):
    terminal = screen(monkeypatch, terminal=True)
    with Progress(total=100, done=40, batch=8) as progress:
        progress.bar.get_time = lambda: now[0]
        for iteration in (45, 50, 55, 60):
            now[0] += 15  # three seconds each
            progress.show(iteration, FIGURES)
        progress.bar.refresh()
    shown = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", terminal.getvalue()).replace("\r", "\n")
    last = [line for line in shown.splitlines() if line.strip()][-1]
    assert "60/100" in last
    assert SHOWN in last
    assert "0:02:00" in last
    assert progress.bar.finished is False
    assert not progress.bar.live.is_started  # the terminal is given back


def test_in_a_warm_up_the_figures_that_are_there_are_shown(monkeypatch, now):
    paper = screen(monkeypatch, terminal=False)
    with Progress(total=10, done=0, batch=8) as progress:
        now[0] += 30
        progress.show(5, {"images_per_sec": 7.0, "loss/online": 2.0})
    assert paper.getvalue() == "  5/10  7 img/s  online 2  0.5 min left\n"


@pytest.mark.parametrize("terminal", [False, True])
def test_all_but_the_first_process_keep_quiet(monkeypatch, now, terminal):
    found = screen(monkeypatch, terminal)
    with Progress(total=10, done=0, batch=8, active=False) as progress:
        now[0] += 30
        progress.show(10, FIGURES)
    assert found.getvalue() == ""


def test_a_run_shows_its_own_figures(tmp_path, capsys):
    session = make(tmp_path, iterations=10, every=5, log_every=5)
    session.run()
    line = capsys.readouterr().err.splitlines()[-1]
    record = next(r for r in reversed(session.folder.metrics()) if "loss/online" in r)
    assert line.startswith(f"  10/10  {record['images_per_sec']:.0f} img/s  gap {record['x0_gap/rms']:.4g}  online ")
    assert line.endswith("0.0 min left")


def test_what_the_last_look_found_stays_on_the_line(monkeypatch, now):
    paper = screen(monkeypatch, terminal=False)
    with Progress(total=3, done=0, batch=8) as progress:
        progress.seen({"eval/prompt_accuracy": 0.9876, "eval/frechet": 0.1234, "monitor/noise": 0.3})
        now[0] += 20
        progress.show(1, FIGURES)
        progress.seen({"monitor/noise": 0.4})  # a look that found nothing of the kind takes nothing away
        now[0] += 20
        progress.show(2, FIGURES)
        progress.seen({"eval/frechet": 0.1})
        now[0] += 20
        progress.show(3, FIGURES)
    lines = paper.getvalue().splitlines()
    assert all("pictures: accuracy 0.988, Fréchet 0.123" in line for line in lines[:2])
    assert "pictures: Fréchet 0.1 " in lines[2]
    assert "accuracy" not in lines[2]
