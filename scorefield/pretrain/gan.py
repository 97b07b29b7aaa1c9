"""Train a class-conditional StyleGAN2 (arXiv:1912.04958, arXiv:2006.06676), all the way or part of it."""

import copy
from collections.abc import Callable
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from scorefield import networks
from scorefield.errors import UserError, suggest
from scorefield.files import read_json, write_json
from scorefield.networks.stylegan2 import Generator
from scorefield.networks.stylegan2_discriminator import Discriminator
from scorefield.pretrain import labelled_run
from scorefield.pretrain.augment import diff_augment, flip_some
from scorefield.pretrain.labelled import LabelledImages
from scorefield.pretrain.labelled_run import LabelledConfig
from scorefield.pretrain.loop import StageBase, rate_at
from scorefield.pretrain.session import HalfLifeAverage, Session

AUGMENTATIONS = ("none", "diffaugment")
PARTS = ("G_ema", "G", "D")


@dataclass
class StyleGAN2Config:
    """Feature maps at resolution R are min(base // R, max), as in the published networks."""

    z_dim: int = 512
    w_dim: int = 512
    mapping_layers: int = 2
    channel_base: int = 32768
    channel_max: int = 512
    discriminator_base: int = 32768
    discriminator_max: int = 512
    discriminator_architecture: str = "orig"
    discriminator_mapping_layers: int = 8
    mbstd_group: int = 32
    num_fp16_res: int = 0  # that many highest resolutions in half precision on CUDA, clamped to +-256


@dataclass
class GANStage(StageBase):
    """StyleGAN2's training; the values of stylegan2-ada's "cifar" configuration by default."""

    batch: int = 64
    learning_rate: float = 0.0025  # of both networks, Adam with betas (0, 0.99)
    warmup_steps: int = 1
    schedule: str = "constant"
    r1_gamma: float = 0.01
    r1_interval: int = 16  # discriminator updates from one gradient penalty to the next
    path_weight: float = 0.0  # path length regularisation; stylegan2's own is 2
    path_interval: int = 4
    mixing: float = 0.0  # probability that two latents share a picture (style mixing)
    ema_half_life_images: float = 500_000
    ema_rampup: float = 0.05
    flip: bool = False
    augment: str = "none"  # or diffaugment

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.augment not in AUGMENTATIONS:
            raise UserError(f'unknown augment "{self.augment}": {suggest(self.augment, AUGMENTATIONS)}')
        if self.precision != "fp32":
            raise UserError("a GAN's pictures suffer under bf16: leave precision=fp32 and set network.num_fp16_res=4")
        if self.r1_interval < 1 or self.path_interval < 1:
            raise UserError(f"intervals must be at least 1, not {self.r1_interval} and {self.path_interval}")


@dataclass
class GANTrainConfig(LabelledConfig):
    """Everything that ``train-gan`` reads."""

    network: StyleGAN2Config = field(default_factory=StyleGAN2Config)
    training: GANStage = field(default_factory=GANStage)
    init: str = ""  # folder with G_ema, G and D of an earlier training to go on from, with fresh optimizers


def make_networks(settings: StyleGAN2Config, resolution: int, classes: int) -> tuple[Any, Any]:
    """A fresh generator and discriminator for colour pictures."""
    half = {"num_fp16_res": settings.num_fp16_res, "conv_clamp": 256 if settings.num_fp16_res else None}
    generator = networks.build(
        "Generator",
        {
            "z_dim": settings.z_dim,
            "c_dim": classes,
            "w_dim": settings.w_dim,
            "img_resolution": resolution,
            "img_channels": 3,
            "mapping_kwargs": {"num_layers": settings.mapping_layers},
            "synthesis_kwargs": {
                "channel_base": settings.channel_base,
                "channel_max": settings.channel_max,
                **half,
            },
        },
    )
    discriminator = networks.build(
        "Discriminator",
        {
            "c_dim": classes,
            "img_resolution": resolution,
            "img_channels": 3,
            "architecture": settings.discriminator_architecture,
            "channel_base": settings.discriminator_base,
            "channel_max": settings.discriminator_max,
            "mapping_kwargs": {"num_layers": settings.discriminator_mapping_layers},
            "epilogue_kwargs": {"mbstd_group_size": settings.mbstd_group},
            **half,
        },
    )
    return generator, discriminator


