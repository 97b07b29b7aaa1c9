"""The report's tables and sentences: numbers made readable, nothing but text and shares comes out."""

from dataclasses import dataclass
from typing import Any

from scorefield.report.source import RunData, number

ROWS = ("real", "teacher", "before", "after", "start", "student")
NAMES = {
    "steps": "steps",
    "guidance": "guidance",
    "prompt_accuracy": "prompt accuracy",
    "frechet": "Fréchet distance",
    "inception_score": "Inception score",
    "kid": "kernel distance",
    "precision": "precision",
    "recall": "recall",
    "density": "density",
    "coverage": "coverage",
    "diversity": "diversity",
    "seconds_per_image": "seconds per image",
}
SHARES = ("prompt_accuracy", "precision", "recall", "coverage", "clip_r_precision")
THIN = "\u202f"  # narrow space that no line breaks at, between a number and its sign
RATIOS = ("prompt_accuracy", "frechet", "kid", "precision", "recall", "diversity", "seconds_per_image")


def share(value: float) -> str:
    """0.9312 as 93.1 %."""
    return f"{100 * value:.1f}{THIN}%"


def figure(value: float) -> str:
    """Three or four significant digits, thousands set apart."""
    if value == int(value) and abs(value) < 1e15:
        return f"{int(value):,}".replace(",", THIN)
    return f"{value:,.0f}".replace(",", THIN) if abs(value) >= 1000 else f"{value:.3g}"


def seconds(value: float) -> str:
    """A time in the unit that suits it: 3.1 ms, 12 s, 7 min 5 s, 2 h 4 min."""
    if value < 1:
        return f"{1000 * value:.3g} ms"
    if value < 120:
        return f"{value:.3g} s"
    whole = round(value)
    return f"{whole // 60} min {whole % 60} s" if whole < 7200 else f"{whole // 3600} h {whole % 3600 // 60} min"


def size(value: float) -> str:
    """Bytes as GiB or MiB."""
    return f"{value / 2**30:.2f} GiB" if value >= 2**30 else f"{value / 2**20:.0f} MiB"


def ratio(top: Any, bottom: Any) -> float | None:
    """top / bottom when both are numbers and bottom is positive."""
    a, b = number(top), number(bottom)
    return a / b if a is not None and b is not None and b > 0 else None


def cell(key: str, value: object, spread: object = None) -> str:
    """One table cell, with its interval where there is one; a dash where there is no number."""
    found, ends = number(value), interval(spread)
    if found is None:
        return "–"
    if ends is not None:
        return f"{figure(found)} ({figure(ends[0])} to {figure(ends[1])})"
    if key in SHARES:
        return share(found)
    return seconds(found) if key == "seconds_per_image" else figure(found)


def sides(data: RunData) -> tuple[str, str]:
    """The two that the page compares: what a refinement started from and ended with, or teacher and student."""
    return ("before", "after") if data.part("after") else ("teacher", "student")


def final_table(data: RunData) -> dict[str, list[Any]] | None:
    """{"head": column names, "rows": [[name, cells ...]]} of all that were measured; None without a result."""
    left, right = sides(data)
    if not data.part(right):
        return None
    scored = score_keys(data)
    measured = {name: data.part(name) for name in ROWS} | peers(data)
    objects = {name: {k: v for k, v in figures.items() if k not in scored} for name, figures in measured.items()}
    known = [k for k in NAMES if any(number(o.get(k)) is not None for o in objects.values())]
    extra = sorted({k for o in objects.values() for k, v in o.items() if k not in NAMES and number(v) is not None})
    keys = known + extra
    rows = [[name, *(cell(k, o.get(k), o.get(f"{k}_interval")) for k in keys)] for name, o in objects.items() if o]
    last = []
    for key in keys:
        value = ratio(objects[right].get(key), objects[left].get(key)) if key in RATIOS else None
        last.append("" if value is None else f"{value:.2f}{THIN}×" if value >= 0.1 else f"{value:.3f}{THIN}×")
    if any(last):
        rows.append([f"{right} / {left}", *last])
    names = NAMES | {"frechet": distance_name(data)}
    return {"head": [names.get(k, k.replace("_", " ")) for k in keys], "rows": rows}


def scores_of(data: RunData) -> dict[str, dict[str, Any]]:
    """What the summary says of scores by pretrained models: {key: {"title", "model", …}}."""
    found = data.summary.get("scores")
    return {k: v for k, v in found.items() if isinstance(v, dict)} if isinstance(found, dict) else {}


def score_keys(data: RunData) -> dict[str, str]:
    """Keys of figures by pretrained models, with what each is called; its probability between two candidates too."""
    titles = {key: str(told.get("title", key)) for key, told in scores_of(data).items()}
    return {k: v for key, title in titles.items() for k, v in ((key, title), (f"{key}_probability", "… probability"))}


