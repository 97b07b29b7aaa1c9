"""Sections that tasks with classes add to the report: diversity by class, nearest real pictures, truncation."""

from collections.abc import Callable
from html import escape
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from scorefield.files import write_json, write_text
from scorefield.images import save_image, to_float
from scorefield.report.charts import Chart, Series, legend, line_chart
from scorefield.report.source import picture_uri
from scorefield.report.tables import figure
from scorefield.runfolder import RunFolder

if TYPE_CHECKING:
    from scorefield.evaluation.measure import Meter


def write(folder: RunFolder, name: str, html: str) -> None:
    """Put a section into the page under ``name``; sections come in order of their names."""
    write_text(folder.path / "report" / f"{name}.html", html)


def section(title: str, text: str, body: str) -> str:
    """A section in the page's own look; ``title`` and ``text`` are escaped, ``body`` is HTML."""
    return f"<header><h2>{escape(title)}</h2><p>{escape(text)}</p></header><div>{body}</div>"


def table(head: list[str], rows: list[list[str]]) -> str:
    """A table of texts, escaped."""
    lines = "".join(f"<th>{escape(text)}</th>" for text in head)
    body = "".join("<tr>" + "".join(f"<td>{escape(text)}</td>" for text in row) + "</tr>" for row in rows)
    return f'<div class="scroll"><table class="final"><tr>{lines}</tr>{body}</table></div>'


def diversity_table(varied: dict[str, dict[str, float]]) -> str:
    """Diversity within each class: {who: {class: value}}, the same classes in all."""
    players = list(varied)
    names = list(varied[players[0]])
    rows = []
    for name in names:
        values = [varied[who][name] for who in players]
        ratio = "" if values[0] <= 0 else f"{values[-1] / values[0]:.2f} ×"
        rows.append([name, *(figure(value) for value in values), ratio])
    text = "Mean feature distance between pictures of one class from different latents; a collapsed class nears 0."
    return section("Diversity by class", text, table(["class", *players, f"{players[-1]} / {players[0]}"], rows))


def nearest_pictures(folder: RunFolder, meter: "Meter", make: Callable[[Tensor], Tensor], count: int) -> None:
    """Generated pictures beside the real ones that lie nearest in the features; writes report/nearest.html.

    Args:
        meter: with real pictures. make: from places int64 [B] to pictures [B, 3, H, W] in [-1, 1].
    """
    from scorefield.evaluation.measure import nearest

    if meter.real is None or meter.reference.features is None:
        return
    pictures = make(torch.arange(count, device=meter.device))
    made = meter.of_source(make, count, alone=True).features
    places, distances = nearest(made, meter.reference.features)
    cards, records = [], []
    for row in range(count):
        real = to_float(meter.real.images[places[row]][None])[0]
        sides = ""
        for who, image in (("generated", pictures[row]), ("nearest real", real)):
            path = folder.evaluation / "nearest" / f"{row:04d}-{who.replace(' ', '-')}.png"
            save_image(image, path)
            sides += (
                f'<div class="side"><img src="{picture_uri(path)}" alt="{who}">'
                f'<div class="who"><span>{who}</span></div></div>'
            )
        distance = float(distances[row])
        records.append({"sample": row, "real": int(places[row]), "distance": distance})
        cards.append(
            f'<figure class="pair"><div class="two">{sides}</div><figcaption>distance {figure(distance)}</figcaption>'
            "</figure>"
        )
    write_json(folder.evaluation / "nearest.json", records)
    text = (
        f"Nearest by {meter.network.name} among {len(meter.real)} real pictures. A generator that copies its pictures "
        "shows the same one twice."
    )
    body = f'<div class="pairs">{"".join(cards)}</div>'
    write(folder, "nearest", section("Nearest real pictures", text, body))


def truncation_sweep(rows: list[dict[str, float]], name: str) -> str:
    """Figures over truncation: rows of psi and {"before frechet": …} in the order of psi; ``name`` of the distance."""
    keys = [key for key in rows[0] if key != "psi"]
    kinds = {"frechet": name, "precision": "precision", "recall": "recall"}
    charts = ""
    for kind, title in kinds.items():
        found = [Series(key.split()[0], [(row["psi"], row[key]) for row in rows]) for key in keys if key.endswith(kind)]
        chart = Chart(title, found, "truncation psi", {})
        marks = "".join(f'<span><i class="{css}"></i>{escape(text)}</span>' for css, text in legend(chart))
        drawn = f'{line_chart(chart)}<div class="legend">{marks}</div>'
        charts += f'<figure class="chart"><h3>{escape(title)}</h3>{drawn}</figure>'
    heads = [key.replace("frechet", name) for key in keys]
    cells = [[f"{row['psi']:g}", *(figure(row[key]) for key in keys)] for row in rows]
    text = "Towards the mean latent (psi below 1) pictures get cleaner and more alike; equal latents before and after."
    body = f'<div class="charts">{charts}</div>{table(["psi", *heads], cells)}'
    return section("Truncation", text, body)
