"""Run folders with figures of known size, in place of runs that take minutes."""

import json
from pathlib import Path
from typing import Any

import torch

from scorefield.compare.plan import Job, Plan, make_plan
from scorefield.compare.spec import Spec, VariantSpec
from scorefield.config import to_yaml
from scorefield.images import save_grid


def plan_of(names: list[str], seeds: list[int], common: list[str] | None = None, **more: Any) -> Plan:
    """Variants of the loss sim that differ in c."""
    common = ["training.iterations=40", "training.batch=8", "training.device=cpu", *(common or [])]
    variants = [VariantSpec(name, [f"loss.c={0.5 * (k + 1)}"]) for k, name in enumerate(names)]
    return make_plan(Spec(common=common, seeds=seeds, variants=variants, **more))


def finish(plan: Plan, job: Job, accuracy: float, frechet: float = 0.2, **student: float) -> None:
    """Write what a finished run leaves."""
    job.folder.mkdir(parents=True)
    (job.folder / "config.yaml").write_text(to_yaml(plan.resolved(job)))
    lines = []
    for k in range(0, 41, 2):
        record: dict[str, Any] = {"iteration": k, "images": 8 * k, "seconds": 0.5 * k}
        if k:
            record |= {"x0_gap/rms": 1 / k, "grad_norm/generator": 10.0, "grad_norm/online": 2.0, "loss/online": 0.5}
        if k % 10 == 0:
            record |= {"eval/prompt_accuracy": accuracy * k / 40, "eval/frechet": frechet + 1, "eval/recall": 0.5}
        lines.append(json.dumps(record))
    (job.folder / "metrics.jsonl").write_text("\n".join(lines) + "\n")
    ceiling = {"precision": 0.98, "recall": 0.9, "diversity": 0.6}
    summary = {
        "task": "text_to_image",
        "iterations": 40,
        "images_generated": 320,
        "training_seconds": 20.0 + job.seed,
        "peak_memory_bytes": 2**30,
        "nan_samples": 0,
        "feature_network": "judge",
        "real": {"steps": None, "prompt_accuracy": 1.0, "frechet": 0.03} | ceiling,
        "teacher": {"steps": 20, "guidance": 3.0, "prompt_accuracy": 0.97, "frechet": 0.11} | ceiling,
        "student": {"steps": 1, "prompt_accuracy": accuracy, "frechet": frechet, "seconds_per_image": 0.01, **student},
        "running": {"pictures": 128, "real": {"recall": 0.99}, "teacher": {"recall": 0.97}},
    }
    (job.folder / "summary.json").write_text(json.dumps(summary))
    (job.folder / "report.html").write_text("a report")
    samples = job.folder / "samples"
    for name in ("teacher", "iteration-000040"):
        save_grid(torch.rand(10, 3, 16, 16) * 2 - 1, samples / f"{name}.png", 8)
    layout = {"prompts": [f"prompt <{k}>" for k in range(10)], "columns": 8, "tile": 16}
    (samples / "layout.json").write_text(json.dumps(layout))


def finished_jobs(plan: Plan, out: Path, accuracies: dict[str, list[float]]) -> list[Job]:
    """All jobs done, with the accuracies of their seeds; the Fréchet distance is 1 - accuracy."""
    jobs = plan.jobs(out)
    for job in jobs:
        value = accuracies[job.variant.name][plan.spec.seeds.index(job.seed)]
        finish(plan, job, value, 1 - value, recall=0.5, diversity=0.6 + value)
        job.state = "done"
    return jobs