def score_table(data: RunData) -> dict[str, list[Any]] | None:
    """{"head", "rows"} as ``final_table`` of scores by pretrained models, and "notes" [(title, definition, model)]."""
    rows = {name: part for name in ROWS if (part := data.part(name))}
    keys = {k: v for k, v in score_keys(data).items() if any(number(row.get(k)) is not None for row in rows.values())}
    if not keys:
        return None
    table = [[name, *(cell(k, row.get(k), row.get(f"{k}_interval")) for k in keys)] for name, row in rows.items()]
    told = [scores_of(data)[key] for key in keys if key in scores_of(data)]
    notes = [tuple(str(t.get(part, "")) for part in ("title", "definition", "model")) for t in told]
    return {"head": list(keys.values()), "rows": table, "notes": notes}


def distance_name(data: RunData) -> str:
    """What the Fréchet distance is called: by its feature network (FID, FD-judge), where the summary says it."""
    name = data.summary.get("frechet_name")
    return name if isinstance(name, str) and name else NAMES["frechet"]


def peers(data: RunData) -> dict[str, dict[str, Any]]:
    """Other pipelines that were measured on the run's prompts."""
    found = data.summary.get("peers")
    return {k: v for k, v in found.items() if isinstance(v, dict)} if isinstance(found, dict) else {}


def headline(data: RunData) -> str:
    """One sentence with the result, made of the figures that are there."""
    if data.part("after"):
        return refinement(data)
    if isinstance(data.summary.get("assets"), list):
        return assets(data.summary["assets"])
    student, teacher = data.part("student"), data.part("teacher")
    if not student:
        return ""
    steps, many = number(student.get("steps")), number(teacher.get("steps"))
    parts = []
    accuracy, reached = number(student.get("prompt_accuracy")), number(teacher.get("prompt_accuracy"))
    if accuracy is not None:
        text = f"follows {share(accuracy)} of its prompts"
        of = ratio(accuracy, reached)
        if of is not None and reached is not None:
            text += f", {share(of)} of the teacher's {share(reached)}"
        parts.append(text)
    distance = ratio(student.get("frechet"), teacher.get("frechet"))
    if distance is not None:
        parts.append(f"lies at {distance:.2f}{THIN}× the teacher's {distance_name(data)}")
    faster = ratio(teacher.get("seconds_per_image"), student.get("seconds_per_image"))
    if faster is not None:
        parts.append(f"draws a picture {figure_of(faster)}{THIN}× {'as fast' if faster < 1 else 'faster'}")
    if not parts:
        return ""
    who = "The student" if steps is None else f"In {count(steps)} the student"
    against = f" (teacher: {count(many)})" if many is not None else ""
    listed = parts[0] if len(parts) == 1 else ", ".join(parts[:-1]) + " and " + parts[-1]
    return f"{who} {listed}{against}.{began(data)}"


def began(data: RunData) -> str:
    """A sentence on where a student started, unless that was its teacher."""
    start, told = data.part("start"), data.summary.get("started_from")
    if not start or not isinstance(told, str):
        return ""
    distance = ratio(start.get("frechet"), data.part("teacher").get("frechet"))
    at = "" if distance is None else f", at {distance:.2f}{THIN}× the teacher's {distance_name(data)}"
    return f" It started from {told}{at}."


def assets(records: list[Any]) -> str:
    """What became of the prompt: assets that were made, and from how many views they are read right."""
    records = [record for record in records if isinstance(record, dict)]
    made = [record for record in records if record.get("glb")]
    if not made:
        return "No asset could be made." if records else ""
    prompt = str(made[0].get("prompt", ""))
    text = f"\u201c{prompt}\u201d became " + ("an asset" if len(made) == 1 else f"{len(made)} assets")
    if len(made) < len(records):
        text += f" ({len(records) - len(made)} could not be made)"
    read = [value for record in made if (value := number(record.get("judge_accuracy"))) is not None]
    if read:
        text += f"; the judge reads object and colour right in {share(sum(read) / len(read))} of the views"
    return text + "."


def refinement(data: RunData) -> str:
    """What a refinement did to the Fréchet distance and to recall; a gain within the spread is called none."""
    before, after = data.part("before"), data.part("after")
    start, end = number(before.get("frechet")), number(after.get("frechet"))
    if start is None or end is None:
        return "The generator was refined; nothing was measured."
    name = distance_name(data)
    moved = f"{'the ' if name == NAMES['frechet'] else ''}{name} from {figure(start)} to {figure(end)}"
    old, new = interval(before.get("frechet_interval")), interval(after.get("frechet_interval"))
    apart = old is not None and new is not None and (new[1] < old[0] or old[1] < new[0])
    if not apart:
        text = f"Refinement moved {moved}: no gain beyond the spread of the draws"
    else:
        text = f"Refinement {'lowered' if end < start else 'raised'} {moved}"
        if start > 0:
            text += f" ({figure_of(end / start)}{THIN}×)"
    recalls = number(before.get("recall")), number(after.get("recall"))
    if recalls[0] is not None and recalls[1] is not None:
        text += f"; recall went from {share(recalls[0])} to {share(recalls[1])}"
    return text + "."


