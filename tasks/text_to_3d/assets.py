"""The particles of a run as assets: files, figures, and their section of the report."""

import time
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import torch
from torch import Tensor

from scorefield.data import toybox
from scorefield.errors import UserError
from scorefield.evaluation.judge import Judge
from scorefield.files import write_folder, write_json, write_text
from scorefield.generators.nerf import NerfGenerator
from scorefield.generators.splats import Scene
from scorefield.processes import announce
from scorefield.three_d import asset, export, page, splat_files, truth
from scorefield.three_d.camera_law import eight_views
from scorefield.three_d.cameras import Cameras
from scorefield.three_d.field import Field

from . import look, spread
from .scores import AssetScores

if TYPE_CHECKING:
    from .task import TextTo3D

MARK = "assets.json"  # tells a folder of assets from one that holds something else
KINDS = ("glb", "obj", "ply", "mp4", "gif")
USAGE = """# {prompt}

| file | what |
|---|---|
| particle-K.glb | binary glTF with its texture inside: y up, front along +z, sRGB, metallic 0, roughness 1 |
| particle-K.obj, .mtl, .png | the same as Wavefront OBJ |
| particle-K.ply | the same with vertex colours |
| particle-K.mp4, .gif | turntable |
| assets.json | triangles, watertightness, components, threshold of each |

```python
import trimesh

trimesh.load("particle-0.glb").show()  # or drop the file on any glTF viewer
```
"""
SPLAT_USAGE = """# {prompt}

| file | what |
|---|---|
| particle-K.ply | 3D Gaussians in the layout of 3D Gaussian Splatting, for its viewers: y up, front along +z |
| particle-K.mp4, .gif | turntable |
| assets.json | number of Gaussians of each |
"""


def circle(task: "TextTo3D", count: int, side: int) -> Cameras:
    """``count`` cameras round the asset, at the middle of the configured ranges."""
    return eight_views(task.config.cameras, (side, side), count)[0]


def write_assets(task: "TextTo3D", generator: NerfGenerator, out: Path) -> list[dict[str, Any]]:
    """Write every particle into ``out``, whole or not at all, and return their records.

    A particle from which nothing can be made has an "error" in its record, and no files; ``out`` is left alone if that
    is so for all of them. Raises UserError if ``out`` holds something else.
    """
    if out.exists() and any(out.iterdir()) and not (out / MARK).exists():
        raise UserError(f"{out} exists and holds no assets: name another folder with --out")
    config, records = task.config.assets, []
    cameras = circle(task, config.frames, config.side)

    def write(part: Path) -> None:
        for particle, field in enumerate(generator.fields):
            record: dict[str, Any] = {"prompt": task.prompt, "particle": particle}
            started = time.perf_counter()
            try:
                given = part, f"particle-{particle}", config, cameras
                if isinstance(field, Scene):
                    made = splat_files.make(field.gaussians(), *given)
                else:
                    made = asset.make(cast(Field, field), *given)
                files = made.pop("files")
                record |= {kind: str(out / path.name) for kind, path in files.items()} | made
            except UserError as error:
                seconds = round(time.perf_counter() - started, 2)
                record |= {"error": str(error), "watertight": None, "components": None, "seconds": seconds}
            records.append(record)
        if all("error" in record for record in records):
            raise UserError(records[0]["error"])
        splats = task.config.generator.kind == "splats"
        write_text(part / "README.md", (SPLAT_USAGE if splats else USAGE).format(prompt=task.prompt))
        write_json(part / MARK, [{k: v for k, v in r.items() if k not in KINDS} for r in records])

    try:
        write_folder(out, write)
    except UserError:
        if not records or not all("error" in record for record in records):
            raise
    return records


