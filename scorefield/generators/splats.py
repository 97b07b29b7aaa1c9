"""Gaussian splats as a generator: K sets of 3D Gaussians which grow and shrink while they train."""

import dataclasses
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from scorefield.errors import UserError
from scorefield.generators.base import Batch, Changes, Generator
from scorefield.random import Draws
from scorefield.three_d.camera_law import draw_cameras
from scorefield.three_d.cameras import Cameras
from scorefield.three_d.settings import CameraConfig
from scorefield.three_d.splatting import Gaussians, Splatting, rotations, splat

PARTS = ("means", "log_scales", "quaternions", "opacity_logits", "colour_logits")


@dataclass
class DensifyConfig:
    """When Gaussians are added and removed (Kerbl et al. 2023, section 5.2)."""

    every: int = 100  # iterations; 0: never
    start: int = 500
    stop: int = 15_000
    gradient: float = 2e-4  # mean gradient of the centre, in halves of the picture, from which a Gaussian is too few
    split_scale: float = 0.01  # of the bound: larger ones are split, smaller ones cloned
    opacity: float = 0.005  # below it a Gaussian is removed
    scale: float = 0.5  # of the bound: above it too
    most: int = 200_000  # Gaussians in a scene


@dataclass
class SplatSettings:
    """Everything that a ``SplatGenerator`` is made of."""

    particles: int = 1
    count: int = 1000  # Gaussians in a scene at the start
    bound: float = 0.5  # radius of the ball that they start in
    opacity: float = 0.1
    size: int = 64  # side of the render
    colours: tuple[tuple[float, float, float], ...] = ()  # backgrounds to draw from; none: any colour
    means_lr_scale: float = 0.1  # as in 3DGS, on a learning rate of the opacities
    scales_lr_scale: float = 0.1
    quaternions_lr_scale: float = 0.02
    colours_lr_scale: float = 0.1
    cameras: CameraConfig = dataclasses.field(default_factory=CameraConfig)
    densify: DensifyConfig = dataclasses.field(default_factory=DensifyConfig)

    def __post_init__(self) -> None:
        if self.particles < 1 or self.count < 1:
            raise UserError(f"particles and count must be at least 1, not {self.particles} and {self.count}")
        if not 0 < self.opacity < 1 or self.bound <= 0:
            raise UserError(f"opacity must lie in (0, 1) and bound above 0, not at {self.opacity} and {self.bound}")


class Scene(nn.Module):
    """One set of Gaussians, and how strongly the pictures have pulled at each since the last change.

    Args:
        tensors: the five of ``PARTS``, [N, …].
    """

    means: nn.Parameter
    log_scales: nn.Parameter
    quaternions: nn.Parameter
    opacity_logits: nn.Parameter
    colour_logits: nn.Parameter
    pull: Tensor
    views: Tensor

    def __init__(self, **tensors: Tensor):
        super().__init__()
        for name in PARTS:
            setattr(self, name, nn.Parameter(tensors[name]))
        self.register_buffer("pull", tensors["means"].new_zeros(len(tensors["means"])))
        self.register_buffer("views", tensors["means"].new_zeros(len(tensors["means"])))

    @classmethod
    def ball(cls, count: int, radius: float, opacity: float, seed: int) -> "Scene":
        """Round grey Gaussians, uniform in a ball, as wide as their mean distance."""
        draws = Draws(seed, -1, torch.arange(count))
        direction = F.normalize(draws.normal("direction", 3), dim=1)
        width = radius * (4 / 3 * torch.pi / count) ** (1 / 3) / 2
        return cls(
            means=radius * draws.uniform("radius")[:, None] ** (1 / 3) * direction,
            log_scales=torch.full((count, 3), width).log(),
            quaternions=F.normalize(draws.normal("turn", 4), dim=1),
            opacity_logits=torch.full((count,), opacity).logit(),
            colour_logits=0.1 * draws.normal("colour", 3),
        )

    def __len__(self) -> int:
        return len(self.means)

    def gaussians(self) -> Gaussians:
        """As the renderer takes them."""
        return Gaussians(
            self.means,
            self.log_scales.exp(),
            self.quaternions,
            self.opacity_logits.sigmoid(),
            self.colour_logits.sigmoid(),
        )

    @torch.no_grad()
    def replace(self, rows: Tensor, tensors: Mapping[str, Tensor]) -> Changes:
        """Put in new tensors whose row n comes from the old row ``rows[n]`` (-1: from none)."""
        changes = Changes()
        for name in PARTS:
            old, new = getattr(self, name), nn.Parameter(tensors[name].clone())
            setattr(self, name, new)
            changes.replaced[old], changes.rows[new] = new, rows
        self.pull, self.views = (old.new_zeros(len(rows)) for old in (self.pull, self.views))
        return changes


