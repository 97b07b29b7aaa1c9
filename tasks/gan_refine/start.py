"""What the generator learns from pictures that the teacher draws, before the loss: the GAN's own training gone on with
on them, and the frequencies of what each class shows. No real picture is used.

Everything is kept in the run's folder, start/, so that an interrupted run goes on where it was.
"""

import copy
import os
import time
import zipfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from scorefield import networks
from scorefield.denoiser import pick
from scorefield.errors import UserError
from scorefield.files import read_json, write_atomically, write_json
from scorefield.generators.stylegan2 import StyleGAN2Generator
from scorefield.images import to_float, to_uint8
from scorefield.networks import stylegan2
from scorefield.networks.stylegan2_discriminator import Discriminator
from scorefield.pretrain import gan
from scorefield.pretrain.labelled import LabelledImages
from scorefield.random import Draws
from scorefield.teachers.sampling import heun

from . import balance
from .settings import StartConfig

if TYPE_CHECKING:
    from .task import GANRefine

FOLDER, PICTURES, NETWORK, FACTS = "start", "pictures.npz", "G_ema", "start.json"
LABEL_SEED, CHUNK = 40, 256
ALIKE = 0.5  # an average and the weights it is of are far closer (0.99999 the embedded ones), strangers near 0
CHUNK_CPU = 32  # with channels last, nearly twice as fast on a CPU as 256 without


def check(task: "GANRefine", generator: StyleGAN2Generator) -> None:
    """Raise UserError for what cannot go on, before anything is drawn."""
    settings = task.config.start
    if not settings.pictures:
        return
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        raise UserError(
            "start.pictures is made by one process: run it with one and training.iterations=1, then several with "
            "generator.path=RUN/start/G_ema and start.pictures=0"
        )
    if settings.adversary.networks != "none":
        open_adversaries(task, generator)


def plan(task: "GANRefine") -> list[str]:
    """What comes before the loss, in words."""
    settings = task.config.start
    if not settings.pictures:
        return []
    passes = settings.pictures * 2 * settings.teacher_steps
    parts = [f"{settings.adversary.steps} steps of the GAN"] if settings.adversary.networks != "none" else []
    parts += ["the mapping network fitted to their frequencies"] if settings.balance.clusters else []
    return [f"start: {settings.pictures} pictures of the teacher ({passes:,} passes), {', '.join(parts)}"]


def open_adversaries(task: "GANRefine", generator: StyleGAN2Generator) -> tuple[stylegan2.Generator, Discriminator]:
    """The GAN's training networks: the generator without its average, and the discriminator."""
    given, own = task.config.start.adversary.networks, task.config.generator.path
    bundled = given == "own"
    if bundled and not own.endswith(".pkl"):
        raise UserError(
            f'generator.path "{own}" is no pickle that brings G and D: start.adversary.networks must name a folder '
            'with both, or "none"'
        )
    G, D = (task.open(own, key) if bundled else task.open(f"{given}/{key}") for key in ("G", "D"))
    given = own if bundled else given
    if not isinstance(G, stylegan2.Generator) or not isinstance(D, Discriminator):
        raise UserError(f'"{given}" does not hold G and D of a StyleGAN2')
    if alike(G, generator.network) < ALIKE:
        raise UserError(f'G of "{given}" is not what generator.path "{own}" is the average of')
    here, there = (G.c_dim, G.img_resolution, G.img_channels), (D.c_dim, D.img_resolution, D.img_channels)
    if here != there:
        raise UserError(
            f'D of "{given}" sees {there[1]} px in {there[2]} channels and {there[0]} classes, its G makes '
            f"{here[1]} px in {here[2]} and {here[0]}"
        )
    if generator.shape[-1] != G.img_resolution:
        raise UserError(
            f"the GAN's discriminator sees {G.img_resolution} px and the teacher draws {generator.shape[-1]} px: "
            "start.adversary.networks=none leaves it out"
        )
    return G, D


def alike(a: torch.nn.Module, b: torch.nn.Module) -> float:
    """Cosine of the angle between the parameters of two networks; -1 for two architectures."""
    shapes = [[(name, p.shape) for name, p in network.named_parameters()] for network in (a, b)]
    if shapes[0] != shapes[1]:
        return -1.0
    first, second = (torch.nn.utils.parameters_to_vector(network.parameters()).detach() for network in (a, b))
    return float(torch.cosine_similarity(first, second.to(first.device), dim=0))


