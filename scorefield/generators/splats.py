"""Gaussian splats as a generator: K sets of 3D Gaussians which grow and shrink while they train."""

import dataclasses
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from scorefield.errors import UserError
from scorefield.generators.base import Changes
from scorefield.generators.nerf import NerfGenerator, NerfSettings, ViewConditions
from scorefield.random import Draws
from scorefield.three_d.cameras import Cameras
from scorefield.three_d.render import Render, Samples
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
    """The Gaussians of a scene at the start, and how they are trained and grown."""

    count: int = 1000
    bound: float = 0.5  # radius of the ball that they start in
    opacity: float = 0.1
    means_lr_scale: float = 0.1  # as in 3DGS, on a learning rate of the opacities
    scales_lr_scale: float = 0.1
    quaternions_lr_scale: float = 0.02
    colours_lr_scale: float = 0.1
    densify: DensifyConfig = dataclasses.field(default_factory=DensifyConfig)

    def __post_init__(self) -> None:
        if self.count < 1:
            raise UserError(f"splats.count must be at least 1, not {self.count}")
        if not 0 < self.opacity < 1 or self.bound <= 0:
            raise UserError(
                f"splats.opacity must lie in (0, 1) and splats.bound above 0, not at {self.opacity} and {self.bound}"
            )


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

    def background(self, directions: Tensor) -> Tensor:
        """White, [N, 3]."""
        return torch.ones_like(directions)

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


class SplatGenerator(NerfGenerator):
    """K scenes of Gaussians; cameras, backgrounds and conditions are those of ``NerfGenerator``.

    Args:
        settings: of cameras, backgrounds and rendering (``field`` and the steps along rays mean nothing here).
        splats: of scenes and densification. conditions, encode, decode, pixels: as for ``NerfGenerator``.
        seed: of where the Gaussians start.

    Raises UserError for a regulariser that needs samples along rays.
    """

    def __init__(
        self,
        settings: NerfSettings,
        splats: SplatSettings,
        conditions: ViewConditions,
        encode: Callable[[Tensor], Tensor],
        decode: Callable[[Tensor], Tensor],
        pixels: int,
        seed: int = 0,
    ):
        for name in ("orientation", "z_variance"):
            if max(getattr(settings.regularizers, name).values()) > 0:
                raise UserError(f"splats have no samples along rays, which regularizers.{name} needs: set it to 0")
        make = (splats.count, splats.bound, splats.opacity)
        scenes = nn.ModuleList(Scene.ball(*make, seed + number) for number in range(settings.particles))
        super().__init__(settings, conditions, encode, decode, pixels, scenes)
        self.splats = splats
        self.drawn: list[tuple[int, Splatting]] = []  # renders of this iteration, until their gradients are read

    # ------------------------------------------------------------------ the protocol

    def parameter_groups(self) -> list[dict[str, Any]]:
        return [{"params": [getattr(s, name) for s in self.fields], "lr_scale": self.scales()[name]} for name in PARTS]

    def scales(self) -> dict[str, float]:
        law = self.splats
        return {
            "means": law.means_lr_scale,
            "log_scales": law.scales_lr_scale,
            "quaternions": law.quaternions_lr_scale,
            "opacity_logits": 1.0,
            "colour_logits": law.colours_lr_scale,
        }

    @torch.no_grad()
    def after_step(self, iteration: int) -> Changes | None:
        for particle, made in self.drawn:
            self.note(particle, made)
        self.drawn, self.seen, self.error = [], None, None
        law, done = self.splats.densify, iteration + 1
        if not law.every or done % law.every or not law.start <= done < law.stop:
            return None
        changes = Changes()
        for number, scene in enumerate(self.fields):
            found = densified(
                scene,
                law,
                self.splats.bound,
                iteration * len(self.fields) + number,
            )
            if found is not None:
                changes.replaced |= found.replaced
                changes.rows |= found.rows
        return changes if changes.replaced else None

    def note(self, particle: int, made: Splatting) -> None:
        """Add the gradients at the centres of one render to the scene's record."""
        scene: Scene = self.fields[particle]
        if (gradient := made.centres.grad) is None:
            return
        half = torch.tensor([made.image.shape[3], made.image.shape[2]], device=gradient.device) / 2
        # the loss is a mean over the batch: times its size it is that of one picture
        length = (gradient * half * len(gradient)).norm(dim=-1)
        scene.pull += (length * made.seen).sum(0)
        scene.views += made.seen.sum(0)

    @torch.no_grad()
    def fit(self, weights: Mapping[str, Tensor]) -> Changes | None:
        changes = Changes()
        for number, scene in enumerate(self.fields):
            saved = {name: weights.get(f"fields.{number}.{name}") for name in PARTS}
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

    def look(self, cameras: Cameras, particle: int = 0, **options: Any) -> Render:
        """One scene from ``cameras`` before ``options["background"]``, white if left out; with ``normals``, those of
        the Gaussians' shortest axes."""
        scene: Scene = self.fields[particle]
        behind = options.get("background")
        behind = cameras.c2w.new_ones(len(cameras), 3) if behind is None else behind
        gaussians = scene.gaussians()
        made = splat(gaussians, cameras, behind)
        if made.centres.requires_grad:
            self.drawn.append((particle, made))
        normal = None
        if options.get("normals"):
            normal = torch.cat([facing(gaussians, cameras[row : row + 1]) for row in range(len(cameras))])
        none, flat = made.image.new_zeros(0), made.image.new_zeros(0, 3)
        depth = made.depth / made.alpha.clamp_min(1e-6)
        return Render(made.image, made.alpha, depth, normal, none, Samples(none.long(), none, none), flat, flat, None)


def facing(gaussians: Gaussians, camera: Cameras) -> Tensor:
    """[1, 3, H, W], times opacity: the Gaussians' shortest axes, turned towards one camera."""
    turn = rotations(gaussians.quaternions)
    axis = turn.gather(2, gaussians.scales.argmin(1)[:, None, None].expand(-1, 3, 1))[..., 0]
    towards = camera.c2w[0, :3, 3] - gaussians.means
    axis = axis * torch.where((axis * towards).sum(-1, keepdim=True) < 0, -1.0, 1.0)
    shown = dataclasses.replace(gaussians, colours=(axis + 1) / 2)
    made = splat(shown, camera, axis.new_zeros(1, 3))
    return 2 * made.image - made.alpha


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
