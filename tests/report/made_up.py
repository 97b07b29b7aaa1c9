"""What a run folder of a realistic run holds: drawings, prompts, metrics, a summary."""

import json
import math
import random
from pathlib import Path

import torch

from scorefield.images import save_image

OBJECTS = ("chair", "mug", "house", "tree", "robot", "boat")
COLORS = {
    "red": (0.8, 0.2, 0.15),
    "blue": (0.2, 0.35, 0.85),
    "green": (0.2, 0.6, 0.3),
    "yellow": (0.9, 0.8, 0.2),
}
VIEWS = ("front", "side", "back")
EVIL = 'a <script>alert("x")</script> & a "red" chair'


def drawing(name: str, color: str, noise: float, seed: int, side: int = 64) -> torch.Tensor:
    """A shaded shape whose kind depends on the object's name, [3, side, side] in [-1, 1]."""
    generator = torch.Generator().manual_seed(seed)
    y, x = torch.meshgrid(torch.linspace(-1, 1, side), torch.linspace(-1, 1, side), indexing="ij")
    power = 1 + OBJECTS.index(name)
    inside = (x.abs() ** power + (y * 0.8).abs() ** power) < 0.55**power
    shade = (0.75 - 0.35 * (x + y)).clamp(0.2, 1.2)
    paint = torch.tensor(COLORS[color])[:, None, None] * shade
    picture = torch.where(inside, paint, torch.full_like(paint, 0.78) - 0.1 * y)
    picture = picture * (1 - noise) + noise * torch.rand(3, side, side, generator=generator)
    return picture.clamp(0, 1) * 2 - 1


def write(path: Path, value: object) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(value if isinstance(value, str) else json.dumps(value))


def prompts(count: int) -> list[tuple[str, str, str, str]]:
    draw = random.Random(5)
    found = []
    for _ in range(count):
        name, color, view = draw.choice(OBJECTS), draw.choice(list(COLORS)), draw.choice(VIEWS)
        found.append((f"a {color} {name}, {view} view, on a grey background", name, color, view))
    return [(EVIL, *found[0][1:]), *found[1:]]


def metrics(iterations: int) -> list[dict]:
    draw = random.Random(2)
    records = []
    for k in range(10, iterations + 1, 10):
        fall = math.exp(-k / 250)
        record = {
            "iteration": k,
            "images": 64 * k,
            "seconds": 0.41 * k,
            "loss/generator": 0.9 * fall + 0.08 + draw.gauss(0, 0.03),
            "loss/online": 0.35 + 0.1 * fall + draw.gauss(0, 0.01),
            "x0_gap/rms": 0.5 * fall + 0.04 + draw.random() * 0.02,
            "grad_norm/generator": 20 * fall + draw.random() + 0.2,
            "grad_norm/online": 2 * fall + draw.random() * 0.3 + 0.05,
            "images_per_sec": 150 + draw.gauss(0, 4),
            "memory_bytes": 2_400_000_000,
            "nan_samples": 0,
            "time/teacher": 0.12,
            "time/online": 0.2 + draw.random() * 0.01,
            "time/generator": 0.09,
            "sigma/mean": 1.3 + draw.random(),
        }
        if k % 100 == 0:
            record |= {"eval/prompt_accuracy": 0.92 - 0.6 * fall, "eval/frechet": 1.2 + 30 * fall}
        records.append(record)
    return records


def summary(iterations: int, total: int) -> dict:
    figures = {"precision": 0.87, "recall": 0.71, "diversity": 7.31}
    slow, fast = {"seconds_per_image": 0.141}, {"seconds_per_image": 0.0031}
    teacher = {"steps": 32, "guidance": 2.0, "prompt_accuracy": 0.936, "frechet": 2.04, **slow}
    student = {"steps": 1, "prompt_accuracy": 0.912, "frechet": 2.37, **fast}
    real = {"steps": None, "prompt_accuracy": 0.986, "frechet": 0.31, "seconds_per_image": None}
    return {
        "task": "text_to_image",
        "seed": 0,
        "device": "cpu",
        "loss": "sim",
        "wall_seconds": 421.5,
        "peak_memory_bytes": 3_200_000_000,
        "iterations": iterations,
        "iterations_total": total,
        "images_generated": 64 * iterations,
        "nan_samples": 0,
        "feature_network": "toybox judge <v1>",
        "real": real | figures,
        "teacher": teacher | figures,
        "student": student | figures,
    }


def write_evaluation(run: Path, count: int) -> None:
    pairs = []
    for index, (prompt, name, color, view) in enumerate(prompts(count)):
        good = index % 7 != 3
        stem = f"evaluation/pairs/{index:04d}"
        save_image(drawing(name, color, 0.05, index), run / f"{stem}-teacher.png")
        other = color if good else "yellow" if color != "yellow" else "red"
        save_image(drawing(name, other, 0.12, index + 1000), run / f"{stem}-student.png")
        said = {"object": name, "color": color, "view": view}
        record = {"prompt": prompt, "teacher": f"{stem}-teacher.png", "student": f"{stem}-student.png"}
        record |= {"teacher_ok": index % 11 != 4, "student_ok": good}
        pairs.append(record | {"said": said, "student_read": said | {"color": other}})
    write(run / "evaluation" / "pairs.json", pairs)
    worst = [pair | {"confidence": 0.03 * (i + 1)} for i, pair in enumerate(pairs) if not pair["student_ok"]]
    write(run / "evaluation" / "worst.json", worst)
    draw = random.Random(3)
    attributes = {
        group: {n: {"real": 0.99, "teacher": 0.94, "student": 0.75 + 0.2 * draw.random(), "count": 80} for n in names}
        for group, names in (("object", OBJECTS), ("color", COLORS), ("view", VIEWS), ("all", ["all three"]))
    }
    write(run / "evaluation" / "attributes.json", attributes)
