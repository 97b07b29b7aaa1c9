"""Pictures with class labels for EDM and StyleGAN2 training: Toybox, an .npz, or a folder with a sub-folder a class."""

from dataclasses import dataclass, field, replace
from pathlib import Path

import torch
from torch import Tensor

from scorefield.errors import UserError, suggest
from scorefield.pretrain.sources import IMAGE_SUFFIXES

TOYBOX_LABELS = ("object", "object-color")
CHUNK = 4096  # pictures rendered at a time


@dataclass
class LabelledImages:
    """Pictures in memory.

    Attributes:
        images: uint8 [N, 3, R, R]. labels: int64 [N], each in [0, classes). names: one a class.
        attributes: what a judge can be taught, int64 [N] by head; -1 where a picture has no such attribute.
        heads: names of each head's values. truth: int64 [classes] by head, what a class says about that attribute
            (only heads that the class decides).
    """

    images: Tensor
    labels: Tensor
    names: list[str]
    attributes: dict[str, Tensor] = field(default_factory=dict)
    heads: dict[str, list[str]] = field(default_factory=dict)
    truth: dict[str, Tensor] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.images)

    @property
    def classes(self) -> int:
        return len(self.names)

    @property
    def resolution(self) -> int:
        return self.images.shape[-1]

    def __getitem__(self, rows: Tensor | slice) -> "LabelledImages":
        attributes = {key: value[rows] for key, value in self.attributes.items()}
        return replace(self, images=self.images[rows], labels=self.labels[rows], attributes=attributes)

    def to(self, device: str) -> "LabelledImages":
        """The same pictures on another device."""
        move = lambda table: {key: value.to(device) for key, value in table.items()}  # noqa: E731
        return replace(
            self,
            images=self.images.to(device),
            labels=self.labels.to(device),
            attributes=move(self.attributes),
            truth=move(self.truth),
        )


def read(data: str, *, resolution: int, count: int, seed: int = 0, label: str = "object", device: str = "cpu"):
    """``LabelledImages`` on ``device``: "toybox", an .npz file or a folder with a sub-folder a class.

    Args:
        resolution: side in pixels; Toybox is rendered at it, folders are resized to it, an .npz must have it.
        count: at most so many pictures (Toybox: exactly). seed: of Toybox's scenes.
        label: Toybox's class: "object" or "object-color".

    Raises:
        UserError: nothing there, or pictures and labels that do not fit.
    """
    if count < 1:
        raise UserError(f"at least one picture is needed, not {count}")
    if data == "toybox":
        return from_toybox(count, seed, resolution, label, device)
    path = Path(data)
    if path.is_dir():
        found = from_folder(path, resolution, count)
    elif path.is_file():
        found = from_npz(path)
        if found.resolution != resolution:
            raise UserError(f"the pictures of {path} are {found.resolution} px: set resolution={found.resolution}")
    else:
        raise UserError(f'{data} is neither "toybox" nor an .npz file nor a folder')
    if count < len(found):
        order = torch.randperm(len(found), generator=torch.Generator().manual_seed(seed))
        found = found[order[:count]]
    return found.to(device)


