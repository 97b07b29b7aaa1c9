"""Losses side by side on text to 3D: runs every prompt under every loss and seed, and measures their assets.

    python scripts/text_to_3d_table.py --out runs/text-to-3d --jobs 8       # 12 prompts, 4 losses, 2 seeds: 96 runs
    python scripts/text_to_3d_table.py --out runs/short --prompts "a red chair" --seeds 0 --losses sim vsd

Every run asks the teacher equally often, which is checked before the first one starts. A stopped table goes on with the
same command: finished runs are not repeated, unfinished ones resume. Further words are overrides of every run.

Written into --out while it works: table.csv (one line a run), table.md (means by loss, then every run), and at the end
pictures-seedN.png (eight views of each field; rows are prompts under each loss). Log files lie in --out/logs. The
prompts are twelve of Toybox's fourteen kinds, all ten with a front among them, in all eight colours.
"""

import argparse
import csv
import io
import statistics
import sys
from pathlib import Path
from typing import Any

import torch

from scorefield.compare.plan import Job, Plan, Variant, measure_cost, resolve
from scorefield.compare.progress import CompareProgress
from scorefield.compare.runner import Runner, open_folder, refuse_changed
from scorefield.compare.spec import Spec
from scorefield.errors import UserError
from scorefield.files import read_json, write_text
from scorefield.images import cut_grid, save_grid
from scorefield.training.evaluations import passes

PROMPTS = [
    "a red chair",
    "a blue car",
    "a yellow house",
    "a green mug",
    "an orange aeroplane",
    "a purple boat",
    "a pink bear",
    "a cyan robot",
    "a red clock",
    "a blue snowman",
    "a yellow lamp",
    "a green tree",
]
# the preset's weights are SIM's; the other losses have larger gradients, under which they would hardly count
LARGER = ["regularizers.roundtrip={0: 1.0}", "regularizers.sparsity={0: 20.0}"]
LOSSES: dict[str, list[str]] = {"sim": [], "vsd": LARGER, "sds": LARGER, "sid": LARGER}
SHARES = ("judge_accuracy", "object_accuracy", "view_accuracy", "janus_rate", "true_janus_rate")
FIGURES = [*SHARES, "chamfer", "iou", "psnr", "seed_diversity", "seed_lpips", "watertight", "components", "faces"]
HEAD = ["prompt", "loss", "seed", "state", "teacher_evaluations", *FIGURES, "training_seconds", "seconds", "error"]
VIEWS = 8  # columns of a run's sample sheet


def make_plan(arguments: argparse.Namespace, overrides: list[str]) -> Plan:
    """A variant for every prompt and loss; raises UserError for bad settings and for unequal costs."""
    spec = Spec("text-to-3d", task="text_to_3d", config=arguments.config, common=overrides, seeds=arguments.seeds)
    variants, asked = [], {}
    for loss in arguments.losses:
        config = resolve(spec, ["prompt=checked", f"loss.name={loss}", *LOSSES[loss], *overrides])
        each = passes(config.build_loss(), config.training.guidance_scale) * config.training.batch
        asked[loss] = each * config.training.iterations
        for prompt in arguments.prompts:
            words = [f"prompt={prompt}", f"loss.name={loss}", *LOSSES[loss], *overrides]
            name = f"{prompt.replace(' ', '-')}-{loss}"
            variant = Variant(name, f"{prompt}, {loss}", loss, [], words, config, config.training.batch, asked[loss])
            variant.iterations = config.training.iterations
            measure_cost(variant)
            variants.append(variant)
    if max(asked.values()) > 1.02 * min(asked.values()):
        raise UserError(f"the losses would not ask the teacher equally often: {asked}")
    variants.sort(key=lambda v: arguments.prompts.index(v.title.rpartition(", ")[0]))
    return Plan(spec, variants, "")


