"""Scheduling, failures, resuming and stopping, with small scripts in place of runs."""

import os
import signal
import sys
import threading
import time

import pytest

from scorefield.compare import runner as running
from scorefield.compare.runner import Runner, known_speed, last_iteration, open_folder, refuse_changed
from scorefield.errors import UserError

from .made_up import finish, plan_of

DONE = """
import json, pathlib, sys, time
folder = pathlib.Path(sys.argv[1]); folder.mkdir(exist_ok=True)
(folder / "config.yaml").write_text("")
with open(folder / "times", "a") as file:
    file.write(f"{time.time()} ")
    time.sleep(float(sys.argv[2]))
    file.write(f"{time.time()}\\n")
(folder / "summary.json").write_text(json.dumps({"iterations": 40}))
"""
FAIL = "print('before'); print('scorefield: the disk is full')\nraise SystemExit(2)"
SILENT = "raise SystemExit(0)"


@pytest.fixture
def scripts(monkeypatch):
    """Scripts of the variants by name; a run without one succeeds at once."""
    chosen = {}

    def command(plan, job, out, words):
        return [sys.executable, "-c", chosen.get(job.variant.name, DONE), str(out), "0.3"]

    monkeypatch.setattr(running, "command", command)
    return chosen


def times(job):
    return [tuple(map(float, line.split())) for line in (job.folder / "times").read_text().splitlines()]


def test_a_failed_run_is_named_and_the_others_go_on(tmp_path, scripts):
    plan = plan_of(["a", "b", "c"], [0])
    scripts |= {"a": FAIL, "b": SILENT}
    jobs, ended = plan.jobs(tmp_path), []
    assert Runner(plan, jobs, tmp_path, changed=lambda job: ended.append((job.name, job.state))).run(0.02) == 0
    assert [job.state for job in jobs] == ["failed", "failed", "done"]
    assert jobs[0].error == "the disk is full"
    assert jobs[1].error == "ended with status 0"  # no summary was left
    assert ended == [("a-seed0", "failed"), ("b-seed0", "failed"), ("c-seed0", "done")]


def test_finished_runs_are_not_repeated_and_failed_ones_are(tmp_path, scripts):
    plan = plan_of(["a", "b"], [0])
    scripts["a"] = FAIL
    Runner(plan, plan.jobs(tmp_path), tmp_path).run(0.02)
    del scripts["a"]
    jobs = plan.jobs(tmp_path)
    Runner(plan, jobs, tmp_path).run(0.02)
    assert [job.state for job in jobs] == ["done", "done"]
    assert [len(times(job)) for job in jobs] == [1, 1]
    assert "the disk is full" in (tmp_path / "logs" / "a-seed0.log").read_text()


def test_a_longer_run_asked_for_goes_on_from_a_finished_one(tmp_path, scripts):
    plan = plan_of(["a"], [0])
    Runner(plan, plan.jobs(tmp_path), tmp_path).run(0.02)
    plan.variants[0].iterations = 80
    jobs = plan.jobs(tmp_path)
    assert not running.finished(jobs[0])
    plan.variants[0].iterations = 40
    assert running.finished(jobs[0])


def test_jobs_limit_how_many_run_at_once(tmp_path, scripts):
    plan = plan_of(["a", "b", "c", "d"], [0])
    for at_once in (1, 2):
        out = tmp_path / str(at_once)
        jobs = plan.jobs(out)
        Runner(plan, jobs, out, at_once).run(0.02)
        spans = sorted(times(job)[0] for job in jobs)
        most = max(sum(a <= start < b for a, b in spans) for start, _ in spans)
        assert most == at_once


def test_a_run_waits_for_the_one_that_it_starts_from(tmp_path, scripts):
    plan = plan_of(["a", "b", "c"], [0])
    plan.variants[1].starts, plan.variants[2].starts = ["a"], ["b"]
    jobs = plan.jobs(tmp_path)
    Runner(plan, jobs, tmp_path, 3).run(0.02)
    assert times(jobs[0])[0][1] <= times(jobs[1])[0][0]
    scripts["a"] = FAIL
    jobs = plan.jobs(tmp_path / "again")
    Runner(plan, jobs, tmp_path / "again", 3).run(0.02)
    assert [job.state for job in jobs] == ["failed"] * 3
    assert jobs[2].error == "b-seed0, which it starts from, failed"


