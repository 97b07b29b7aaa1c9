"""``build_report``: the files of a run folder become report.html, one file that opens from the disk.

Every section shows what its files hold and is left out, or says so in a sentence, when they are not there;
so a run that still goes on, was killed, or belongs to another task gives a page as well. A task adds sections
of its own as HTML fragments in ``RUN/report/*.html``: they are inserted in name order, as they are, and are
trusted like code. All other text is escaped.
"""

from pathlib import Path
from typing import Any

from scorefield.errors import UserError
from scorefield.files import write_text
from scorefield.report import tables
from scorefield.report.charts import Chart, Series, legend, line_chart
from scorefield.report.reference import curves_of
from scorefield.report.source import RunData, image_uri, number, picture_uri

PAIRS, WORST, FRAMES, STRIPS, SHEET = 48, 20, 8, 6, 24  # how many are shown; a page stays at a few megabytes
TITLES = {
    "loss/generator": "generator loss",
    "loss/online": "online score's loss",
    "x0_gap": "|D_teacher − D_online| at generated images",
    "grad_norm": "gradient norm",
    "images_per_sec": "images per second",
    "time": "seconds per phase",
    "eval/prompt_accuracy": "prompt accuracy while training",
    "eval/frechet": "Fréchet distance while training",
    "eval/precision": "precision while training",
    "eval/recall": "recall while training",
    "eval/diversity": "diversity while training",
    "nan_samples": "NaN samples masked",
}
ORDER = ("eval", "loss", "x0_gap", "grad_norm", "images_per_sec", "time")
NOT_DRAWN = ("iteration", "images", "seconds", "memory_bytes")


def build_report(run: Path) -> Path:
    """Write ``run``/report.html from the files of the run folder; whole or not at all.

    Args:
        run: the folder of a run, finished or not. Its metrics.jsonl, summary.json, samples/ and evaluation/
            may each be missing or cut off.

    Returns:
        The page's path.

    Raises:
        UserError: ``run`` is no folder, or the page cannot be written.
    """
    run = Path(run)
    if not run.is_dir():
        raise UserError(f"run folder {run} does not exist")
    path = run / "report.html"
    write_text(path, render(RunData.read(run)))
    return path


def render(data: RunData) -> str:
    """The page's HTML."""
    from jinja2 import Environment, StrictUndefined

    from scorefield.report.template import PAGE, STYLE

    done, total = data.progress()
    command = data.environment.get("command")
    page = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    return page.from_string(PAGE).render(
        style=STYLE,
        title=str(data.summary.get("task") or data.folder.resolve().name),
        started=str(data.environment.get("started") or ""),
        headline=tables.headline(data),
        unfinished=data.unfinished(),
        done=done,
        total=total,
        facts=tables.facts(data),
        warnings=[str(record.get("text", "")) for record in data.warnings],
        left=tables.sides(data)[0],
        right=tables.sides(data)[1],
        pairs=pair_cards(data, data.pairs[:PAIRS]),
        pairs_total=len(data.pairs),
        teacher_steps=number(data.part("teacher").get("steps")),
        film=filmstrip(data),
        sheet=last_sheet(data),
        charts=[(chart.title, line_chart(chart), legend(chart)) for chart in charts(data)],
        table=tables.final_table(data),
        scores=tables.score_table(data),
        speed=tables.speed(data),
        attributes=tables.attribute_bars(data),
        worst=pair_cards(data, data.worst[:WORST]),
        fragments=data.fragments,
        environment=tables.environment_rows(data),
        command="" if command is None else str(command),
        config=data.config,
    )


