"""Figures of a comparison: read from the run folders, averaged over seeds, written as CSV, Markdown and JSON."""

import csv
import io
import math
import statistics
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from scorefield.compare.plan import Job, Plan
from scorefield.report import tables
from scorefield.report.source import RunData, number

COSTS = {
    "x0_gap": "final x0 gap",
    "grad_norm/generator": "generator gradient",
    "grad_norm/online": "online gradient",
    "iterations": "iterations",
    "images": "images",
    "network_evaluations": "network evaluations",
    "seconds": "training time",
    "peak_memory": "peak memory",
    "nan_samples": "NaN samples",
}
LOGGED = {"x0_gap": "x0_gap/rms", "grad_norm/generator": "grad_norm/generator", "grad_norm/online": "grad_norm/online"}
# of the student: alike in all variants, or the clock's noise
NO_FIGURE = ("steps", "guidance", "seconds_per_image", "samples", "draws")
CEILINGS = ("real", "teacher", "before")  # "before": what a refinement started from
HIGHER = (
    *("prompt_accuracy", "precision", "recall", "density", "coverage"),
    *("clip_score", "aesthetic_score", "pickscore", "hpsv2", "imagereward", "clip_r_precision"),
)
LOWER = ("frechet", "kid", "fid", "seconds", "nan_samples")
LIKE_REAL = ("diversity",)  # neither more nor less is better: the nearest to real pictures is


@dataclass
class Stat:
    """Mean over seeds, sample standard deviation (None for one seed) and how many."""

    mean: float
    sd: float | None
    n: int

    @classmethod
    def of(cls, values: list[float]) -> "Stat":
        return cls(statistics.mean(values), statistics.stdev(values) if len(values) > 1 else None, len(values))


@dataclass
class Result:
    """One run: its job, its files, its figures."""

    job: Job
    data: RunData
    values: dict[str, float]


@dataclass
class Row:
    """One variant: its runs and the figures over their seeds."""

    variant: Any
    results: list[Result]
    stats: dict[str, Stat] = field(default_factory=dict)

    @property
    def done(self) -> list[Result]:
        return [result for result in self.results if result.job.state == "done"]


@dataclass
class Table:
    """All rows; ``ceilings`` are the figures of ``CEILINGS``, ``best`` the marked rows of a column."""

    rows: list[Row]
    keys: list[str]
    ceilings: dict[str, dict[str, float]]
    best: dict[str, set[str]]
    like_best: dict[str, set[str]]
    unlike_teachers: bool = False


def collect(plan: Plan, jobs: list[Job]) -> Table:
    """Read all run folders; runs that are not done take no part in the means."""
    rows = []
    for variant in plan.variants:
        mine = [job for job in jobs if job.variant is variant]
        results = [Result(job, data := RunData.read(job.folder), values_of(data, variant.passes)) for job in mine]
        row = Row(variant, results)
        names = dict.fromkeys(key for result in row.done for key in result.values)
        row.stats = {key: Stat.of([r.values[key] for r in row.done if key in r.values]) for key in names}
        rows.append(row)
    found = {key for row in rows for key in row.stats}
    known = [*tables.NAMES, *sorted(found - set(tables.NAMES) - set(COSTS)), *COSTS]
    ceilings, unlike = ceilings_of([r for row in rows for r in row.done])
    table = Table(rows, [key for key in known if key in found], ceilings, {}, {}, unlike)
    for key in table.keys:
        table.best[key], table.like_best[key] = best_of(rows, key, number(ceilings.get("real", {}).get(key)))
    return table


def values_of(data: RunData, passes: float) -> dict[str, float]:
    """Figures of one run: those of the student or of the refined generator, and what it cost."""
    made = data.part(tables.sides(data)[1])
    found = {key: v for key, value in made.items() if (v := number(value)) is not None}
    values = {key: v for key, v in found.items() if key not in NO_FIGURE}
    for key, name in LOGGED.items():
        if (last := final_mean(data.metrics, name)) is not None:
            values[key] = last
    costs = {
        "iterations": data.summary.get("iterations"),
        "images": data.summary.get("images_generated"),
        "seconds": data.summary.get("training_seconds"),
        "peak_memory": data.summary.get("peak_memory_bytes"),
        "nan_samples": data.summary.get("nan_samples"),
    }
    values |= {key: v for key, value in costs.items() if (v := number(value)) is not None}
    if "images" in values:
        values["network_evaluations"] = values["images"] * passes
    return values


