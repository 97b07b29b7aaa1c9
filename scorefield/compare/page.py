"""compare.html: one self-contained page of a comparison, drawn with the run report's charts and styles."""

import json
import statistics
from pathlib import Path
from typing import Any

from scorefield.compare import table as figures
from scorefield.compare.plan import Job, Plan, budget_text
from scorefield.compare.table import Result, Row, Table
from scorefield.files import write_text
from scorefield.report import tables
from scorefield.report.charts import Chart, Series, line_chart, look, thin
from scorefield.report.page import TITLES, tiles_of
from scorefield.report.source import load_json, number

CURVES = (
    "eval/prompt_accuracy",
    "eval/frechet",
    "eval/recall",
    "eval/precision",
    "eval/diversity",
    "x0_gap/rms",
    "grad_norm/generator",
    "grad_norm/online",
    "loss/online",
)
CURVE_TITLES = {
    "x0_gap/rms": "|D_teacher − D_online| at generated images",
    "grad_norm/generator": "generator's gradient norm",
    "grad_norm/online": "online score's gradient norm",
}
POINTS = 36  # a line: fewer than the charts' threshold for drawing raw values beside a moving mean
COLUMNS, PROMPTS, TILES = 8, 24, 400  # prompts a block, at most in all, and pictures a page at most


def build_page(plan: Plan, jobs: list[Job], table: Table, out: Path) -> Path:
    """Write ``out``/compare.html, whole or not at all; returns its path."""
    path = out / "compare.html"
    write_text(path, render(plan, jobs, table, out))
    return path


def rebuild(out: Path) -> Path:
    """Tables and page of a comparison's folder anew, as its runs stand now; raises UserError when it is none."""
    from scorefield.compare.plan import make_plan
    from scorefield.compare.runner import finished, last_iteration
    from scorefield.compare.spec import Spec
    from scorefield.files import read_json

    record = read_json(out / "comparison.json")
    plan = make_plan(Spec.from_dict(record["asked"]), str(record["device"]))
    if "seconds_per_evaluation" in record:
        plan.set_speed(record["seconds_per_evaluation"])
    known = {run["folder"]: run for variant in record["variants"] for run in variant["runs"]}
    jobs = plan.jobs(out)
    for job in jobs:
        before = known.get(job.name, {})
        if finished(job):
            job.state = "done"
        elif before.get("state") == "failed":
            job.state, job.error = "failed", before.get("error", "")
        elif last_iteration(job.folder):
            job.state = "stopped"
    extra = {key: record[key] for key in ("at_once", "started", "command", "seconds_per_evaluation") if key in record}
    return build_page(plan, jobs, figures.write_all(plan, jobs, out, extra), out)


def render(plan: Plan, jobs: list[Job], table: Table, out: Path) -> str:
    """The page's HTML."""
    from jinja2 import Environment, StrictUndefined

    from scorefield.compare import template
    from scorefield.report.template import STYLE

    spec, record = plan.spec, load_json(out / "comparison.json", {})
    page = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    return page.from_string(template.PAGE).render(
        style=STYLE + template.STYLE + hiding(len(table.rows)),
        title=spec.heading,
        note=spec.note,
        started=str(record.get("started") or ""),
        unfinished=unfinished(jobs),
        headline=headline(table),
        facts=facts(plan, table),
        tables=figure_tables(table),
        legend=figures.legend_lines(plan, table),
        seeds=len(spec.seeds),
        running=running_size(table),
        at_once=int(number(record.get("at_once")) or 1),
        panels=panels(table),
        samples=sample_blocks(table),
        first_seed=spec.seeds[0],
        common=spec.common,
        variants=[variant_card(index, row) for index, row in enumerate(table.rows)],
        command=str(record.get("command") or ""),
    )


def hiding(count: int) -> str:
    """Style rules by which the box of a variant hides its lines."""
    return "".join(f"main:has(#show-{i}:not(:checked)) .v{i} {{ display: none; }}\n" for i in range(count))


def css_of(index: int) -> str:
    """Classes of a variant's lines."""
    return f"{look(index)} v{index}"


def label(row: Row) -> str:
    return row.variant.title or row.variant.name


def unfinished(jobs: list[Job]) -> str:
    """The banner's sentence: what is missing; "" when all runs are done."""
    states = [job.state for job in jobs]
    done, failed = states.count("done"), states.count("failed")
    if done == len(jobs):
        return ""
    return f"{done} of {len(jobs)} runs done" + (f", {failed} failed" if failed else "")