def interval(value: Any) -> tuple[float, float] | None:
    """(low, high) of a list of two numbers; None for anything else."""
    if not isinstance(value, list) or len(value) != 2:
        return None
    low, high = number(value[0]), number(value[1])
    return None if low is None or high is None else (low, high)


def figure_of(value: float) -> str:
    """A factor: 41, 3.2, 0.85."""
    return f"{value:.0f}" if value >= 10 else f"{value:.1f}" if value >= 1 else f"{value:.2f}"


def count(steps: float) -> str:
    """1 as "one step", 32 as "32 steps"."""
    return "one step" if steps == 1 else f"{figure(steps)} steps"


def speed(data: RunData) -> dict[str, Any] | None:
    """Seconds per picture of teacher and student with bar lengths in percent, and the factor between them."""
    teacher, student = data.part("teacher"), data.part("student")
    slow, fast = number(teacher.get("seconds_per_image")), number(student.get("seconds_per_image"))
    if not slow or not fast or min(slow, fast) < 0:
        return None
    bars = []
    for name, part, value in (("teacher", teacher, slow), ("student", student, fast)):
        steps = number(part.get("steps"))
        label = name if steps is None else f"{name}, {count(steps)}"
        bars.append({"name": label, "text": seconds(value), "width": max(0.4, 100 * value / max(slow, fast))})
    return {"factor": figure_of(slow / fast), "bars": bars}


@dataclass
class Bar:
    """Accuracy on one value of an attribute; shares in percent or None."""

    name: str
    student: float | None
    teacher: float | None
    real: float | None
    text: str


def attribute_bars(data: RunData) -> list[tuple[str, list[Bar]]]:
    """(attribute, bars) with the student's lowest accuracy first; "all" leads."""
    groups = []
    for group, values in data.attributes.items():
        if not isinstance(values, dict):
            continue
        bars = [_bar(str(name), v) for name, v in values.items() if isinstance(v, dict)]
        bars = [bar for bar in bars if bar.student is not None or bar.teacher is not None]
        bars.sort(key=lambda bar: (bar.student is None, bar.student or 0.0, bar.name))
        if bars:
            groups.append((str(group), bars))
    return sorted(groups, key=lambda pair: pair[0] != "all")


def _bar(name: str, values: dict[str, Any]) -> Bar:
    shares: dict[str, float | None] = {}
    said = []
    for key in ("student", "teacher", "real"):
        value = number(values.get(key))
        shares[key] = None if value is None else min(100.0, max(0.0, 100 * value))
        if value is not None:
            said.append(f"{key} {share(value)}")
    seen = number(values.get("count"))
    text = ", ".join(said) + (f" of {figure(seen)} prompts" if seen is not None else "")
    return Bar(name, shares["student"], shares["teacher"], shares["real"], text)


def facts(data: RunData) -> list[tuple[str, str]]:
    """The short facts under the headline: task, loss, device, pictures seen, time, memory."""
    s, found = data.summary, []
    for key, name in (("task", "task"), ("loss", "loss"), ("device", "device"), ("seed", "seed")):
        value = s.get(key, data.environment.get(key))
        if value is not None and not isinstance(value, (dict, list)):
            found.append((name, str(value)))
    last = data.metrics[-1] if data.metrics else {}
    peak = max((m for r in data.metrics if (m := number(r.get("memory_bytes"))) is not None), default=None)
    numeric = (
        ("iterations", number(s.get("iterations", last.get("iteration"))), figure),
        ("images generated", number(s.get("images_generated", last.get("images"))), figure),
        ("time", number(s.get("wall_seconds", last.get("seconds"))), seconds),
        ("iteration / its bare passes", number(s.get("overhead_ratio")), figure),
        ("peak memory", number(s.get("peak_memory_bytes", peak)), size),
        ("NaN samples", number(s.get("nan_samples", last.get("nan_samples"))), figure),
    )
    found += [(name, form(value)) for name, value, form in numeric if value is not None]
    if isinstance(s.get("feature_network"), str):
        found.append(("features by", s["feature_network"]))
    if score_table(data) is None:  # an asset's figures stand beside it
        found += [(f"{told.get('title', key)} by", str(told.get("model", ""))) for key, told in scores_of(data).items()]
    return found


def environment_rows(data: RunData) -> list[tuple[str, str]]:
    """Environment record as flat rows, versions last; the command is shown on its own."""
    rows = []
    for key, value in data.environment.items():
        if key not in ("versions", "command"):
            rows.append((key.replace("_", " "), "–" if value is None else str(value)))
    versions = data.environment.get("versions")
    if isinstance(versions, dict):
        rows += [(str(name), str(version)) for name, version in versions.items()]
    return rows