def pair_cards(data: RunData, records: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """What the template shows of evaluation records: prompt, two pictures, ticks, what was misread."""
    cards = []
    for record in records:
        sides = []
        for side in tables.sides(data):
            verdict = record.get(f"{side}_ok")
            sides.append(
                {
                    "name": side,
                    "uri": picture_uri(data.inside(record.get(side))),
                    "ok": verdict if isinstance(verdict, bool) else None,
                }
            )
        confidence = number(record.get("confidence"))
        cards.append(
            {
                "prompt": str(record.get("prompt", "")),
                "sides": sides,
                "miss": sides[1]["ok"] is False,
                "misread": misread(record),
                "confidence": "" if confidence is None else tables.share(confidence),
            }
        )
    return cards


def misread(record: dict[str, Any]) -> list[tuple[str, str]]:
    """(asked, read) of every attribute that the judge read differently in the student's picture."""
    said, read = record.get("said"), record.get("student_read")
    if not isinstance(said, dict) or not isinstance(read, dict):
        return []
    return [(str(v), str(read[k])) for k, v in said.items() if v is not None and k in read and read[k] != v]


def spread(count: int, wanted: int) -> list[int]:
    """Indices of up to ``wanted`` of ``count`` things: first and last, and denser at the start.

    Pictures change fastest in the first iterations, hence the squares.
    """
    if count <= wanted:
        return list(range(count))
    ideal = [round((i / (wanted - 1)) ** 2 * (count - 1)) for i in range(wanted)]
    for i in range(1, wanted):
        ideal[i] = max(ideal[i], ideal[i - 1] + 1)  # rounding must not repeat an early one
    return [min(k, count - wanted + i) for i, k in enumerate(ideal)]


def filmstrip(data: RunData) -> dict[str, Any] | None:
    """Tiles of the same prompts from successive grids: {"head": [...], "rows": [(prompt, [uri ...])]}.

    Up to ``STRIPS`` prompts are followed, or the whole first row of a layout that names its rows.
    """
    prompts, columns = data.layout.get("prompts"), number(data.layout.get("columns"))
    tile = number(data.layout.get("tile"))
    if not isinstance(prompts, list) or not prompts or not columns or not tile or min(columns, tile) < 1:
        return None
    first = {str(prompt): index for index, prompt in reversed(list(enumerate(prompts)))}
    places = sorted(first.values())[: int(columns) if data.layout.get("rows") else STRIPS]
    frames = [(tables.figure(k), path) for k, path in data.grids()]
    frames = [frames[i] for i in spread(len(frames), FRAMES)]
    teacher = data.inside("samples/teacher.png")
    if frames and teacher is not None:
        frames.append(("teacher", teacher))
    cut = [(name, tiles_of(path, int(tile), int(columns), places)) for name, path in frames]
    cut = [(name, tiles) for name, tiles in cut if tiles]
    if not cut:
        return None
    rows = [(str(prompts[place]), [tiles[row] for _, tiles in cut]) for row, place in enumerate(places)]
    return {"head": [name for name, _ in cut], "rows": rows}


def last_sheet(data: RunData) -> dict[str, Any] | None:
    """The whole of the last grid, where the layout names its rows: {"iteration", "head", "rows": as of a filmstrip}."""
    names, prompts = data.layout.get("rows"), data.layout.get("prompts")
    columns, tile = number(data.layout.get("columns")), number(data.layout.get("tile"))
    if not isinstance(names, list) or not isinstance(prompts, list) or not tile or tile < 1:
        return None
    names, wide = names[:SHEET], int(columns or 0)
    if not 1 <= wide <= len(prompts):
        return None
    for iteration, path in reversed(data.grids()):
        if tiles := tiles_of(path, int(tile), wide, list(range(len(names) * wide))):
            rows = [(str(name), tiles[row * wide : (row + 1) * wide]) for row, name in enumerate(names)]
            return {"iteration": tables.figure(iteration), "head": [str(p) for p in prompts[:wide]], "rows": rows}
    return None


def tiles_of(path: Path, tile: int, columns: int, places: list[int]) -> list[str | None]:
    """Data URIs of the tiles at ``places`` of a grid, None beyond its edge; [] if it is unreadable."""
    from PIL import Image

    try:
        with Image.open(path) as file:
            sheet = file.convert("RGB")
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError):
        return []
    found: list[str | None] = []
    for place in places:
        left, top = place % columns * tile, place // columns * tile
        whole = left + tile <= sheet.width and top + tile <= sheet.height
        found.append(image_uri(sheet.crop((left, top, left + tile, top + tile))) if whole else None)
    return found