def started(task: "GANRefine", generator: StyleGAN2Generator) -> StyleGAN2Generator:
    """``generator`` with what ``prepare`` made of its network in this run's folder, if it did."""
    path = task.folder.path / FOLDER / NETWORK
    if task.config.start.pictures and path.with_name(f"{NETWORK}.json").is_file():
        generator.network.load_state_dict(networks.load(path).state_dict())
    return generator


def prepare(task: "GANRefine", generator: StyleGAN2Generator) -> dict[str, Any]:
    """Train ``generator``'s network in place; returns what was done, {} where nothing is asked for."""
    settings, folder = task.config.start, task.folder.path / FOLDER
    if not settings.pictures:
        return {}
    if (folder / FACTS).is_file():
        started(task, generator)
        return read_json(folder / FACTS)
    folder.mkdir(parents=True, exist_ok=True)
    facts: dict[str, Any] = {"pictures": settings.pictures}
    clock = time.monotonic()
    taught = pictures(task, generator, folder / PICTURES)
    facts["drawing_seconds"] = round(time.monotonic() - clock, 1)
    if settings.adversary.networks != "none":
        clock = time.monotonic()
        steps = compete(task, generator, taught, folder)
        facts |= {"adversary_steps": steps, "adversary_seconds": round(time.monotonic() - clock, 1)}
    if settings.balance.clusters:
        clock = time.monotonic()
        even(task, generator, taught)
        facts["balance_seconds"] = round(time.monotonic() - clock, 1)
    networks.save(generator.network, folder / NETWORK)
    write_json(folder / FACTS, facts)
    return facts


def reader(denoiser: Any, device: str) -> tuple[Any, int]:
    """A copy of ``denoiser`` laid out for passes without gradients on ``device``, and how many pictures at a time."""
    laid = copy.deepcopy(denoiser).to(device=device, memory_format=torch.channels_last)
    return laid.eval(), CHUNK_CPU if device == "cpu" else CHUNK


def labels(generator: StyleGAN2Generator, count: int, seed: int, device: str) -> Tensor:
    """float32 [count, classes] by the generator's law of classes."""
    if generator.labels is None:
        return torch.zeros(count, 0, device=device)
    return generator.labels.draw(Draws(seed, -1, torch.arange(count, device=device)))


def condition_of(task: "GANRefine", c: Tensor) -> dict[str, Tensor]:
    """What the teacher is told of labels ``c``."""
    return {"label": c} if task.teacher.label_dim else {}


def pictures(task: "GANRefine", generator: StyleGAN2Generator, path: Path) -> LabelledImages:
    """What the teacher draws, kept at ``path``: uint8 [N, C, R, R] with classes."""
    settings, device = task.config.start, task.device
    c = labels(generator, settings.pictures, task.config.training.seed + LABEL_SEED, device)
    names = [str(number) for number in range(max(1, c.shape[1]))]
    classes = c.argmax(1) if c.shape[1] else torch.zeros(len(c), dtype=torch.int64, device=device)
    if path.is_file():
        return LabelledImages(kept(path, (len(c), *task.teacher.shape)).to(device), classes, names)
    draw = torch.Generator(device).manual_seed(task.config.training.seed + LABEL_SEED)
    (teacher, batch), made, clock = reader(task.teacher, device), [], time.monotonic()
    for told in c.split(CHUNK):
        z = torch.randn((len(told), *teacher.shape), generator=draw, device=device)
        x0 = sampled(teacher, condition_of(task, told), z, settings, batch)
        made.append(to_uint8(x0.clamp(-1, 1)))
        done = sum(map(len, made))
        pace = done / (time.monotonic() - clock)
        task.say(f"teacher: {done} of {len(c)} pictures, {pace:.0f} a second, {(len(c) - done) / pace:.0f} s left")
    images = torch.cat(made)

    def write(part: Path) -> None:
        with part.open("wb") as file:
            np.savez_compressed(file, images=images.cpu().numpy(), labels=classes.cpu().numpy())

    write_atomically(path, write)
    return LabelledImages(images, classes, names)