class SplatGenerator(Generator):
    """K scenes, one of which is drawn per iteration; what it is told and how it is encoded is as for ``NerfGenerator``.

    Args:
        settings: of scenes, cameras and densification.
        conditions: (view words [B], -1 [B], poses [B, 4, 4]) to what teacher and online score are told; the latter hears the pose too.
        encode: differentiable, pictures [N, 3, H, W] in [-1, 1] to the teacher's space.
        pixels: side of the pictures that ``encode`` takes; renders are resized to it.
        seed: of where the Gaussians start.
    """

    def __init__(
        self,
        settings: SplatSettings,
        conditions: Callable[[Tensor, Tensor, Tensor], tuple[Any, Any]],
        encode: Callable[[Tensor], Tensor],
        pixels: int,
        seed: int = 0,
    ):
        super().__init__()
        self.settings, self.conditions, self.encode, self.pixels = settings, conditions, encode, pixels
        make = (settings.count, settings.bound, settings.opacity)
        self.scenes = nn.ModuleList(Scene.ball(*make, seed + number) for number in range(settings.particles))
        self.seen: list[tuple[int, Splatting]] = []  # renders of this iteration, until their gradients are read

    # ------------------------------------------------------------------ the protocol

    @torch.no_grad()
    def draw(self, draws: Draws) -> Batch:
        settings = self.settings
        side = settings.size
        cameras, view = draw_cameras(settings.cameras, draws, (side, side))
        whole = Draws(draws.seed, draws.iteration, torch.zeros_like(draws.indices))
        colour = draws.uniform("background", 3)
        if settings.colours:
            palette = torch.tensor(settings.colours, device=draws.device)
            colour = palette[draws.integers("background", len(palette))]
        latents = {
            "particle": whole.integers("particle", settings.particles),
            "c2w": cameras.c2w,
            "fovy": cameras.fovy,
            "background": colour,
        }
        teacher, online = self.conditions(view, torch.full_like(view, -1), cameras.c2w)
        return Batch(latents, teacher, {**online, "pose": cameras.c2w.flatten(1)})

    def forward(self, batch: Batch) -> Tensor:
        latents, side = batch.latents, self.settings.size
        particle = int(latents["particle"][0])
        made = self.look(Cameras(latents["c2w"], latents["fovy"], (side, side)), particle, latents["background"])
        if made.centres.requires_grad:
            self.seen.append((particle, made))
        images = made.image
        if side != self.pixels:
            size = (self.pixels, self.pixels)
            images = F.interpolate(images, size=size, mode="bilinear", antialias=True, align_corners=False)
        return self.encode(2 * images - 1)

    def parameter_groups(self) -> list[dict[str, Any]]:
        settings = self.settings
        scales = {
            "means": settings.means_lr_scale,
            "log_scales": settings.scales_lr_scale,
            "quaternions": settings.quaternions_lr_scale,
            "opacity_logits": 1.0,
            "colour_logits": settings.colours_lr_scale,
        }
        return [{"params": [getattr(s, name) for s in self.scenes], "lr_scale": scales[name]} for name in PARTS]

    @torch.no_grad()
    def after_step(self, iteration: int) -> Changes | None:
        for particle, made in self.seen:
            self.note(particle, made)
        self.seen = []
        law, done = self.settings.densify, iteration + 1
        if not law.every or done % law.every or not law.start <= done < law.stop:
            return None
        changes = Changes()
        for number, scene in enumerate(self.scenes):
            found = densified(
                scene,
                law,
                self.settings.bound,
                iteration * len(self.scenes) + number,
            )
            if found is not None:
                changes.replaced |= found.replaced
                changes.rows |= found.rows
        return changes if changes.replaced else None

    def note(self, particle: int, made: Splatting) -> None:
        """Add the gradients at the centres of one render to the scene's record."""
        scene: Scene = self.scenes[particle]
        if (gradient := made.centres.grad) is None:
            return
        half = self.settings.size / 2
        # the loss is a mean over the batch: times its size it is that of one picture
        length = (gradient * half * len(gradient)).norm(dim=-1)
        scene.pull += (length * made.seen).sum(0)
        scene.views += made.seen.sum(0)

    @torch.no_grad()
    def fit(self, weights: Mapping[str, Tensor]) -> Changes | None:
        changes = Changes()
        for number, scene in enumerate(self.scenes):
            saved = {name: weights.get(f"scenes.{number}.{name}") for name in PARTS}
            if any(value is None for value in saved.values()):
                raise UserError(f"the saved splats do not fit: they have no scene {number}")
            given = {name: value.to(scene.means.device) for name, value in saved.items() if value is not None}
            if len(given["means"]) != len(scene):
                rows = torch.full((len(given["means"]),), -1, device=scene.means.device)
                found = scene.replace(rows, given)
                changes.replaced |= found.replaced
                changes.rows |= found.rows
        return changes if changes.replaced else None

    # ------------------------------------------------------------------ looking

    def look(self, cameras: Cameras, particle: int, background: Tensor) -> Splatting:
        """One scene from ``cameras`` before ``background`` [B, 3] or [B, 3, H, W] in [0, 1]."""
        scene: Scene = self.scenes[particle]
        return splat(scene.gaussians(), cameras, background)