def charts(data: RunData) -> list[Chart]:
    """Charts of all logged figures over images generated (iterations where no line tells of images)."""
    by_images = bool(data.metrics) and all(number(r.get("images")) is not None for r in data.metrics)
    x_key = "images" if by_images else "iteration"
    lines: dict[str, list[tuple[float, float]]] = {}
    for record in data.metrics:
        x = number(record.get(x_key))
        for key, value in record.items():
            y = number(value)
            if x is not None and y is not None and key not in NOT_DRAWN:
                lines.setdefault(key, []).append((x, y))
    for key in ("nan_samples", "skipped_steps"):
        if not any(y for _, y in lines.get(key, [])):
            lines.pop(key, None)
    reference = curves_of(data.environment) if by_images else {}
    last = max((x for points in lines.values() for x, _ in points), default=0.0)
    groups: dict[str, list[Series]] = {}
    usuals: dict[str, list[Series]] = {}
    for key, points in lines.items():
        prefix, _, rest = key.partition("/")
        # Losses and running figures have scales of their own; the rest of a group shares one chart.
        title = key if prefix in ("loss", "eval", "monitor") else prefix
        name = (rest or prefix).replace("_", " ")
        groups.setdefault(title, []).append(Series(name, points))
        # as far as a little beyond the run, so that an early look is not squeezed against the axis
        if usual := [point for point in reference.get(key, []) if point[0] <= 1.3 * last]:
            usuals.setdefault(title, []).append(Series(f"{name}, the preset's own run", usual, css="reference"))
    for title, series in usuals.items():  # last, so that they shift no colour
        groups[title] += series
    label = "images generated" if by_images else "iteration"
    found = [
        Chart(_title(key), series, label, _ceilings(data, key), named=key.startswith("eval/"))
        for key, series in sorted(groups.items(), key=_place)
    ]
    return [chart for chart in found if chart.series]


def _place(item: tuple[str, list[Series]]) -> tuple[int, int, str]:
    prefix = item[0].partition("/")[0]
    known = list(TITLES)
    return (
        ORDER.index(prefix) if prefix in ORDER else len(ORDER),
        known.index(item[0]) if item[0] in known else len(known),
        item[0],
    )


def _title(key: str) -> str:
    return TITLES.get(key, key.replace("_", " ").replace("/", ": "))


def _lines(data: RunData) -> dict[str, float]:
    """Where each monitor of the run warns: configured, else the monitor's own line."""
    import yaml

    from scorefield.monitors import MONITORS
    from scorefield.training.settings import MonitorsConfig

    try:
        section = (yaml.safe_load(data.config) or {}).get("monitors") or {}
        configured, enabled = section.get("lines"), section.get("enabled", MonitorsConfig().enabled)
    except (yaml.YAMLError, AttributeError):
        configured, enabled = {}, MonitorsConfig().enabled
    # only those that the run asked for: another one, of an installed package, is not imported for it
    return {name: MONITORS.get(name).line for name in enabled if name in MONITORS} | dict(configured or {})


def _ceilings(data: RunData, key: str) -> dict[str, float]:
    if key.startswith("monitor/"):
        value = _lines(data).get(key.removeprefix("monitor/"))
        return {} if value is None else {"line": value}
    # All but the accuracy depend on the number of samples: only what was measured on as many can stand beside it.
    measured = data.part("running")
    figure, values = key.removeprefix("eval/"), {}
    for name in ("real", "teacher") if key.startswith("eval/") else ():
        alike = measured.get(name)
        values[name] = number(alike.get(figure)) if isinstance(alike, dict) else None
        if values[name] is None and figure == "prompt_accuracy":
            values[name] = number(data.part(name).get(figure))
    return {name: value for name, value in values.items() if value is not None}