def final_mean(metrics: list[dict[str, Any]], name: str) -> float | None:
    """Mean of the last tenth of the logged values (one batch alone is noise); None where nothing was logged."""
    values = [v for record in metrics if (v := number(record.get(name))) is not None]
    return statistics.mean(values[-math.ceil(len(values) / 10) :]) if values else None


def ceilings_of(results: list[Result]) -> tuple[dict[str, dict[str, float]], bool]:
    """Mean figures of ``CEILINGS`` over the runs, and whether the teacher was measured unlike."""
    found: dict[str, dict[str, float]] = {}
    for who in CEILINGS:
        parts = [result.data.part(who) for result in results]
        keys = dict.fromkeys(key for part in parts for key in part)
        for key in keys:
            values = [v for part in parts if (v := number(part.get(key))) is not None]
            if values and key not in ("samples", "draws"):
                found.setdefault(who, {})[key] = statistics.mean(values)
    ways = {tuple(result.data.part("teacher").get(k) for k in ("steps", "guidance")) for result in results}
    return found, len(ways) > 1


def best_of(rows: list[Row], key: str, real: float | None) -> tuple[set[str], set[str]]:
    """(names of the best rows of a column, names that the seeds cannot tell from them).

    Two means count as one when they lie within two standard errors of their difference; that needs two seeds
    on either side.
    """
    stats = {row.variant.name: row.stats[key] for row in rows if key in row.stats}
    if len(stats) < 2:
        return set(), set()
    if key in HIGHER:
        order = {name: -stat.mean for name, stat in stats.items()}
    elif key in LOWER:
        order = {name: stat.mean for name, stat in stats.items()}
    elif key in LIKE_REAL and real is not None:
        order = {name: abs(stat.mean - real) for name, stat in stats.items()}
    else:
        return set(), set()
    top = min(order.values())
    best = {name for name, value in order.items() if value == top}
    if len(best) == len(stats):
        return set(), set()  # all alike: nothing to mark
    leader = stats[min(best)]
    return best, {name for name, stat in stats.items() if name not in best and alike(leader, stat)}


def alike(a: Stat, b: Stat) -> bool:
    """Whether two means lie within two standard errors of their difference."""
    if a.sd is None or b.sd is None:
        return False
    return abs(a.mean - b.mean) <= 2 * math.sqrt(a.sd**2 / a.n + b.sd**2 / b.n)


# ------------------------------------------------------------------ how figures are written


def title_of(key: str) -> str:
    """Column title."""
    return COSTS.get(key) or tables.NAMES.get(key, key.replace("_", " ").replace("/", " "))


def text(key: str, value: float) -> str:
    """One figure in its unit."""
    if key in tables.SHARES:
        return tables.share(value)
    if key == "seconds":
        return tables.seconds(value)
    if key == "peak_memory":
        return tables.size(value)
    if key not in COSTS and abs(value) < 100:
        return f"{value:.{3 if abs(value) < 10 else 2}f}"  # alike in a column
    return tables.figure(value)


def stat_text(key: str, stat: Stat) -> str:
    """Mean, and ± standard deviation where there are two seeds or more; "0.143 ± 0.012"."""
    if not stat.sd or key in ("iterations", "images", "network_evaluations", "peak_memory"):
        return text(key, stat.mean)
    if key in tables.SHARES:
        return f"{100 * stat.mean:.1f} ± {100 * stat.sd:.1f}{tables.THIN}%"
    if key == "seconds":
        unit, name = (1, "s") if stat.mean < 120 else (60, "min") if stat.mean < 7200 else (3600, "h")
        return f"{stat.mean / unit:.1f} ± {stat.sd / unit:.1f} {name}"
    places = max(0, 1 - math.floor(math.log10(stat.sd)))  # two digits of the deviation
    if places > 5 or abs(stat.mean) >= 1e5:
        return f"{text(key, stat.mean)} ± {text(key, stat.sd)}"
    return f"{stat.mean:.{places}f} ± {stat.sd:.{places}f}"


def ceiling_text(key: str, values: dict[str, float]) -> str:
    """A cell of a row of ``CEILINGS``; empty for costs."""
    return text(key, values[key]) if key in values and key not in COSTS else ""


