"""What EDM and StyleGAN2 training share: configuration, pictures, judge, sample grids and the figures at the end."""

import copy
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from scorefield import networks
from scorefield.errors import UserError
from scorefield.evaluation.judge import Judge
from scorefield.evaluation.metrics import frechet_distance, precision_recall
from scorefield.files import write_json
from scorefield.images import save_grid, to_float, to_uint8
from scorefield.pretrain import judge as judge_stage
from scorefield.pretrain import labelled
from scorefield.pretrain.labelled import LabelledImages
from scorefield.pretrain.loop import StageConfig

GRID = 8  # classes across and samples of each down, at most


@dataclass
class LabelledConfig:
    """Data and measurement of a training on labelled pictures."""

    data: str = "toybox"  # "toybox", an .npz with images and labels, or a folder with a sub-folder a class
    label: str = "object"  # Toybox's class: object or object-color
    images: int = 200_000  # pictures rendered or read
    resolution: int = 32
    held_out_data: str = ""  # an .npz or folder to measure against; else held_out pictures are set aside
    held_out: int = 5000
    seed: int = 0
    device: str = "auto"
    judge: str = "train"  # whose features the figures use: a folder, "train" (kept in OUT/judge) or "none"
    judge_stage: StageConfig = field(default_factory=lambda: StageConfig(steps=2000, learning_rate=2e-3))
    samples: int = 5000  # drawn for the figures
    sample_minutes: float = 2.0  # how often a grid of samples is written to OUT/samples
    storage: str = "fp16"  # dtype of the saved weights: fp16 or fp32

    def __post_init__(self) -> None:
        if self.storage not in ("fp16", "fp32"):
            raise UserError(f'storage "{self.storage}" is unknown: use fp16 or fp32')
        if self.samples < 5:
            raise UserError(f"the figures need at least 5 samples, not {self.samples}")


@dataclass
class Prepared:
    """Pictures on the device, those held out, and the judge if there is one."""

    device: str
    train: LabelledImages
    held_out: LabelledImages
    judge: Judge | None


def prepare(config: LabelledConfig, out: Path, say: Callable[[str], None]) -> Prepared:
    """Read the pictures, set some aside, and load or train the judge."""
    device = config.device
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    if device.startswith("cuda"):
        torch.backends.cudnn.benchmark = True  # shapes never change within a training
        torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = True
    out.mkdir(parents=True, exist_ok=True)
    say(f"reading {config.data} at {config.resolution} px on {device}")
    options: dict[str, Any] = {"resolution": config.resolution, "label": config.label, "device": device}
    data = labelled.read(config.data, count=config.images, seed=config.seed, **options)
    if config.held_out_data:
        held_out = labelled.read(config.held_out_data, count=config.held_out, seed=config.seed, **options)
        if held_out.names != data.names:
            raise UserError(f"{config.held_out_data} has other classes than {config.data}")
    elif config.data == "toybox":
        from scorefield.data import toybox

        if config.seed == toybox.TEST_SEED:
            raise UserError(f"seed {toybox.TEST_SEED} is Toybox's test seed: take another")
        held_out = labelled.read("toybox", count=config.held_out, seed=toybox.TEST_SEED, **options)
    else:
        data, held_out = labelled.cut(data, config.held_out, config.seed)
    say(f"{len(data)} pictures of {data.classes} classes, {len(held_out)} held out")
    return Prepared(device, data, held_out, obtain_judge(config, data, held_out, out, device, say))


def obtain_judge(config: LabelledConfig, data, held_out, out: Path, device: str, say) -> Judge | None:
    """The judge that the config names, trained here if asked for; None for "none"."""
    if config.judge == "none":
        return None
    folder = out / "judge" if config.judge == "train" else Path(config.judge)
    if config.judge == "train" and not (folder / "judge.json").exists():
        settings: dict[str, Any] = {"seed": config.seed, "out": out, "device": device, "say": say}
        judge_stage.train(data.images, data.attributes, data.heads, config.judge_stage, **settings).save(folder)
    judge = Judge.load(folder, device)
    if missing := [head for head in data.truth if judge.names.get(head) != data.heads[head]]:
        raise UserError(f"the judge in {folder} does not read {missing[0]} as these pictures have it")
    right = judge_stage.accuracy(judge, held_out.images, {key: held_out.attributes[key] for key in judge.heads}, device)
    say("judge on held-out pictures: " + ", ".join(f"{key} {value:.4f}" for key, value in right.items()))
    return judge


def figures(judge: Judge, images: Tensor, labels: Tensor, reference: Tensor, truth: dict[str, Tensor]) -> dict:
    """Fréchet distance, precision, recall to ``reference`` features [M, D]; share whose class the judge reads right.

    Args:
        images: uint8 [N, 3, R, R] of classes ``labels`` [N]. truth: see ``LabelledImages``.
    """
    parts = [judge.read(to_float(part)) for part in images.split(1024)]
    features = torch.cat([part.features for part in parts])
    right = [torch.cat([part.labels[head] for part in parts]) == told[labels] for head, told in truth.items()]
    spread = precision_recall(reference, features)
    return {
        "frechet": frechet_distance(reference, features),
        "precision": spread["precision"],
        "recall": spread["recall"],
        "label_accuracy": torch.stack(right).all(0).float().mean().item(),
    }


def measure(
    ready: Prepared, config: LabelledConfig, sample: Callable[[Tensor, int], Tensor], who: str, out: Path, say
) -> dict:
    """Draw ``config.samples`` pictures and compare them with the held-out ones; training pictures are the ceiling.

    Args:
        sample: from labels int64 [B] and a seed to pictures [B, 3, R, R] in [-1, 1].
        who: key of the samples' figures.

    Returns:
        {"real": {...}, WHO: {...}} or {} without a judge.
    """
    if ready.judge is None:
        return {}
    held_out, device = ready.held_out, ready.device
    # training pictures and samples in equal numbers, of classes as frequent as in the training pictures
    rows = torch.randperm(len(ready.train), generator=torch.Generator().manual_seed(config.seed + 2))
    rows = rows[: config.samples].to(device)
    labels = ready.train.labels[rows]
    reference = ready.judge.read(to_float(held_out.images)).features
    drawn = to_uint8(sample(labels, config.seed + 3)).to(device)
    found = {
        "real": figures(ready.judge, ready.train.images[rows], labels, reference, held_out.truth),
        who: figures(ready.judge, drawn, labels, reference, held_out.truth),
    }
    for name, values in found.items():
        say(f"{name}: " + ", ".join(f"{key} {value:.4f}" for key, value in values.items()))
    return found


def grid_labels(classes: int, device: str) -> Tensor:
    """int64 [GRID * GRID or fewer] for a grid with a class per column."""
    return torch.arange(min(GRID, classes), device=device).repeat(GRID)


def write_grid(images: Tensor, classes: int, path: Path) -> None:
    """The pictures of ``grid_labels`` as a grid."""
    save_grid(images.float().clamp(-1, 1).cpu(), path, columns=min(GRID, classes))


def store(network: nn.Module, path: Path, storage: str) -> nn.Module:
    """Save ``network`` at ``path`` in ``storage`` precision and return what a reader gets back (float32, eval)."""
    kept = copy.deepcopy(network)
    networks.save(kept.half() if storage == "fp16" else kept, path)
    return networks.load(path).eval().requires_grad_(False)


def write_figures(out: Path, name: str, facts: dict, found: dict, say) -> None:
    """``out``/NAME.json: the figures and what they were measured with."""
    write_json(out / f"{name}.json", {**facts, "figures": found})
    say(f"wrote {out / f'{name}.json'}")