def test_a_signal_reaches_the_runs_and_leaves_the_rest_waiting(tmp_path, scripts):
    plan = plan_of(["a", "b"], [0])
    scripts["a"] = (
        "import pathlib, signal, sys, time\n"
        "signal.signal(signal.SIGTERM, lambda *_: (pathlib.Path(sys.argv[1] + '-saved').touch(), sys.exit(143)))\n"
        "pathlib.Path(sys.argv[1] + '-up').touch()\ntime.sleep(60)"
    )

    def stop():
        while not (tmp_path / "a-seed0-up").exists():
            time.sleep(0.02)
        os.kill(os.getpid(), signal.SIGTERM)

    threading.Thread(target=stop).start()
    jobs = plan.jobs(tmp_path)
    before = signal.getsignal(signal.SIGTERM)
    assert Runner(plan, jobs, tmp_path).run(0.02) == signal.SIGTERM
    assert [job.state for job in jobs] == ["stopped", "waiting"]
    assert (tmp_path / "a-seed0-saved").exists()
    assert signal.getsignal(signal.SIGTERM) is before


def test_the_time_left_counts_network_evaluations(tmp_path):
    plan = plan_of(["a", "b"], [0])
    plan.variants[1].passes = 3 * plan.variants[0].passes
    jobs = plan.jobs(tmp_path)
    runner = Runner(plan, jobs, tmp_path)
    assert runner.seconds_left() is None
    jobs[0].state, jobs[1].state = "done", "running"
    runner.started -= 60
    assert runner.seconds_left() == pytest.approx(180, abs=1)  # a quarter took a minute
    jobs[1].folder.mkdir()
    (jobs[1].folder / "metrics.jsonl").write_text('{"iteration": 10}\n{"iteration": 20}\n{"iteration": 3')
    assert last_iteration(jobs[1].folder) == 20
    assert runner.seconds_left() == pytest.approx(60 * 1.5 / 2.5, abs=1)
    assert last_iteration(tmp_path / "none") == 0


def test_a_folder_of_another_setting_is_refused(tmp_path):
    plan = plan_of(["a"], [0])
    (job,) = plan.jobs(tmp_path)
    finish(plan, job, 0.5)
    refuse_changed(plan, job)
    other = plan_of(["b", "a"], [0])
    with pytest.raises(UserError, match=r"a-seed0 was run with other settings: loss.c \(0.5 → 1.0\)"):
        refuse_changed(other, other.jobs(tmp_path)[1])


def test_the_speed_is_measured_once(tmp_path, monkeypatch):
    plan = plan_of(["a"], [0])
    fast = (
        "import json, pathlib, sys, time\nfolder = pathlib.Path(sys.argv[1])\n"
        "lines = [json.dumps({'iteration': k, 'images_per_sec': v}) for k, v in enumerate([1, 2] + [50] * 8)]\n"
        "(folder / 'metrics.jsonl').write_text('\\n'.join(lines) + '\\n')\ntime.sleep(60)"
    )
    monkeypatch.setattr(running, "command", lambda plan, job, out, words: [sys.executable, "-c", fast, str(out)])
    said = []
    speed = known_speed(plan, tmp_path, 2, said.append)
    assert speed == pytest.approx(1 / (50 * 15))
    assert not (tmp_path / "probe").exists()
    (tmp_path / "comparison.json").write_text('{"seconds_per_evaluation": 0.25}')
    assert known_speed(plan, tmp_path, 2, said.append) == 0.25
    assert len(said) == 1


def test_a_probe_that_fails_says_why(tmp_path, monkeypatch):
    plan = plan_of(["a"], [0])
    monkeypatch.setattr(running, "command", lambda plan, job, out, words: [sys.executable, "-c", FAIL])
    with pytest.raises(UserError, match=r"cannot measure the speed .* the disk is full"):
        known_speed(plan, tmp_path, 1, lambda text: None)
    assert not (tmp_path / "probe").exists()


def test_a_folder_with_runs_of_others_is_refused(tmp_path):
    plan = plan_of(["a"], [0])
    (job,) = plan.jobs(tmp_path)
    finish(plan, job, 0.5)
    with pytest.raises(UserError, match="already holds the run a-seed0"):
        open_folder(tmp_path, [job.folder], False)
    held = open_folder(tmp_path, [job.folder], True)
    with pytest.raises(UserError, match="in use by another process"):
        open_folder(tmp_path, [job.folder], True)
    held.release()
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match="is a file"):
        open_folder(tmp_path / "file", [], False)


def test_runs_at_once_are_spread_over_the_gpus(tmp_path, scripts, monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "3,5")
    shout = DONE + "import os\n(folder / 'gpu').write_text(os.environ['CUDA_VISIBLE_DEVICES'])\n"
    scripts |= dict.fromkeys("abcd", shout)
    jobs = plan_of(["a", "b", "c", "d"], [0]).jobs(tmp_path)
    Runner(plan_of(["a", "b", "c", "d"], [0]), jobs, tmp_path, 4).run(0.02)
    assert sorted((job.folder / "gpu").read_text() for job in jobs) == ["3", "3", "5", "5"]