def headline(table: Table) -> str:
    """One sentence on who leads in what."""
    said: dict[str, list[str]] = {}
    for key, phrase in (("prompt_accuracy", "prompt accuracy"), ("frechet", "Fréchet distance"), ("recall", "recall")):
        rows = [row for row in table.rows if row.variant.name in table.best.get(key, ())]
        if len(rows) == 1:
            noise = ", within noise" if table.like_best[key] else ""
            value = figures.stat_text(key, rows[0].stats[key])
            said.setdefault(label(rows[0]), []).append(f"{phrase} ({value}{noise})")
    if not said:
        done = sum(bool(row.done) for row in table.rows)
        return f"{done} of {len(table.rows)} variants have a finished run."
    parts = [f"{who} leads in {listed(what)}" for who, what in said.items()]
    return "; ".join(parts) + "."


def listed(words: list[str]) -> str:
    """a, b and c."""
    return words[0] if len(words) == 1 else ", ".join(words[:-1]) + " and " + words[-1]


def facts(plan: Plan, table: Table) -> list[tuple[str, str]]:
    """Short facts under the headline."""
    spec = plan.spec
    images = sorted({row.variant.images for row in table.rows})
    share = (
        tables.figure(images[0]) if len(images) == 1 else f"{tables.figure(images[0])} to {tables.figure(images[-1])}"
    )
    found = [
        ("task", spec.task),
        ("variants", str(len(table.rows))),
        ("seeds", ", ".join(map(str, spec.seeds))),
        ("budget a run", budget_text(spec.budget) if spec.budget else "the preset's iterations"),
        ("images a run", share),
        ("device", plan.device),
    ]
    names = {r.data.summary.get("feature_network") for row in table.rows for r in row.done} - {None}
    if names:
        found.append(("features by", ", ".join(sorted(map(str, names)))))
    return found


def figure_tables(table: Table) -> list[dict[str, Any]]:
    """The template's two tables: what came out, with the ceilings, and what it cost."""
    quality = [key for key in table.keys if key not in figures.COSTS]
    costs = [key for key in table.keys if key in figures.COSTS]
    parts = []
    for title, keys in (("result", quality), ("cost and course", costs)):
        if not keys:
            continue
        rows: list[dict[str, Any]] = []
        if title == "result":
            for place, (who, values) in enumerate(table.ceilings.items(), start=1):
                css = "ceiling cut" if place == len(table.ceilings) else "ceiling"
                cells = [(figures.ceiling_text(key, values) or "–", "") for key in keys]
                rows.append({"css": css, "look": "", "name": who, "said": way(values), "cells": cells})
        for index, row in enumerate(table.rows):
            rows.append(row_cells(table, row, index, keys))
        parts.append({"title": title, "head": [figures.title_of(key) for key in keys], "rows": rows})
    return parts


def way(values: dict[str, float]) -> str:
    """How the teacher was run: "20 steps, guidance 3"."""
    steps, guidance = values.get("steps"), values.get("guidance")
    said = [] if steps is None else [tables.count(steps)]
    return ", ".join(said + ([] if guidance is None else [f"guidance {guidance:.3g}"]))


def row_cells(table: Table, row: Row, index: int, keys: list[str]) -> dict[str, Any]:
    """One variant's row of a table."""
    cells = []
    for key in keys:
        name = row.variant.name
        css = "best" if name in table.best[key] else "near" if name in table.like_best[key] else ""
        said = figures.stat_text(key, row.stats[key]) if key in row.stats else "–"
        cells.append((f"≈ {said}" if css == "near" else said, css))
    missing = len(row.results) - len(row.done)
    said = (
        "" if not missing else f"{len(row.done)} of {len(row.results)} runs" if row.done else row.results[0].job.state
    )
    return {"css": "", "look": css_of(index), "name": label(row), "said": said, "cells": cells}


def variant_card(index: int, row: Row) -> dict[str, Any]:
    """What the template shows of a variant's settings and runs."""
    runs = []
    for result in row.results:
        report = result.job.folder / "report.html"
        link = f"{result.job.name}/report.html" if report.exists() else ""
        runs.append({"seed": result.job.seed, "state": result.job.state, "error": result.job.error, "link": link})
    v = row.variant
    return {
        "id": f"show-{index}",
        "look": css_of(index),
        "name": v.name,
        "title": label(row),
        "note": v.note,
        "overrides": v.overrides,
        "runs": runs,
    }


# ------------------------------------------------------------------ curves


def panels(table: Table) -> list[dict[str, Any]]:
    """Charts of all running figures, once for each x axis: {"title", "charts": [(title, svg)]}."""
    axes = (("images", "images generated"), ("network evaluations", "network evaluations"), ("seconds", "seconds"))
    found = []
    for title, x_label in axes:
        charts = []
        for key in CURVES:
            chart = chart_of(table, key, title, x_label)
            if svg := line_chart(chart):
                charts.append((chart.title, svg))
        if charts:
            found.append({"title": title, "charts": charts})
    return found


