"""Line charts as inline SVG: axes with round ticks, logarithmic where wanted, titles on hover.

Colours are classes (``s0`` ... ``s5``), so that the page's light and dark palettes apply.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass, field
from html import escape
from itertools import pairwise

WIDTH, HEIGHT = 480, 250
LEFT, RIGHT, TOP, BOTTOM = 54, 12, 12, 34
POINTS = 160  # per line; longer series are averaged in equal runs
COLOURS, DASHES = 6, 4
DASH = "s9"


@dataclass
class Series:
    """One line: its name in the legend and its points (x, y), in order of x and finite.

    ``band`` is a shaded range (x, low, high) around it; ``css`` replaces the classes that its place in the chart gives,
    so that a line looks alike in all charts of a page (see ``look``).
    """

    name: str
    points: list[tuple[float, float]]
    band: list[tuple[float, float, float]] = field(default_factory=list)
    css: str = ""


@dataclass
class Chart:
    """One chart; ``marks`` are named horizontal lines such as a ceiling, with their names on them if ``named``."""

    title: str
    series: list[Series]
    x_label: str = ""
    marks: dict[str, float] = field(default_factory=dict)
    named: bool = False
    logarithmic: bool | None = None  # None: when all values are positive and span a factor of 20


def look(index: int) -> str:
    """Classes of the line number ``index``: a colour, and another dash after every round of colours."""
    return f"s{index % COLOURS}" + (f" d{index // COLOURS % DASHES}" if index >= COLOURS else "")


def short(value: float) -> str:
    """A number in at most about six characters: 1.2k, 3.4M, 0.0021, 5e-06."""
    if value == 0:
        return "0"
    size = abs(value)
    for limit, unit in ((1e9, "G"), (1e6, "M"), (1e4, "k")):
        if size >= limit:
            scaled = value / {"G": 1e9, "M": 1e6, "k": 1e3}[unit]
            return f"{scaled:.4g}{unit}" if abs(scaled) < 1e4 else f"{value:.1e}"
    return f"{value:.4g}" if size >= 1e-3 else f"{value:.2g}"


def ticks(low: float, high: float, wanted: int = 5) -> list[float]:
    """Round numbers (1, 2 or 5 times a power of ten apart) within [low, high].

    >>> ticks(0.0, 10.0)
    [0.0, 2.0, 4.0, 6.0, 8.0, 10.0]
    """
    span = high - low
    if not span > 0:
        return [low]
    raw = span / wanted
    power = 10 ** math.floor(math.log10(raw))
    step = next(m * power for m in (1, 2, 5, 10) if m * power >= raw * 0.999)
    first, last = math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9)
    return [round(float(k * step), 12 - math.floor(math.log10(step))) for k in range(first, last + 1)]


def log_ticks(low: float, high: float) -> list[float]:
    """Powers of ten within [low, high]; with 2 and 5 between them when fewer than three fit."""
    powers = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    every = max(1, len(powers) // 6)
    found = [10.0**p for p in powers if p % every == 0 and low <= 10.0**p <= high]
    if len(found) >= 3:
        return found
    return [m * 10.0**p for p in powers for m in (1, 2, 5) if low <= m * 10.0**p <= high]


def thin(points: list[tuple[float, float]], limit: int = POINTS) -> list[tuple[float, float]]:
    """At most ``limit`` points, each the mean of an equal run of the given ones."""
    if len(points) <= limit:
        return points
    edges = [round(i * len(points) / limit) for i in range(limit + 1)]
    runs = [points[a:b] for a, b in pairwise(edges)]
    return [(sum(x for x, _ in run) / len(run), sum(y for _, y in run) / len(run)) for run in runs]


def smooth(points: list[tuple[float, float]]) -> list[tuple[float, float]]:
    """Mean over a tenth of the points: centred, narrower at the steep start, trailing at the end."""
    reach = max(1, len(points) // 20)
    found = []
    for i, (x, _) in enumerate(points):
        side = min(reach, i)
        window = points[i - side : i + side + 1]
        found.append((x, sum(y for _, y in window) / len(window)))
    return found


class Axes:
    """Maps values to pixels; a logarithmic y axis if asked for."""

    def __init__(self, xs: list[float], ys: list[float], logarithmic: bool):
        self.log = logarithmic
        self.x_low, self.x_high = min(xs), max(xs)
        if self.x_high <= self.x_low:
            self.x_low, self.x_high = min(0.0, self.x_low), max(0.0, self.x_high) or 1.0
        low, high = min(ys), max(ys)
        if logarithmic:
            self.low, self.high = low / 1.15, high * 1.15
            return
        room = (high - low) * 0.06 or abs(high) * 0.1 or 1.0
        self.low = 0.0 if 0 <= low < 0.35 * high else low - room
        self.high = high + room

    def x(self, value: float) -> float:
        share = (value - self.x_low) / (self.x_high - self.x_low)
        return round(LEFT + share * (WIDTH - LEFT - RIGHT), 1)

    def y(self, value: float) -> float:
        low, high = (math.log(self.low), math.log(self.high)) if self.log else (self.low, self.high)
        share = ((math.log(value) if self.log else value) - low) / (high - low)
        return round(HEIGHT - BOTTOM - share * (HEIGHT - TOP - BOTTOM), 1)

    def grid(self, x_label: str) -> Iterator[str]:
        """Grid lines and tick labels."""
        for value in log_ticks(self.low, self.high) if self.log else ticks(self.low, self.high):
            y = self.y(value)
            yield f'<line class="grid" x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{y}" y2="{y}"/>'
            yield f'<text class="tick" x="{LEFT - 7}" y="{y + 3.5}" text-anchor="end">{short(value)}</text>'
        base = HEIGHT - BOTTOM
        for value in ticks(self.x_low, self.x_high, 4):
            x = self.x(value)
            yield f'<line class="axis" x1="{x}" x2="{x}" y1="{base}" y2="{base + 4}"/>'
            yield f'<text class="tick" x="{x}" y="{base + 16}" text-anchor="middle">{short(value)}</text>'
        yield f'<line class="axis" x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{base}" y2="{base}"/>'
        if x_label:
            label = escape(x_label)
            yield f'<text class="tick" x="{WIDTH - RIGHT}" y="{HEIGHT - 3}" text-anchor="end">{label}</text>'


def line_chart(chart: Chart) -> str:
    """The chart as one <svg> element; "" when no series has a point.

    Lines of 40 points and more are drawn pale, with their moving mean over them.
    """
    series = [s for s in chart.series if s.points]
    values = [y for s in series for _, y in s.points] + list(chart.marks.values())
    values += [y for s in series for _, *ends in s.band for y in ends]
    if not series:
        return ""
    positive = min(values) > 0
    wanted = chart.logarithmic if chart.logarithmic is not None else positive and max(values) / min(values) > 20
    axes = Axes([x for s in series for x, _ in s.points], values, bool(wanted and positive))
    parts = [*axes.grid(chart.x_label)]
    for name, value in chart.marks.items():
        y = axes.y(value)
        parts.append(
            f'<line class="mark" x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{y}" y2="{y}">'
            f"<title>{escape(name)}: {short(value)}</title></line>"
        )
    parts += _names(chart.marks, axes) if chart.named else []
    for index, one in enumerate(series):
        parts += _line(one, axes, one.css or look(index))
    title = escape(chart.title)
    return (
        f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{title}"><title>{title}</title>'
        + "".join(parts)
        + "</svg>"
    )


def _names(marks: dict[str, float], axes: Axes) -> Iterator[str]:
    """The marks' names at the right end of their lines, joined where the lines lie too close for two."""
    labels: list[tuple[float, str]] = []
    for name, y in sorted(((escape(n), axes.y(v)) for n, v in marks.items()), key=lambda pair: pair[1]):
        if labels and y - labels[-1][0] < 12:
            labels[-1] = (labels[-1][0], f"{labels[-1][1]}, {name}")
        else:
            labels.append((y, name))
    for y, text in labels:
        # above the line, but below it at the very top
        place = y - 3 if y > TOP + 8 else y + 11
        yield f'<text class="tick" x="{WIDTH - RIGHT}" y="{place:.1f}" text-anchor="end">{text}</text>'