# ---------------------------------------------------------------------- growing and shrinking


def densified(scene: Scene, law: DensifyConfig, bound: float, seed: int) -> Changes | None:
    """Clone small and split large Gaussians that the pictures pull at, remove faint and huge ones; None: no change.

    Survivors keep their row of the optimizer's moments; clones and halves start without.

    Raises:
        UserError: nothing would be left.
    """
    pull, views = scene.pull.clone(), scene.views.clone()
    if torch.distributed.is_available() and torch.distributed.is_initialized():
        for record in (pull, views):
            torch.distributed.all_reduce(record)
    scale = scene.log_scales.exp().amax(1)
    kept = (scene.opacity_logits.sigmoid() >= law.opacity) & (scale <= law.scale * bound)
    if not kept.any():
        raise UserError(
            f"all {len(scene)} Gaussians have faded or grown past the limits: lower the rate or densify.opacity"
        )
    strength = torch.where(kept, pull / views.clamp(min=1), 0)
    wanted = strength > law.gradient
    room = max(0, law.most - int(kept.sum()))
    if int(wanted.sum()) > room:  # the most pulled at come first
        limit = torch.zeros_like(wanted)
        limit[strength.topk(room).indices] = True
        wanted = wanted & limit
    split = wanted & (scale > law.split_scale * bound)
    clone = wanted & ~split
    stay = (kept & ~split).nonzero()[:, 0]
    cloned, halved = clone.nonzero()[:, 0], split.nonzero()[:, 0].repeat(2)
    if len(stay) == len(scene) and not len(cloned):
        scene.pull.zero_()
        scene.views.zero_()
        return None
    source = torch.cat([stay, cloned, halved])
    tensors = {name: getattr(scene, name).detach()[source].clone() for name in PARTS}
    # one seed everywhere, so that all processes and a resumed run split alike
    noise = Draws(seed, -2, torch.arange(len(halved), device=source.device)).normal("split", 3)
    turned = rotations(tensors["quaternions"][len(source) - len(halved) :])
    offset = (turned @ (noise * scene.log_scales.detach()[halved].exp())[..., None])[..., 0]
    tail = slice(len(source) - len(halved), None)
    tensors["means"][tail] += offset
    tensors["log_scales"][tail] -= torch.log(torch.tensor(1.6))
    rows = torch.cat([stay, torch.full((len(cloned) + len(halved),), -1, device=stay.device)])
    return scene.replace(rows, tensors)