def row_of(job: Job) -> dict[str, Any]:
    """What table.csv says of a run; figures are empty while there are none."""
    config, prompt = job.variant.config, job.variant.title.rpartition(", ")[0]
    row: dict[str, Any] = dict.fromkeys(HEAD) | {"prompt": prompt, "loss": job.variant.note, "seed": job.seed}
    if not (job.folder / "summary.json").exists():
        return row | {"state": job.state, "error": job.error or None}
    summary = read_json(job.folder / "summary.json")
    asset = (summary.get("assets") or [{}])[0]
    each = passes(config.build_loss(), config.training.guidance_scale)
    row |= {name: asset.get(name) for name in FIGURES if name in asset}
    row |= {"state": "done" if asset.get("glb") else "no asset", "error": asset.get("error")}
    row |= {"teacher_evaluations": each * summary["images_generated"]}
    return row | {"training_seconds": summary.get("training_seconds"), "seconds": summary["wall_seconds"]}


def seed_spread(jobs: list[Job]) -> dict[str, dict[str, float | None]]:
    """By job name, how far apart the assets of one prompt and loss are over its seeds, seen from the same eight sides:
    mean distance of the judge's features, and LPIPS where ``evaluation.lpips.trunk`` is given."""
    from scorefield.three_d.camera_law import eight_views
    from scorefield.three_d.export import read_glb
    from scorefield.three_d.spread import mean_distance
    from scorefield.three_d.truth import GREY, particle_diversity
    from scorefield.three_d.view import over, render_mesh
    from tasks.text_to_3d.look import judge_of
    from tasks.text_to_3d.spread import metric

    groups: dict[str, list[tuple[Job, Path]]] = {}
    found: dict[str, dict[str, float | None]] = {}
    for job in jobs:
        if (glb := job.folder / "export" / "particle-0.glb").is_file():
            groups.setdefault(job.variant.name, []).append((job, glb))
    for members in groups.values():
        settings = members[0][0].variant.config.evaluation
        if len(members) < 2:
            continue
        cameras = eight_views(members[0][0].variant.config.cameras, (settings.size,) * 2)[0]
        large = cameras.sized(settings.lpips.size, settings.lpips.size)
        meshes, apart = [read_glb(glb) for _, glb in members], dict[str, float | None]()
        if settings.judge != "none":
            judge = judge_of("toybox", "cpu")
            seen = [over(*render_mesh(mesh, cameras), GREY) * 2 - 1 for mesh in meshes]
            apart["seed_diversity"] = particle_diversity([judge.read(views).features for views in seen])
        if settings.lpips.trunk:
            seen = [(over(*render_mesh(mesh, large), GREY) * 2 - 1).float() for mesh in meshes]
            apart["seed_lpips"] = mean_distance(seen, metric(settings.lpips, "cpu"))
        found |= {job.name: apart for job, _ in members}
    return found


def shown(name: str, value: Any) -> str:
    """A figure as table.md shows it."""
    if value is None or isinstance(value, bool | str):
        return {None: "", True: "yes", False: "no"}.get(value, value)
    if name in SHARES or name == "watertight":
        return f"{100 * value:.0f} %"
    digits = {"psnr": 1, "training_seconds": 0, "seconds": 0, "components": 1, "faces": 0}.get(name, 3)
    return str(value) if isinstance(value, int) else f"{value:.{digits}f}"


