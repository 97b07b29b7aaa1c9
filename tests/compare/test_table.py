"""Arithmetic and pages on made-up run folders."""

import csv
import json
import math
import re
import shutil
import subprocess
from html.parser import HTMLParser

import pytest

from scorefield.compare.page import build_page, curve
from scorefield.compare.table import Stat, alike, collect, csv_text, markdown_text, stat_text, write_all

from .made_up import finish, finished_jobs, plan_of

ACCURACIES = {"low": [0.5, 0.6, 0.7], "high": [0.9, 0.91, 0.92], "near": [0.89, 0.9, 0.92]}


@pytest.fixture
def made(tmp_path):
    plan = plan_of(list(ACCURACIES), [0, 1, 2])
    return plan, finished_jobs(plan, tmp_path, ACCURACIES), tmp_path


def test_means_deviations_and_costs(made):
    plan, jobs, _ = made
    table = collect(plan, jobs)
    stat = table.rows[0].stats["prompt_accuracy"]
    assert (stat.mean, stat.n) == (pytest.approx(0.6), 3)
    assert stat.sd == pytest.approx(0.1)  # sample deviation, n - 1
    stats = table.rows[1].stats
    assert stats["network_evaluations"].mean == 320 * 15
    assert stats["seconds"].mean == 21.0
    assert stats["grad_norm/generator"].mean == 10.0
    assert stats["x0_gap"].mean == pytest.approx((1 / 38 + 1 / 40) / 2)  # the last tenth of 20 logged lines
    assert table.ceilings["teacher"]["prompt_accuracy"] == 0.97
    assert "seconds_per_image" not in table.keys
    assert "steps" not in table.keys


def test_the_best_of_a_column_and_what_seeds_cannot_tell_from_it(made):
    plan, jobs, _ = made
    table = collect(plan, jobs)
    assert table.best["prompt_accuracy"] == {"high"}
    assert table.like_best["prompt_accuracy"] == {"near"}
    assert table.best["frechet"] == {"high"}  # lower is better there
    assert table.best["diversity"] == {"low"}  # nearest to real pictures' 0.6
    assert table.best["recall"] == set()  # all alike
    assert table.best["x0_gap"] == set()  # no order of merit
    assert table.best["iterations"] == set()


def test_two_standard_errors_tell_means_apart():
    a = Stat.of([1.0, 1.2])
    assert a.sd == pytest.approx(math.sqrt(0.02))
    # standard error of the difference: sqrt(0.02 / 2 + 0.02 / 2) = 0.1414
    assert alike(a, Stat(1.1 + 0.28, a.sd, 2))
    assert not alike(a, Stat(1.1 + 0.29, a.sd, 2))
    assert not alike(Stat.of([1.0]), Stat.of([1.0]))  # one seed tells nothing


def test_figures_as_text():
    assert stat_text("frechet", Stat(0.14321, 0.01234, 3)) == "0.143 ± 0.012"
    assert stat_text("frechet", Stat(0.14321, None, 1)) == "0.143"
    assert stat_text("prompt_accuracy", Stat(0.9641, 0.0032, 3)).startswith("96.4 ± 0.3")
    assert stat_text("grad_norm/online", Stat(1644.4, 871.2, 2)) == "1644 ± 871"
    assert stat_text("seconds", Stat(150.0, 6.0, 2)) == "2.5 ± 0.1 min"
    assert stat_text("diversity", Stat(0.5, 0.0, 2)) == "0.500"


def test_files_hold_the_table(made):
    plan, jobs, out = made
    table = write_all(plan, jobs, out, {"started": "now"})
    rows = list(csv.DictReader((out / "table.csv").open()))
    assert [row["variant"] for row in rows] == ["low", "high", "near", "real", "teacher"]
    assert float(rows[0]["prompt_accuracy_sd"]) == pytest.approx(0.1)
    assert float(rows[4]["frechet_mean"]) == 0.11
    assert rows[4]["iterations_mean"] == ""
    lines = (out / "table.md").read_text().splitlines()
    widths = {line.count("|") for line in lines if line.startswith("|")}
    assert widths == {len(table.keys) + 2}
    high = next(line for line in lines if line.startswith("| high"))
    assert "**91.0 ± 1.0\u202f%**" in high
    assert "≈ 90.3 ± 1.5\u202f%" in (out / "table.md").read_text()
    record = json.loads((out / "comparison.json").read_text())
    assert record["asked"]["seeds"] == [0, 1, 2]
    assert record["variants"][1]["figures"]["prompt_accuracy"]["mean"] == pytest.approx(0.91)
    assert [run["state"] for run in record["variants"][0]["runs"]] == ["done"] * 3


def test_runs_that_are_not_done_take_no_part(made):
    plan, jobs, _ = made
    jobs[0].state = "failed"
    table = collect(plan, jobs)
    assert table.rows[0].stats["prompt_accuracy"].mean == pytest.approx(0.65)
    for job in jobs:
        job.state = "failed"
    empty = collect(plan, jobs)
    assert empty.keys == []
    assert csv_text(empty).splitlines()[1] == "low,0"
    assert "| low |" in markdown_text(plan, empty)


def test_one_seed_says_so(tmp_path):
    plan = plan_of(["a", "b"], [3])
    jobs = finished_jobs(plan, tmp_path, {"a": [0.5], "b": [0.6]})
    table = collect(plan, jobs)
    assert table.rows[0].stats["prompt_accuracy"].sd is None
    assert "One seed (3)" in markdown_text(plan, table)
    assert markdown_text(plan, table).startswith("# a, b\n")
    assert table.best["prompt_accuracy"] == {"b"}
    assert table.like_best["prompt_accuracy"] == set()