def from_toybox(count: int, seed: int, resolution: int, label: str, device: str = "cpu") -> LabelledImages:
    """Toybox scenes 0 … ``count`` of ``seed``; class o, or o * colours + c, of object o and colour c."""
    from scorefield.data import toybox

    if label not in TOYBOX_LABELS:
        raise UserError(f'unknown Toybox label "{label}": {suggest(label, TOYBOX_LABELS)}')
    parts: list[Tensor] = []
    attributes: dict[str, list[Tensor]] = {"object": [], "color": [], "view": []}
    for start in range(0, count, CHUNK):
        indices = range(start, min(start + CHUNK, count))
        pictures, scenes = toybox.images(indices, seed, resolution=resolution, device=device)
        parts.append(pictures.to(device))
        for key, rows in attributes.items():
            rows.append(getattr(scenes, key).to(device))
    told = {key: torch.cat(rows) for key, rows in attributes.items()}
    heads = {"object": list(toybox.OBJECTS), "color": list(toybox.COLORS), "view": list(toybox.VIEWS)}
    colors = len(toybox.COLORS)
    if label == "object":
        names, labels = list(toybox.OBJECTS), told["object"]
        truth = {"object": torch.arange(len(names))}
    else:
        names = [f"{color} {thing}" for thing in toybox.OBJECTS for color in toybox.COLORS]
        labels = told["object"] * colors + told["color"]
        places = torch.arange(len(names))
        truth = {"object": places // colors, "color": places % colors}
    truth = {key: value.to(device) for key, value in truth.items()}
    return LabelledImages(torch.cat(parts), labels, names, told, heads, truth)


def classified(images: Tensor, labels: Tensor, names: list[str]) -> LabelledImages:
    """Pictures whose one attribute is their class."""
    return LabelledImages(
        images, labels, names, {"class": labels}, {"class": names}, {"class": torch.arange(len(names))}
    )


def from_npz(path: Path) -> LabelledImages:
    """Keys ``images`` uint8 [N, R, R, 3] or [N, 3, R, R], ``labels`` int [N], optionally ``classes`` (names).

    Nothing is unpickled: a file with Python objects in it is refused.
    """
    import zipfile

    import numpy as np

    try:
        with np.load(path, allow_pickle=False) as file:
            images, labels = file["images"], file["labels"]
            given = [str(name) for name in file["classes"]] if "classes" in file else None
    except (OSError, KeyError, ValueError, TypeError, EOFError, IndexError, zipfile.BadZipFile) as error:
        raise UserError(f"cannot read images and labels from {path}: {error}") from error
    if images.ndim == 4 and images.shape[1] != 3 and images.shape[3] == 3:
        images = images.transpose(0, 3, 1, 2)
    if images.dtype != np.uint8 or images.ndim != 4 or images.shape[1] != 3 or images.shape[2] != images.shape[3]:
        form = f"{images.dtype} {list(images.shape)}"
        raise UserError(f"images in {path} must be square, uint8 [N, R, R, 3] or [N, 3, R, R], not {form}")
    if not len(images) or labels.shape != images.shape[:1] or not np.issubdtype(labels.dtype, np.integer):
        form = f"{labels.dtype} {list(labels.shape)}"
        raise UserError(f"labels in {path} must be integers [{len(images)}], one a picture, not {form}")
    classes = int(labels.max()) + 1 if given is None else len(given)
    if labels.min() < 0 or labels.max() >= classes:
        raise UserError(
            f"labels in {path} run from {labels.min()} to {labels.max()}; they must lie in 0 to {classes - 1}"
        )
    if given is None and classes > len(labels):
        raise UserError(f"labels in {path} go up to {classes - 1} for {len(labels)} pictures: number classes from 0")
    names = given or [str(k) for k in range(classes)]
    return classified(torch.from_numpy(np.ascontiguousarray(images)), torch.from_numpy(labels.astype(np.int64)), names)


def from_folder(folder: Path, resolution: int, count: int) -> LabelledImages:
    """FOLDER/CLASS/*.png and the like; classes in alphabetical order, pictures cropped to a square and resized.

    At most ``count`` pictures are read, as evenly over the classes as they allow.
    """
    import numpy as np
    from PIL import Image, ImageOps

    classes, files = zip(*class_files(folder), strict=True)
    # round robin over the classes, so that a small count still has all of them
    turns = sorted((turn, k) for k, found in enumerate(files) for turn in range(len(found)))[:count]
    rows, labels = [], [k for _, k in turns]
    for turn, k in turns:
        try:
            picture = Image.open(files[k][turn]).convert("RGB")
        except (OSError, ValueError, SyntaxError) as error:
            raise UserError(f"cannot read the picture {files[k][turn]}: {error}") from error
        square = ImageOps.fit(picture, (resolution, resolution), Image.Resampling.LANCZOS)
        rows.append(torch.from_numpy(np.asarray(square).copy()).permute(2, 0, 1))
    return classified(torch.stack(rows), torch.tensor(labels), list(classes))


def frequencies(data: str) -> list[int]:
    """Pictures of each class in an .npz or a folder with a sub-folder a class; Toybox has its objects alike.

    Raises UserError as ``read`` does; of a folder no picture is opened.
    """
    if data == "toybox":
        from scorefield.data import toybox

        return [1] * len(toybox.OBJECTS)
    path = Path(data)
    if path.is_file():
        found = from_npz(path)
        return torch.bincount(found.labels, minlength=found.classes).tolist()
    if not path.is_dir():
        raise UserError(f'{data} is neither "toybox" nor an .npz file nor a folder')
    return [len(files) for _, files in class_files(path)]


def class_files(folder: Path) -> list[tuple[str, list[Path]]]:
    """(name, pictures) of each class in FOLDER/CLASS/*.png and the like, in alphabetical order; UserError for none."""
    classes = sorted(p for p in folder.iterdir() if p.is_dir() and not p.name.startswith("."))
    found = [(kind.name, sorted(f for f in kind.rglob("*") if f.suffix.lower() in IMAGE_SUFFIXES)) for kind in classes]
    if not any(files for _, files in found):
        raise UserError(f"{folder} holds no pictures in class sub-folders: put them at {folder}/CLASS/name.png")
    if empty := [name for name, files in found if not files]:
        raise UserError(f"class folder {folder / empty[0]} holds no picture")
    return found


def cut(data: LabelledImages, held_out: int, seed: int) -> tuple[LabelledImages, LabelledImages]:
    """(training, held out): ``held_out`` pictures chosen by ``seed`` are set aside; UserError where too few remain."""
    if not 0 < held_out < len(data):
        raise UserError(f"held_out must leave pictures to train on: it is {held_out} of {len(data)}")
    order = torch.randperm(len(data), generator=torch.Generator().manual_seed(seed + 1))
    order = order.to(data.images.device)
    return data[order[held_out:]], data[order[:held_out]]