def kept(path: Path, shape: tuple[int, ...]) -> Tensor:
    """The uint8 pictures that ``pictures`` wrote; raises UserError for a broken file or one of other settings."""
    try:
        with np.load(path, allow_pickle=False) as file:
            images = file["images"]
    except (OSError, KeyError, ValueError, EOFError, zipfile.BadZipFile) as error:
        raise UserError(f"cannot read the teacher's pictures in {path}: delete it to draw them anew") from error
    if images.dtype != np.uint8 or images.shape != shape:
        raise UserError(
            f"{path} holds {images.dtype} {list(images.shape)} and {list(shape)} are asked for: delete it to draw anew"
        )
    return torch.from_numpy(images)


@torch.no_grad()
def sampled(teacher: Any, condition: dict[str, Tensor], z: Tensor, settings: StartConfig, batch: int) -> Tensor:
    """x0 of start noise ``z``: one pass down to ``settings.sigma_max``, then Heun's method.

    That high a noise level hides all but the mean picture, so that the first pass loses next to nothing.
    """
    top = max(min(settings.sigma_max, teacher.sigma_max), teacher.sigma_min)
    rows = [slice(first, first + batch) for first in range(0, len(z), batch)]
    level = torch.full((len(z),), teacher.sigma_max, dtype=z.dtype, device=z.device)
    mean = torch.cat([teacher(teacher.sigma_max * z[row], level[row], pick(condition, row)) for row in rows])
    lower = copy.copy(teacher)  # shares the network
    lower.sigma_max, lower.sigma_min = top, max(settings.sigma_min, teacher.sigma_min)
    z = z + mean * (1 / top - 1 / teacher.sigma_max)
    return heun(lower, condition, z, steps=settings.teacher_steps, batch=batch)


def compete(task: "GANRefine", generator: StyleGAN2Generator, taught: LabelledImages, folder: Path) -> int:
    """Go on with the GAN's own training, the teacher's pictures in place of real ones; keep the generator's average.

    Returns the steps that were taken.
    """
    settings, network = task.config.start.adversary, generator.network
    asked = [p.requires_grad for p in network.parameters()]
    with torch.random.fork_rng():
        torch.manual_seed(task.config.training.seed)
        average = copy.deepcopy(network)
        players = gan.Adversaries(*open_adversaries(task, generator), settings, task.device, average)
        session = gan.train(taught, players, seed=task.config.training.seed, out=folder, say=task.say)
    network.load_state_dict(players.average.state_dict())
    for p, on in zip(network.parameters(), asked, strict=True):
        p.requires_grad_(on)
    return session.step


@torch.no_grad()
def drawn(generator: StyleGAN2Generator, c: Tensor, seed: int) -> tuple[Tensor, Tensor]:
    """w [N, w_dim] of latents for labels ``c`` and their pictures [N, C, R, R], clamped."""
    network, found = generator.network.eval(), []
    draw = torch.Generator(c.device).manual_seed(seed)
    z = torch.randn((len(c), network.z_dim), generator=draw, device=c.device)
    ws = network.mapping(z, c)
    for some in ws.split(CHUNK):
        x0 = network.synthesis(some, noise_mode=generator.noise_mode, force_fp32=generator.force_fp32)
        found.append(generator.resized(x0.float()).clamp(-1, 1))
    return ws[:, 0], torch.cat(found)


def even(task: "GANRefine", generator: StyleGAN2Generator, taught: LabelledImages) -> None:
    """Fit the mapping network to latents weighted by how often the teacher shows their kind of picture."""
    settings, seed, device = task.config.start.balance, task.config.training.seed, task.device
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        c = labels(generator, settings.latents, seed + LABEL_SEED + 1, device)
        ws, shown = drawn(generator, c, seed)
        told = taught.labels
        c_taught = torch.eye(max(1, c.shape[1]), device=device)[told][:, : c.shape[1]]
        teacher, batch = reader(task.first, device)
        of = c.argmax(1) if c.shape[1] else torch.zeros(len(c), dtype=torch.int64, device=device)
        task.say(f"balance: reading {len(told)} pictures of the teacher and {len(shown)} of the generator")

        def look(x0: Tensor, c: Tensor, classes: Tensor) -> balance.Looked:
            read = balance.features(teacher, x0, c, settings.sigma, batch)
            return balance.Looked(read, balance.colours(x0), classes)

        seen, ours = look(to_float(taught.images), c_taught, told), look(shown, c, of)
        weighted = balance.weights(seen, ours, settings)
        fitted = balance.fit(generator.network.mapping, ws, c, weighted, settings, seed, task.say)
    generator.network.mapping.load_state_dict(fitted.state_dict())