def generator_loss(fake_logits: Tensor) -> Tensor:
    """Non-saturating logistic loss: -log sigmoid(D(G(z))), mean over the batch."""
    return F.softplus(-fake_logits).mean()


def discriminator_loss(real_logits: Tensor, fake_logits: Tensor) -> Tensor:
    """Logistic loss: -log sigmoid(D(real)) - log(1 - sigmoid(D(fake))), mean over the batch."""
    return F.softplus(-real_logits).mean() + F.softplus(fake_logits).mean()


def r1_penalty(real_logits: Tensor, pictures: Tensor) -> Tensor:
    """|dD/dx|^2 at the real ``pictures`` [B, …], mean over the batch (Mescheder et al. 2018, arXiv:1801.04406).

    ``pictures`` must ask for gradients; the result can be differentiated again.
    """
    (slope,) = torch.autograd.grad(real_logits.sum(), pictures, create_graph=True)
    return slope.square().flatten(1).sum(1).mean()


def path_lengths(pictures: Tensor, ws: Tensor, noise: Tensor) -> Tensor:
    """[B]: norm of J_w^T y for y = ``noise`` / side, root mean square over the ws (StyleGAN2, section 3.2).

    Args:
        pictures: [B, C, H, W] made from ``ws`` [B, num_ws, w_dim], which must ask for gradients.
    """
    y = noise / (pictures.shape[2] * pictures.shape[3]) ** 0.5
    (slope,) = torch.autograd.grad((pictures * y).sum(), ws, create_graph=True)
    return slope.square().sum(2).mean(1).sqrt()


@contextmanager
def asking(network: nn.Module, other: nn.Module):
    """Gradients for the parameters of ``network`` only."""
    network.requires_grad_(True)
    other.requires_grad_(False)
    yield
    network.requires_grad_(False)