def csv_text(table: Table) -> str:
    """One line a variant, all digits: KEY_mean and KEY_sd; then ``CEILINGS``."""
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\n")
    writer.writerow(["variant", "seeds", *(f"{key}_{part}" for key in table.keys for part in ("mean", "sd"))])
    for row in table.rows:
        cells = []
        for key in table.keys:
            stat = row.stats.get(key)
            cells += ["", ""] if stat is None else [repr(stat.mean), "" if stat.sd is None else repr(stat.sd)]
        writer.writerow([row.variant.name, len(row.done), *cells])
    for who, values in table.ceilings.items():
        cells = [
            part for key in table.keys for part in (repr(values[key]) if key in values and key not in COSTS else "", "")
        ]
        writer.writerow([who, "", *cells])
    return buffer.getvalue()


def markdown_text(plan: Plan, table: Table) -> str:
    """The table in Markdown; the best of a column in bold, those that seeds cannot tell from it with ≈."""
    spec = plan.spec
    head = ["variant", *(title_of(key) for key in table.keys)]
    lines = [f"# {spec.heading}", ""]
    if spec.note:
        lines += [spec.note.strip(), ""]
    lines += [row_of(head), row_of(["---", *["---:"] * len(table.keys)])]
    for who, values in table.ceilings.items():
        lines.append(row_of([f"*{who}*", *(ceiling_text(key, values) for key in table.keys)]))
    for row in table.rows:
        cells = [row.variant.title or row.variant.name]
        for key in table.keys:
            said = stat_text(key, row.stats[key]) if key in row.stats else "–"
            if row.variant.name in table.best[key]:
                said = f"**{said}**"
            elif row.variant.name in table.like_best[key]:
                said = f"≈ {said}"
            cells.append(said)
        lines.append(row_of(cells))
    return "\n".join([*lines, "", *legend_lines(plan, table), ""])


def row_of(cells: list[str]) -> str:
    """One Markdown row; a bar within a cell is escaped."""
    return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"


def legend_lines(plan: Plan, table: Table) -> list[str]:
    """What a reader of the table must know."""
    seeds = plan.spec.seeds
    lines = []
    if len(seeds) == 1:
        lines.append(f"One seed ({seeds[0]}): there is no telling which differences another seed would turn round.")
    else:
        lines.append(
            f"Mean ± standard deviation over seeds {', '.join(map(str, seeds))}. ≈: within two standard errors "
            "of the best."
        )
    lines.append(
        "Bold: best of the column (diversity: nearest to real pictures). Gap and gradients: mean over the last "
        "tenth of the logged values. A network evaluation is one forward pass for one image; a gradient to the "
        "parameters counts 3, one to the input 2."
    )
    if table.unlike_teachers:
        lines.append(
            "The teacher was measured with other steps or guidance in some variants (its guidance follows "
            "training.guidance_scale): set evaluation.teacher_guidance in common. Its row is the mean."
        )
    return lines


def to_json(plan: Plan, jobs: list[Job], table: Table) -> dict[str, Any]:
    """What comparison.json holds beside the plan: states, figures, ceilings."""
    variants = []
    for row in table.rows:
        v = row.variant
        variants.append(
            {
                "name": v.name,
                "title": v.title,
                "overrides": v.overrides,
                "iterations": v.iterations,
                "batch": v.batch,
                "passes_per_image": v.passes,
                "network_evaluations": v.network_evaluations,
                "starts_from": v.starts,
                "figures": {key: {"mean": s.mean, "sd": s.sd, "seeds": s.n} for key, s in row.stats.items()},
                "best_in": [key for key in table.keys if v.name in table.best[key]],
                "runs": [
                    {
                        "seed": r.job.seed,
                        "folder": r.job.name,
                        "state": r.job.state,
                        "error": r.job.error,
                        "figures": r.values,
                    }
                    for r in row.results
                ],
            }
        )
    return {"device": plan.device, "ceilings": table.ceilings, "variants": variants}


def write_all(plan: Plan, jobs: list[Job], out: Path, extra: dict[str, Any]) -> Table:
    """Write comparison.json, table.csv and table.md; returns the table."""
    from scorefield.files import write_json, write_text

    table = collect(plan, jobs)
    write_json(
        out / "comparison.json", {"format": 1, "asked": plan.spec.to_dict()} | extra | to_json(plan, jobs, table)
    )
    write_text(out / "table.csv", csv_text(table))
    write_text(out / "table.md", markdown_text(plan, table))
    return table