def measured(task: "TextTo3D", generator: NerfGenerator, records: list[dict[str, Any]], views: int) -> None:
    """Add the figures of ``scorefield.three_d.truth`` to the records, where the prompt has a truth."""
    settings = task.config.evaluation
    names = ("judge_accuracy", "object_accuracy", "view_accuracy", "janus_rate", "chamfer", "iou", "psnr", "diversity")
    for record in records:
        record.update(dict.fromkeys(names))
    if settings.judge == "none" or toybox.parse(task.prompt) is None:
        return
    judge = look.judge_of(settings.judge, "cpu")
    cameras, features = circle(task, views, settings.size), []
    fields = look.measure(task.config, task.prompt, generator, views)
    for record, seen in zip(records, fields, strict=True):
        record["field_judge_accuracy"] = seen["judge_accuracy"]
        if "glb" in record:
            figures, own = truth.evaluate_mesh(export.read_glb(Path(record["glb"])), task.prompt, judge, cameras)
            record.update(figures)
            features.append(own)
        elif "ply" in record:
            figures, own = of_splats(task, generator, int(record["particle"]), judge, cameras)
            record.update(figures)
            features.append(own)
    apart = truth.particle_diversity(features)
    for record in records:
        record["diversity"] = apart


@torch.no_grad()
def seen_splats(generator: NerfGenerator, particle: int, cameras: Cameras) -> Tensor:
    """[V, 3, H, W] in [0, 1] on the CPU: the Gaussians of one particle on plain grey."""
    device = next(generator.parameters()).device
    ground = torch.tensor([truth.GREY], device=device)
    views = (cameras[row : row + 1].to(device) for row in range(len(cameras)))
    return torch.cat([generator.look(one, particle, background=ground).image.clamp(0, 1).cpu() for one in views])


def of_splats(task: "TextTo3D", generator: NerfGenerator, particle: int, judge: Judge, cameras: Cameras):
    """(figures, the judge's features) of what is seen of Gaussians, which have no surface to be measured."""
    images = seen_splats(generator, particle, cameras)
    figures = truth.read_views(judge, images, task.prompt, truth.azimuths(cameras))
    figures["psnr"] = truth.novel_psnr(images, task.prompt, cameras)
    return figures, judge.read(images * 2 - 1).features


def finish(task: "TextTo3D", generator: NerfGenerator, views: int) -> dict[str, Any]:
    """Assets of a run in RUN/export with their figures and their section of the page.

    Returns "assets" of summary.json, and "scores": what reads the figures of pretrained models.
    """
    records = write_assets(task, generator, task.folder.export)
    measured(task, generator, records, views)
    law = task.config.evaluation.lpips
    spread.add(task, records, circle(task, law.views, law.size), partial(seen_splats, generator))
    scores = AssetScores(task)
    scores.add(records, circle(task, views, task.config.evaluation.score_size), partial(seen_splats, generator))
    shares = ("clip_r_precision",)
    figures = [(k, told["title"], "share" if k in shares else "number") for k, told in scores.facts.items()]
    return {"assets": shown(task, records, figures), "scores": scores.facts}


def shown(task: "TextTo3D", records: list[dict[str, Any]], figures=()) -> list[dict[str, Any]]:
    """The records with paths within the run; writes report/assets.html."""
    root = task.folder.path
    inside = [
        {k: str(Path(v).relative_to(root)) if k in KINDS and v else v for k, v in record.items()} for record in records
    ]
    for record in inside:
        record.setdefault("glb", None)
        if "error" in record:
            announce(f"warning: particle {record['particle']}: {record['error']}")
    page.write_section(root, inside, figures)
    return inside


def export_run(task: "TextTo3D", weights: dict[str, Tensor], out: Path) -> Path:
    """What ``scorefield export RUN`` does, for a finished or an interrupted run.

    Raises UserError when no particle gives an asset.
    """
    asset.check_libraries()
    records = write_assets(task, task.restore(weights), out)
    failed = [record for record in records if "error" in record]
    if len(failed) == len(records):
        raise UserError(failed[0]["error"])
    for record in failed:
        print(f"warning: particle {record['particle']}: {record['error']}")
    if out.resolve() == task.folder.export.resolve() and not task.folder.summary():
        shown(task, [dict(record) for record in records])
    return out