def mean_rows(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """One row a loss: means over the runs that have the figure; a run without an asset counts as read wrongly."""
    found = []
    for loss in dict.fromkeys(row["loss"] for row in rows):
        ended = [row for row in rows if row["loss"] == loss and row["state"] in ("done", "no asset")]
        mean: dict[str, Any] = {"loss": loss, "runs": len(ended)}
        mean["no asset"] = sum(row["state"] == "no asset" for row in ended)
        for name in [*FIGURES, "teacher_evaluations", "training_seconds", "seconds"]:
            lost = 0.0 if name in ("judge_accuracy", "object_accuracy") else None
            values = [lost if row["state"] == "no asset" else row[name] for row in ended]
            kept = [float(v) for v in values if v is not None]
            mean[name] = statistics.fmean(kept) if kept else None
        found.append(mean)
    return found


def markdown(rows: list[dict[str, Any]], names: list[str]) -> list[str]:
    """A table of some columns."""
    head = ["| " + " | ".join(name.replace("_", " ") for name in names) + " |", "|---" * len(names) + "|"]
    return head + ["| " + " | ".join(shown(name, row.get(name)) for name in names) + " |" for row in rows]


def write_tables(jobs: list[Job], out: Path, spread: dict[str, dict[str, float | None]]) -> list[str]:
    """table.csv and table.md from what is there; returns the lines of the means."""
    rows = [row_of(job) | spread.get(job.name, {}) for job in jobs]
    text = io.StringIO()
    writer = csv.DictWriter(text, HEAD, lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    write_text(out / "table.csv", text.getvalue())
    means = markdown(mean_rows(rows), ["loss", "runs", "no asset", *FIGURES, "teacher_evaluations", "seconds"])
    each = markdown(rows, [name for name in HEAD if name != "error"])
    write_text(out / "table.md", "\n".join([*means, "", *each]) + "\n")
    return means


def draw(jobs: list[Job], out: Path) -> None:
    """pictures-seedN.png: the colour row of each finished run's last sample sheet, with its name below."""
    for seed in dict.fromkeys(job.seed for job in jobs):
        tiles, labels = [], []
        for job in jobs:
            sheet = job.folder / "samples" / f"iteration-{job.variant.iterations:06d}.png"
            if job.seed == seed and job.state == "done" and sheet.is_file():
                tiles.append(cut_grid(sheet, job.variant.config.evaluation.size, VIEWS, VIEWS))
                labels += [job.variant.title] + [""] * (VIEWS - 1)
        if tiles:
            save_grid(torch.cat(tiles), out / f"pictures-seed{seed}.png", VIEWS, labels)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--prompts", nargs="+", default=PROMPTS)
    parser.add_argument("--losses", nargs="+", choices=LOSSES, default=list(LOSSES))
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1])
    parser.add_argument("--config", help="preset of the task; its default if left out")
    parser.add_argument("--jobs", type=int, default=1, help="runs at once")
    parser.add_argument("--dry-run", action="store_true", help="say what would run, and stop")
    arguments, overrides = parser.parse_known_args()
    if unknown := [word for word in overrides if word.startswith("-") or "=" not in word]:
        parser.error(f"neither a flag nor key=value: {unknown[0]}")
    try:
        plan = make_plan(arguments, overrides)
        jobs = plan.jobs(arguments.out)
        if arguments.dry_run:
            print(f"{len(jobs)} runs of {plan.variants[0].iterations} iterations, {arguments.jobs} at once:")
            print("\n".join(job.name for job in jobs))
            return 0
        folder = open_folder(arguments.out, [], resume=True)
        for job in jobs:
            refuse_changed(plan, job)
    except UserError as error:
        print(f"text_to_3d_table: {error}", file=sys.stderr)
        return 2
    with CompareProgress(len(jobs)) as progress:

        def changed(job: Job) -> None:
            progress.ended(job)
            write_tables(jobs, arguments.out, {})

        stopped = Runner(plan, jobs, arguments.out, arguments.jobs, progress.show, changed).run()
    print("\n".join(write_tables(jobs, arguments.out, {} if stopped else seed_spread(jobs))))
    draw(jobs, arguments.out)
    folder.release()
    for job in jobs:
        if job.state == "failed":
            print(f"failed: {job.name}: {job.error} (see {arguments.out / 'logs' / job.name}.log)", file=sys.stderr)
    return 128 + stopped if stopped else int(any(job.state == "failed" for job in jobs))


if __name__ == "__main__":
    sys.exit(main())