class Adversaries:
    """Generator, discriminator, the generator's average and both optimizers: one training's moving parts.

    Args:
        G, D: from ``make_networks``. average: of an earlier training, else a copy of G.

    An optimizer that also takes every k-th step for a penalty has its learning rate and betas shortened by
    k / (k + 1) (StyleGAN2, appendix B), as if penalty and loss were one step.
    """

    def __init__(self, G: Generator, D: Discriminator, config: GANStage, device: str, average: Generator | None = None):
        layout: Any = {"memory_format": torch.channels_last}  # a quarter faster on CPU, and what half precision wants
        self.G, self.D = G.to(device, **layout).train(), D.to(device, **layout).train()
        self.config, self.device = config, device
        self.average = (copy.deepcopy(G) if average is None else average.to(device)).eval().requires_grad_(False)
        self.ema = HalfLifeAverage(self.G, self.average, config.ema_half_life_images, config.ema_rampup)
        self.shares = {"D": config.r1_interval / (config.r1_interval + 1), "G": 1.0}
        if config.path_weight:
            self.shares["G"] = config.path_interval / (config.path_interval + 1)
        self.optimizers = {
            name: torch.optim.Adam(
                network.parameters(),
                lr=config.learning_rate * self.shares[name],
                betas=(0.0, 0.99 ** self.shares[name]),
                eps=1e-8,
                fused=device.startswith("cuda"),
            )
            for name, network in (("G", self.G), ("D", self.D))
        }
        self.path_mean = torch.zeros((), device=device)
        self.half = any(block.use_fp16 for block in self.G.synthesis.blocks)
        self.judge = torch.compile(self.D) if config.compile else self.D
        self.paint = torch.compile(self.G.synthesis) if config.compile else self.G.synthesis

    def gather(self) -> dict:
        """State of everything that moves."""
        parts: dict = {"G": self.G.state_dict(), "D": self.D.state_dict(), "G_ema": self.average.state_dict()}
        parts |= {f"optimizer-{name}": optimizer.state_dict() for name, optimizer in self.optimizers.items()}
        return {**parts, "path_mean": self.path_mean}

    def restore(self, state: dict) -> None:
        """Take back what ``gather`` gave."""
        for network, name in ((self.G, "G"), (self.D, "D"), (self.average, "G_ema")):
            network.load_state_dict(state[name])
        for name, optimizer in self.optimizers.items():
            optimizer.load_state_dict(state[f"optimizer-{name}"])
        self.path_mean = state["path_mean"].to(self.device)

    def latents(self, c: Tensor, draw: torch.Generator) -> Tensor:
        """ws [B, num_ws, w_dim] of new z and labels ``c`` [B, classes], some mixed of two."""
        shape = (len(c), self.G.z_dim)
        ws = self.G.mapping(torch.randn(shape, generator=draw, device=self.device), c, update_w_avg=self.G.training)
        if not self.config.mixing:
            return ws
        other = self.G.mapping(torch.randn(shape, generator=draw, device=self.device), c)
        mixed = torch.rand(len(c), 1, generator=draw, device=self.device) < self.config.mixing
        first = torch.randint(1, ws.shape[1], (len(c), 1), generator=draw, device=self.device)
        late = torch.arange(ws.shape[1], device=self.device) >= first
        return torch.where((mixed & late)[:, :, None], other, ws)

    def logits(self, pictures: Tensor, c: Tensor, draw: torch.Generator, plain: bool = False) -> Tensor:
        """The discriminator's answer to augmented pictures; ``plain`` without compilation (for second derivatives)."""
        if self.config.augment == "diffaugment":
            pictures = diff_augment(pictures, draw)
        return (self.D if plain else self.judge)(pictures, c)

    def _step(self, name: str, loss: Tensor) -> None:
        optimizer = self.optimizers[name]
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        if self.half:
            for group in optimizer.param_groups:
                for p in group["params"]:
                    if p.grad is not None:
                        p.grad.nan_to_num_(0.0, 1e5, -1e5)  # an overflow of half precision must not stay
        optimizer.step()

    def update(self, step: int, done: float, reals: Callable[[], tuple[Tensor, Tensor]], draw: torch.Generator) -> dict:
        """One generator and one discriminator update, with penalties when due; returns scalars for the log.

        Args:
            reals: each call gives new pictures [B, 3, R, R] in [-1, 1] and one-hot labels [B, classes].
        """
        config, found = self.config, {}
        for name, optimizer in self.optimizers.items():
            for group in optimizer.param_groups:
                group["lr"] = rate_at(config, step, done) * self.shares[name]
        with asking(self.G, self.D):
            c = reals()[1]
            loss = generator_loss(self.logits(self.paint(self.latents(c, draw)), c, draw))
            self._step("G", loss)
            found["G"] = loss.detach()
            if config.path_weight and step % config.path_interval == 0:
                self._step("G", self._path_penalty(c[: max(len(c) // 2, 1)], draw) * config.path_interval)
        with asking(self.D, self.G):
            pictures, c = reals()
            with torch.no_grad():
                fake = self.paint(self.latents(c, draw))
            loss = discriminator_loss(self.logits(pictures, c, draw), self.logits(fake, c, draw))
            self._step("D", loss)
            found["D"] = loss.detach()
            if config.r1_gamma and step % config.r1_interval == 0:
                pictures = pictures.detach().requires_grad_(True)
                penalty = r1_penalty(self.logits(pictures, c, draw, plain=True), pictures)
                self._step("D", penalty * (config.r1_gamma / 2 * config.r1_interval))
                found["r1"] = penalty.detach()
        return found

    def _path_penalty(self, c: Tensor, draw: torch.Generator) -> Tensor:
        """path_weight times the squared deviation of path lengths from their running mean."""
        ws = self.latents(c, draw)
        pictures = self.G.synthesis(ws)
        noise = torch.randn(pictures.shape, generator=draw, device=self.device)
        lengths = path_lengths(pictures, ws, noise)
        self.path_mean = self.path_mean.lerp(lengths.detach().mean(), 0.01)
        return (lengths - self.path_mean).square().mean() * self.config.path_weight


def train(
    data: LabelledImages,
    players: Adversaries,
    *,
    seed: int,
    out: Path,
    say: Callable[[str], None] = print,
    look: Callable[[nn.Module, int], None] | None = None,
    look_minutes: float = 2.0,
) -> Session:
    """Train ``players`` in place on pictures that stay uint8 on the device; returns the session.

    Args:
        out: receives state-gan.pt, from which an interrupted training goes on.
        look: called with the averaged generator and the images seen, every ``look_minutes``.

    Raises:
        UserError: a loss is not finite.
    """
    config, device = players.config, players.device
    table = torch.eye(data.classes, device=device)[:, : players.G.c_dim]  # of an unconditional one: no entries
    session = Session(
        "gan",
        config,
        seed=seed,
        out=out,
        device=device,
        gather=players.gather,
        restore=players.restore,
        say=say,
    )
    for draw in session.steps():

        def reals(draw: torch.Generator = draw) -> tuple[Tensor, Tensor]:
            rows = torch.randint(len(data), (config.batch,), generator=draw, device=device)
            pictures = data.images[rows].float() / 127.5 - 1
            return (flip_some(pictures, draw) if config.flip else pictures), table[data.labels[rows]]

        session.note(players.update(session.step, session.done, reals, draw))
        players.ema.update(config.batch, session.images + config.batch)
        if look is not None and session.due("look", look_minutes):
            look(players.average, session.images)
    return session


def sampler(network: Any, device: str, batch: int = 1024) -> Callable[[Tensor, int], Tensor]:
    """From labels int64 [B] and a seed to pictures [B, 3, R, R]; noise is random, as in training."""
    network = network.to(device).eval()
    table = torch.eye(network.c_dim, device=device)

    @torch.no_grad()
    def sample(labels: Tensor, seed: int) -> Tensor:
        torch.manual_seed(seed)
        z = torch.randn(len(labels), network.z_dim, device=device)
        c = table[labels]
        parts = zip(z.split(batch), c.split(batch), strict=True)
        return torch.cat([network(a, b, force_fp32=True) for a, b in parts])

    return sample


def open_players(
    config: GANTrainConfig, classes: int, device: str, say: Callable[[str], None]
) -> tuple[Adversaries, float]:
    """New networks, or those of ``config.init``, and how many thousand images they have already seen."""
    if not config.init:
        return Adversaries(*make_networks(config.network, config.resolution, classes), config.training, device), 0.0
    folder = Path(config.init)
    average, G, D = (networks.load(folder / name) for name in PARTS)
    if not isinstance(G, Generator) or not isinstance(average, Generator) or not isinstance(D, Discriminator):
        raise UserError(f"{folder} does not hold G_ema, G and D of a StyleGAN2")
    if (G.c_dim, G.img_resolution) != (classes, config.resolution):
        raise UserError(
            f"the GAN in {folder} has {G.c_dim} classes at {G.img_resolution} px, "
            f"the pictures have {classes} at {config.resolution} px"
        )
    counters = folder / "training.json"
    seen = float(read_json(counters).get("kimg", 0.0)) if counters.exists() else 0.0
    say(f"going on from {folder}, which has seen {seen:.0f} thousand images")
    return Adversaries(G, D, config.training, device, average), seen


def train_gan(config: GANTrainConfig, out: Path, say: Callable[[str], None] = print) -> Path:
    """The whole of ``train-gan``: pictures in; ``out``/gan with G_ema, G, D and training.json, samples, figures out.

    A second call goes on where the first was stopped. Returns the path for ``StyleGAN2Generator.load``.

    Raises:
        UserError: data, judge or configuration do not fit.
    """
    torch.manual_seed(config.seed)
    ready = labelled_run.prepare(config, out, say)
    torch.manual_seed(config.seed)  # the networks start alike whether or not a judge was trained before them
    classes = ready.train.classes
    players, seen = open_players(config, classes, ready.device, say)
    sizes = {name: sum(p.numel() for p in part.parameters()) for name, part in (("G", players.G), ("D", players.D))}
    say(f"StyleGAN2 with {sizes['G']} parameters, discriminator with {sizes['D']}")

    def look(average: nn.Module, images: int) -> None:
        pictures = sampler(average, ready.device)(labelled_run.grid_labels(classes, ready.device), config.seed)
        labelled_run.write_grid(pictures, classes, out / "samples" / f"gan-{images // 1000:06d}k.png")

    settings: dict[str, Any] = {"seed": config.seed, "out": out, "say": say}
    session = train(ready.train, players, look=look, look_minutes=config.sample_minutes, **settings)
    saved = labelled_run.store(players.average, out / "gan" / "G_ema", config.storage)
    for name, network in (("G", players.G), ("D", players.D)):
        labelled_run.store(network, out / "gan" / name, config.storage)
    facts = {"data": config.data, "parameters": sizes, "kimg": seen + session.images / 1000}
    facts |= {
        "seconds": round(session.seconds),
        "classes": ready.train.names,
        "samples": min(config.samples, len(ready.train)),
    }
    write_json(out / "gan" / "training.json", facts)
    look(saved, session.images)
    found = labelled_run.measure(ready, config, sampler(saved, ready.device), "gan", out, say)
    labelled_run.write_figures(out, "gan-figures", facts, found, say)
    return out / "gan" / "G_ema"