def chart_of(table: Table, key: str, axis: str, x_label: str) -> Chart:
    """One figure of all variants against one axis."""
    series = []
    for index, row in enumerate(table.rows):
        points, band = curve(row, key, axis)
        series.append(Series(label(row), points, band, css_of(index)))
    title = CURVE_TITLES.get(key) or TITLES.get(key) or figures.title_of(key.removeprefix("eval/")) + " while training"
    marks = running_ceilings(table, key) if any(s.points for s in series) else {}
    return Chart(title, series, x_label, marks, named=True)


def curve(row: Row, key: str, axis: str) -> tuple[list[tuple[float, float]], list[tuple[float, float, float]]]:
    """Mean over the seeds at every iteration that all of them logged, and the range between lowest and highest.

    Runs that have just begun would cut the others short, so that only the longest ones take part.
    """
    lines = [line for result in row.results if (line := logged(result, key, axis, row.variant.passes))]
    if not lines:
        return [], []
    last = max(max(line) for line in lines)
    lines = [line for line in lines if max(line) == last]
    shared = sorted(set(lines[0]).intersection(*lines[1:]))
    rows = [[line[k] for line in lines] for k in shared]
    points = [(statistics.mean(x for x, _ in row), statistics.mean(y for _, y in row)) for row in rows]
    if len(lines) == 1:
        return thin(points, POINTS), []
    lows = [(x, min(y for _, y in row)) for (x, _), row in zip(points, rows, strict=True)]
    highs = [(x, max(y for _, y in row)) for (x, _), row in zip(points, rows, strict=True)]
    band = [(x, low, high) for (x, low), (_, high) in zip(thin(lows, POINTS), thin(highs, POINTS), strict=True)]
    return thin(points, POINTS), band


def logged(result: Result, key: str, axis: str, passes: float) -> dict[int, tuple[float, float]]:
    """(x, value) of one run by iteration."""
    factor, name = (passes, "images") if axis == "network evaluations" else (1.0, axis)
    found = {}
    for record in result.data.metrics:
        x, y, k = number(record.get(name)), number(record.get(key)), number(record.get("iteration"))
        if x is not None and y is not None and k is not None:
            found[int(k)] = (x * factor, y)
    return found


def running_ceilings(table: Table, key: str) -> dict[str, float]:
    """Lines of real pictures and teacher, measured as the running figures are (summary.json, "running")."""
    name = key.removeprefix("eval/")
    if name == key:
        return {}
    marks: dict[str, list[float]] = {}
    for row in table.rows:
        for result in row.done:
            running = result.data.summary.get("running")
            for who in ("real", "teacher"):
                part = running.get(who) if isinstance(running, dict) else None
                if isinstance(part, dict) and (value := number(part.get(name))) is not None:
                    marks.setdefault(who, []).append(value)
    return {who: statistics.mean(values) for who, values in marks.items()}


def running_size(table: Table) -> str:
    """On how many pictures the running figures rest, "" where no summary tells."""
    found = [r.data.summary.get("running") for row in table.rows for r in row.done]
    sizes = {n for part in found if isinstance(part, dict) and (n := number(part.get("pictures"))) is not None}
    return tables.figure(sizes.pop()) if len(sizes) == 1 else ""


# ------------------------------------------------------------------ pictures


def sample_blocks(table: Table) -> list[dict[str, Any]]:
    """Blocks of prompts with a row of pictures each for the teacher and every variant (first seed, last grid)."""
    chosen = [next((r for r in row.results if r.data.grids() and r.data.layout), None) for row in table.rows]
    first = next((result for result in chosen if result is not None), None)
    if first is None:
        return []
    layout = first.data.layout
    prompts, columns, tile = layout.get("prompts"), number(layout.get("columns")), number(layout.get("tile"))
    if not isinstance(prompts, list) or not prompts or not columns or not tile:
        return []
    count = min(len(prompts), PROMPTS, max(COLUMNS, TILES // (len(table.rows) + 1)))
    sheets: list[tuple[str, str, Path]] = []
    teacher = next((p for r in chosen if r and (p := r.data.inside("samples/teacher.png"))), None)
    if teacher is not None:
        sheets.append(("teacher", "", teacher))
    for index, (row, result) in enumerate(zip(table.rows, chosen, strict=True)):
        if result is not None and json.dumps(result.data.layout) == json.dumps(layout):
            sheets.append((label(row), css_of(index), result.data.grids()[-1][1]))
    cut = [(name, css, tiles_of(path, int(tile), int(columns), list(range(count)))) for name, css, path in sheets]
    blocks = []
    for start in range(0, count, COLUMNS):
        part = slice(start, min(start + COLUMNS, count))
        rows = [(name, css, uris[part]) for name, css, uris in cut if uris]
        blocks.append({"prompts": [str(p) for p in prompts[part]], "rows": rows})
    return blocks