def _line(series: Series, axes: Axes, colour: str) -> Iterator[str]:
    points = thin(series.points)
    noisy = len(points) >= 40
    if series.band:
        edge = [(x, high) for x, _, high in series.band] + [(x, low) for x, low, _ in reversed(series.band)]
        yield _path(edge, axes, f"band {colour}")
    yield _path(points, axes, f"line {colour}{' raw' if noisy else ''}")
    if noisy:
        yield _path(smooth(points), axes, f"line {colour}")
    for x, y in points:
        seen = f"{escape(series.name)} {short(y)} at {short(x)}"
        visible = " dot" if len(points) <= 12 else ""
        yield (
            f'<circle class="hit {colour}{visible}" cx="{axes.x(x)}" cy="{axes.y(y)}" r="3">'
            f"<title>{seen}</title></circle>"
        )


def _path(points: list[tuple[float, float]], axes: Axes, css: str) -> str:
    # A lone point has no line; its dot shows it.
    steps = "L".join(f"{axes.x(x)} {axes.y(y)}" for x, y in points)
    return f'<path class="{css}" d="M{steps}"/>'


def legend(chart: Chart) -> list[tuple[str, str]]:
    """(CSS class, name) of each line and mark; empty when one line stands alone."""
    shown = [(s.css or look(i), s.name) for i, s in enumerate(s for s in chart.series if s.points)]
    shown += [(DASH, f"{name} {short(value)}") for name, value in chart.marks.items()]
    return shown if len(shown) > 1 else []