def test_teachers_measured_unlike_are_pointed_out(made):
    plan, jobs, _ = made
    path = jobs[0].folder / "summary.json"
    summary = json.loads(path.read_text())
    summary["teacher"]["guidance"] = 1.0
    path.write_text(json.dumps(summary))
    assert "set evaluation.teacher_guidance in common" in markdown_text(plan, collect(plan, jobs))


# ------------------------------------------------------------------ the page


class Page(HTMLParser):
    """Links, elements that stay open, and words."""

    VOID = ("meta", "link", "img", "input", "br", "path")

    def __init__(self, text: str):
        super().__init__()
        self.open, self.links, self.words, self.seen = [], [], [], []
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag, attrs):
        self.seen.append(tag)
        self.links += [value or "" for key, value in attrs if key in ("src", "href")]
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.seen.append(tag)

    def handle_endtag(self, tag):
        assert self.open, f"</{tag}> closes nothing"
        assert self.open.pop() == tag

    def handle_data(self, data):
        if not self.open or self.open[-1] != "style":
            self.words.append(data)

    @property
    def text(self) -> str:
        return " ".join(" ".join(self.words).split())


def page_of(plan, jobs, out) -> str:
    return build_page(plan, jobs, write_all(plan, jobs, out, {"command": "scorefield compare '<b>'"}), out).read_text()


def test_the_page_is_self_contained_and_whole(made):
    text = page_of(*made)
    page = Page(text)
    assert all(link.startswith("data:") or re.fullmatch(r"[a-z]+-seed\d/report.html", link) for link in page.links)
    assert "http:" not in text.replace("http://www.w3.org", "")
    assert "https:" not in text
    assert "url(" not in text
    assert "@import" not in text
    assert "script" not in page.seen
    assert "<b>'" not in text
    assert "high leads in prompt accuracy (91.0 ± 1.0 %, within noise) and Fréchet distance" in page.text.replace(
        "\u202f", " "
    )
    assert page.seen.count("img") == 10 * 4  # ten prompts, the teacher and three variants
    assert "prompt <9>" in page.text


def test_curves_are_means_with_a_range_over_every_axis(made):
    plan, jobs, _ = made
    row = collect(plan, jobs).rows[0]
    for axis, last in (("images", 320), ("network evaluations", 320 * 15), ("seconds", 20)):
        points, band = curve(row, "eval/prompt_accuracy", axis)
        assert points[-1] == (last, pytest.approx(0.6))
        assert band[-1] == (last, pytest.approx(0.5), pytest.approx(0.7))
    (jobs[3].folder / "metrics.jsonl").write_text('{"iteration": 2, "images": 16, "x0_gap/rms": 1}\n')
    points, _ = curve(collect(plan, jobs).rows[0], "x0_gap/rms", "images")
    assert points[-1][0] == 320  # a run that has just begun does not cut the others short


def test_an_unfinished_comparison_gives_a_page(tmp_path):
    plan = plan_of(["a", "b"], [0])
    jobs = plan.jobs(tmp_path)
    assert "0 of 2 runs done" in page_of(plan, jobs, tmp_path)
    finish(plan, jobs[0], 0.5)
    jobs[0].state, jobs[1].state, jobs[1].error = "done", "failed", "loss went <up>"
    text = page_of(plan, jobs, tmp_path)
    assert "1 of 2 runs done, 1 failed" in text
    assert "loss went &lt;up&gt;" in text
    Page(text)


@pytest.mark.skipif(shutil.which("chromium") is None, reason="needs chromium")
def test_chromium_draws_many_variants(tmp_path):
    from PIL import Image

    names = [f"variant-{k}" for k in range(14)]
    plan = plan_of(names, [0])
    jobs = finished_jobs(plan, tmp_path, {name: [0.5 + k / 40] for k, name in enumerate(names)})
    page_of(plan, jobs, tmp_path)
    shot = tmp_path / "page.png"
    flags = ["--headless", "--no-sandbox", "--no-first-run", "--disable-gpu", "--hide-scrollbars"]
    flags += ["--window-size=1000,1400", f"--user-data-dir={tmp_path / 'profile'}", f"--screenshot={shot}"]
    subprocess.run(
        ["chromium", *flags, (tmp_path / "compare.html").as_uri()], check=True, capture_output=True, timeout=100
    )
    with Image.open(shot) as picture:
        assert len(picture.convert("RGB").getcolors(2**24)) > 500


def test_the_report_verb_rebuilds_a_comparison(made, capsys):
    from scorefield.cli import main

    plan, jobs, out = made
    jobs[0].state, jobs[0].error = "failed", "no more"
    (jobs[0].folder / "summary.json").unlink()
    plan.device = "cuda"  # made on another machine
    before = page_of(plan, jobs, out)
    assert ">cuda<" in before
    (out / "compare.html").unlink()
    assert main(["report", str(out)]) == 0
    assert (out / "compare.html").read_text() == before
    assert "no more" in before


def test_a_refinement_is_told_by_its_after_and_held_against_its_before(made):
    plan, jobs, _ = made
    for job in jobs:
        path = job.folder / "summary.json"
        summary = json.loads(path.read_text())
        refined = {"frechet": summary["student"]["frechet"], "recall": 0.5, "samples": 2000, "draws": 3}
        for gone in ("real", "teacher", "student"):
            del summary[gone]
        path.write_text(json.dumps(summary | {"before": refined | {"frechet": 2.0}, "after": refined}))
    table = collect(plan, jobs)
    assert table.rows[0].stats["frechet"].mean == pytest.approx(0.4)
    assert table.best["frechet"] == {"high"}
    assert table.ceilings == {"before": {"frechet": 2.0, "recall": 0.5}}
    assert "samples" not in table.keys
    assert "| *before* | 2.000 |" in markdown_text(plan, table)
