"""The report's section on assets: each turns under the pointer beside its turntable and figures, all in one file."""

import base64
import html
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from scorefield.files import write_text
from scorefield.three_d import three_js

SHOWN = 8  # particles; a page stays at a few megabytes
STYLE = """
.assets { display: grid; gap: 34px; }
.asset-parts { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(100%, 280px), 1fr)); gap: 16px 24px;
  align-items: start; }
.asset-card h3 { margin: 0 0 16px; font-size: 15px; font-weight: 600; }
.asset-viewer canvas, .asset-card video, .asset-parts > div > img { display: block; width: 100%; aspect-ratio: 1;
  background: var(--faint); border-radius: 4px; object-fit: contain; }
.asset-viewer canvas { cursor: grab; touch-action: none; }
.asset-viewer canvas:active { cursor: grabbing; }
.asset-card .note { margin: 6px 0 0; font-size: 13px; }
.asset-card table { border-collapse: collapse; font-size: 14px; width: 100%; font-variant-numeric: tabular-nums; }
.asset-card td { padding: 3px 0; border-bottom: 1px solid var(--faint); }
.asset-card td:last-child { text-align: right; }
"""
FIGURES = (
    ("judge_accuracy", "object and colour read right", "share"),
    ("true_judge_accuracy", "… of the true object, the ceiling", "share"),
    ("view_accuracy", "view word read right", "share"),
    ("janus_rate", "called front from elsewhere (Janus)", "share"),
    ("true_janus_rate", "… of the true object", "share"),
    ("chamfer", "Chamfer distance to the true shape", "number"),
    ("iou", "overlap with the true shape (IoU)", "number"),
    ("psnr", "PSNR to the nearest true picture, dB", "number"),
    ("diversity", "distance between particles, the judge's features", "number"),
    ("lpips_diversity", "LPIPS between particles", "number"),
    ("watertight", "watertight", "truth"),
    ("components", "components", "number"),
    ("faces", "faces", "number"),
    ("gaussians", "Gaussians", "number"),
    ("threshold", "density at the surface", "number"),
    ("seconds", "seconds to extract", "number"),
)


Figures = Sequence[tuple[str, str, str]]  # key of a record, what it is called, how it is written


def write_section(folder: Path, assets: list[dict[str, Any]], more: Figures = ()) -> Path:
    """Write report/assets.html, which the report inserts as it is.

    Args:
        folder: the run. assets: records as in summary.json; "glb", "mp4" and "gif" are paths within ``folder``, an
            "error" stands in their place where nothing could be made. more: further figures, as ``FIGURES``.
    """
    path = folder / "report" / "assets.html"
    write_text(path, section(folder, assets, more))
    return path


def section(folder: Path, assets: list[dict[str, Any]], more: Figures = ()) -> str:
    """The section's HTML; all text in it is escaped."""
    cards = [card(folder, record, more) for record in assets[:SHOWN]]
    cut = "" if len(assets) <= SHOWN else f"<p class='note'>The first {SHOWN} of {len(assets)} are shown.</p>"
    return (
        f"<style>{STYLE}</style><h2>Assets</h2><p class='note'>The exported file itself: drag to turn, click and "
        f"scroll to come nearer, double-click to go back.</p>{cut}<div class='assets'>{''.join(cards)}</div>"
        f"{viewer_script() if any(record.get('glb') for record in assets[:SHOWN]) else ''}"
    )


def viewer_script() -> str:
    """What makes the assets above it turn: three.js and the viewer, whole, so that nothing is fetched."""
    own = (Path(__file__).parent / "viewer.js").read_text(encoding="utf-8")
    return f"<script>{three_js.library()}</script><script>{own}</script>"


def card(folder: Path, record: dict[str, Any], more: Figures = ()) -> str:
    """One asset: viewer, turntable, figures."""
    title = html.escape(f"{record.get('prompt', '')}, particle {record.get('particle', 0)}")
    if record.get("error"):
        return f"<div class='asset-card'><h3>{title}</h3><p class='note'>{html.escape(str(record['error']))}</p></div>"
    if not record.get("glb"):  # splats: no viewer of ours shows them
        file = html.escape(str(record.get("ply") or ""))
        return (
            f"<div class='asset-card'><h3>{title}</h3><div class='asset-parts'><div>{moving(folder, record)}"
            f"<p class='note'>{file}</p></div><table>{rows(record, more)}</table></div></div>"
        )
    glb = folder / str(record["glb"])
    viewer = (
        "<div class='asset-viewer'>"
        f"<canvas tabindex='0' width='320' height='320' aria-label='{title}, turning'></canvas>"
        f"<script type='application/octet-stream'>{encoded(glb)}</script>"
        "<p class='note asset-note'><label><input type='checkbox'> shape alone</label></p></div>"
    )
    return (
        f"<div class='asset-card'><h3>{title}</h3><div class='asset-parts'>{viewer}<div>{moving(folder, record)}"
        f"<p class='note'>{html.escape(str(record['glb']))}, {glb.stat().st_size / 1024:.0f} KiB</p></div>"
        f"<table>{rows(record, more)}</table></div></div>"
    )


def moving(folder: Path, record: dict[str, Any]) -> str:
    """The turntable: the film, else the GIF, else nothing."""
    for key, form in (
        ("mp4", "<video autoplay loop muted playsinline controls src='data:video/mp4;base64,{}'></video>"),
        ("gif", "<img alt='turntable' src='data:image/gif;base64,{}'>"),
    ):
        if record.get(key) and (path := folder / str(record[key])).is_file():
            return form.format(encoded(path))
    return ""


def rows(record: dict[str, Any], more: Figures = ()) -> str:
    """Table rows of the figures that are there."""
    forms = {
        "share": lambda v: f"{100 * v:.1f}\u202f%",
        "number": lambda v: f"{v:.3g}" if isinstance(v, float) else str(v),
        "truth": lambda v: "yes" if v else "no",
    }
    found = [(text, forms[form](record[key])) for key, text, form in (*FIGURES, *more) if record.get(key) is not None]
    return "".join(f"<tr><td>{html.escape(text)}</td><td>{html.escape(value)}</td></tr>" for text, value in found)


def encoded(path: Path) -> str:
    """The file's bytes as base64."""
    return base64.b64encode(path.read_bytes()).decode("ascii")
