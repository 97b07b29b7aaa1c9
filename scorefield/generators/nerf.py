"""Radiance fields as a generator: a drawn camera sees one of K scenes, and the teacher's encoder sees the picture."""

import dataclasses
import functools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from scorefield.denoiser import Condition
from scorefield.errors import UserError
from scorefield.generators.base import Batch, Changes, Generator
from scorefield.processes import rank
from scorefield.random import Draws
from scorefield.three_d.camera_law import draw_cameras
from scorefield.three_d.cameras import Cameras
from scorefield.three_d.encoding import encode_through_decoder
from scorefield.three_d.field import Field, GridField
from scorefield.three_d.grids import DenseGrid, HashGrid
from scorefield.three_d.occupancy import Occupancy
from scorefield.three_d.regularizers import TERMS
from scorefield.three_d.render import Render, render
from scorefield.three_d.settings import (
    BackgroundConfig,
    CameraConfig,
    FieldConfig,
    RegularizerConfig,
    RenderConfig,
    ramp,
    stage,
)


class ViewConditions(Protocol):
    """What teacher and online score are told of some views."""

    def __call__(self, view: Tensor, ground: Tensor, pose: Tensor) -> tuple[Condition, Condition]:
        """Conditions (teacher's, online score's) of some views.

        Args:
            view: int64 [B], positions in ``scorefield.three_d.camera_law.VIEWS``.
            ground: int64 [B], position among the named backgrounds, -1 for one without a name.
            pose: [B, 4, 4], camera-to-world, for who words the view by its angles.
        """
        ...


@dataclass
class NerfSettings:
    """Everything that a ``NerfGenerator`` is made of."""

    particles: int = 1
    cameras: CameraConfig = dataclasses.field(default_factory=CameraConfig)
    field: FieldConfig = dataclasses.field(default_factory=FieldConfig)
    render: RenderConfig = dataclasses.field(default_factory=RenderConfig)
    background: BackgroundConfig = dataclasses.field(default_factory=BackgroundConfig)
    regularizers: RegularizerConfig = dataclasses.field(default_factory=RegularizerConfig)
    camera_dropout: float = 0.0  # share of the pictures whose pose the online score is not told while it learns

    def __post_init__(self) -> None:
        if self.particles < 1:
            raise UserError(f"particles must be at least 1, not {self.particles}")
        if not 0 <= self.camera_dropout < 1:
            raise UserError(f"camera_dropout must lie in 0 to 1 (not 1 itself), not at {self.camera_dropout}")


def make_field(config: FieldConfig, learned_background: bool = True) -> GridField:
    """A fresh field."""
    grid: DenseGrid | HashGrid
    if config.grid == "dense":
        grid = DenseGrid(config.resolutions, config.features, config.join)
    else:
        grid = HashGrid(config.levels, config.features, config.log2_size, config.base, config.scale, config.smoothstep)
    return GridField(
        grid,
        config.bound,
        config.hidden,
        config.blob_scale,
        config.blob_radius,
        config.density_scale,
        config.density_bias,
        learned_background,
        config.compile,
    )


class NerfGenerator(Generator):
    """K fields, one of which is drawn per iteration (ProlificDreamer's particles), seen by drawn cameras.

    Args:
        settings: of cameras, fields and rendering.
        conditions: what is told of a view; the online score is told the pose as well.
        encode: differentiable, pictures [N, 3, H, W] in [-1, 1] to the teacher's space (``Teacher.encode_images``).
        decode: the way back (``Teacher.decode``).
        pixels: side of the pictures that the teacher takes; smaller and larger renders are resized to it.
        fields: other things than radiance fields, one a particle, for subclasses that look at them in their own way.
    """

    def __init__(
        self,
        settings: NerfSettings,
        conditions: ViewConditions,
        encode: Callable[[Tensor], Tensor],
        decode: Callable[[Tensor], Tensor],
        pixels: int,
        fields: nn.ModuleList | None = None,
    ):
        super().__init__()
        self.partial = settings.particles > 1
        self.settings, self.conditions, self.pixels = settings, conditions, pixels
        self.encode, self.decode = encode, decode
        learned = max(settings.background.learned.values()) > 0
        made = (make_field(settings.field, learned) for _ in range(settings.particles))
        self.fields = nn.ModuleList(made) if fields is None else fields
        self.grids = nn.ModuleList()
        if settings.render.occupancy and fields is None:
            bound, step = settings.field.bound, 2 * 3**0.5 * settings.field.bound / settings.render.samples
            law = settings.render
            self.grids.extend(
                Occupancy(bound, law.occupancy, law.occupancy_threshold, step) for _ in range(settings.particles)
            )
        self.seen: Render | None = None  # the last training render, for the regularisers
        self.error: Tensor | None = None  # its distance to what the autoencoder makes of it

    # ------------------------------------------------------------------ the protocol

    @torch.no_grad()
    def draw(self, draws: Draws) -> Batch:
        """One particle for the whole iteration, or one for each of several processes, which then all teach one online
        score; camera, background and jitter sample by sample."""
        settings, k = self.settings, draws.iteration
        whole = Draws(draws.seed, k, torch.zeros_like(draws.indices))
        side = stage(settings.render.size, k)
        cameras, view = draw_cameras(settings.cameras, draws, (side, side))
        colour, ground, learned = self.draw_background(draws)
        latents = {
            "particle": (whole.integers("particle", settings.particles) + rank()) % settings.particles,
            "c2w": cameras.c2w,
            "fovy": cameras.fovy,
            "size": torch.full_like(ground, side),
            "background": colour,
            "learned": learned,
            "seed": draws.integers("render", 1 << 62),
            "noise": torch.full_like(cameras.fovy, stage(settings.render.density_noise, k)),
        }
        teacher, online = self.conditions(view, ground, cameras.c2w)
        return Batch(latents, teacher, {**online, "pose": cameras.c2w.flatten(1)})

    def draw_background(self, draws: Draws) -> tuple[Tensor, Tensor, Tensor]:
        """(flat colour [B, 3], number of its name [B] or -1, whether the learned one is used instead [B])."""
        config = self.settings.background
        learned = draws.uniform("learned") < stage(config.learned, draws.iteration)
        if not config.named:
            return draws.uniform("background", 3), torch.full_like(draws.indices, -1), learned
        palette = torch.tensor(list(config.named.values()), device=draws.device)
        ground = draws.integers("background", len(palette))
        tint = config.tint * (2 * draws.uniform("tint", 3) - 1)
        return (palette[ground] + tint).clamp(0, 1), torch.where(learned, -1, ground), learned

    def online_view(self, x0: Tensor, condition: Condition, draws: Draws) -> tuple[Tensor, Condition]:
        """The pose is zeroed now and then (ProlificDreamer: 0.1), so that the score knows the mean over cameras too."""
        if not self.settings.camera_dropout:
            return x0, condition
        told = draws.uniform("camera-dropout") >= self.settings.camera_dropout
        return x0, {**condition, "pose": condition["pose"] * told[:, None]}

    def forward(self, batch: Batch) -> Tensor:
        return self.latents_of(self.rendered(batch))

    def links(self, batch: Batch) -> list[tuple[str, Callable[..., Tensor]]]:
        return [("render", functools.partial(self.rendered, batch)), ("encode", self.latents_of)]

    def rendered(self, batch: Batch) -> Tensor:
        """What the teacher is shown of the drawn views [B, 3, H, W] in [0, 1]; the render is kept as ``seen``."""
        latents = batch.latents
        side = int(latents["size"][0])
        cameras = Cameras(latents["c2w"], latents["fovy"], (side, side))
        source = [torch.Generator(cameras.c2w.device).manual_seed(seed) for seed in latents["seed"].tolist()]
        particle = int(latents["particle"][0])
        behind = self.backdrop(particle, cameras, latents["background"], latents["learned"])
        self.seen = self.look(
            cameras,
            particle,
            background=behind,
            generator=source,
            density_noise=float(latents["noise"][0]),
            normals=self.wants_normals(particle),
        )
        return self.picture(self.seen, behind, batch)

    def wants_normals(self, particle: int) -> bool:
        """Whether training renders of a particle need normals."""
        return max(self.settings.regularizers.orientation.values()) > 0

    def picture(self, seen: Render, backdrop: Tensor, batch: Batch) -> Tensor:
        """What the teacher is shown of a render [B, 3, H, W] in [0, 1]: its colours as they are."""
        return seen.image

    def regularize(self, x0: Tensor, batch: Batch, iteration: int) -> dict[str, Tensor]:
        assert self.seen is not None
        weights = {name: ramp(getattr(self.settings.regularizers, name), iteration) for name in TERMS}
        terms = {name: weight * TERMS[name](self.seen) for name, weight in weights.items() if weight > 0}
        return terms | self.of_pictures(iteration)

    def of_pictures(self, iteration: int) -> dict[str, Tensor]:
        """The terms that speak of pictures alone."""
        weight = ramp(self.settings.regularizers.roundtrip, iteration)
        return {"roundtrip": weight * self.error} if weight > 0 and self.error is not None else {}

    def parts(self) -> dict[str, list[nn.Parameter]]:
        """Parameters of all fields by the part of a field that they belong to."""
        found: dict[str, list[nn.Parameter]] = {}
        for name, parameter in self.fields.named_parameters():
            found.setdefault(name.split(".")[1], []).append(parameter)
        return found

    def scales(self) -> dict[str, float]:
        """Factors on the learning rate by part."""
        config = self.settings.field
        return {"grid": config.grid_lr_scale, "head": config.head_lr_scale, "sky": config.background_lr_scale}

    def parameter_groups(self) -> list[dict[str, Any]]:
        parts = self.parts()
        return [{"params": parts[name], "lr_scale": scale} for name, scale in self.scales().items() if name in parts]

    @torch.no_grad()
    def after_step(self, iteration: int) -> Changes | None:
        self.seen = self.error = None
        if self.grids and (iteration + 1) % self.settings.render.occupancy_every == 0:
            for grid, scene in zip(self.grids, self.fields, strict=True):
                if isinstance(scene, Field):
                    grid.update(scene, iteration)  # type: ignore[operator]
        return None

    # ------------------------------------------------------------------ looking

    def look(self, cameras: Cameras, particle: int = 0, **options: Any) -> Render:
        """One particle from ``cameras``; ``options`` as of ``scorefield.three_d.render.render``."""
        options.setdefault("samples", self.settings.render.samples)
        options.setdefault("chunk", self.settings.render.chunk)
        options.setdefault("occupancy", self.grids[particle] if self.grids else None)
        scene: Field = self.fields[particle]  # type: ignore[assignment]
        return render(scene, cameras, **options)

    def backdrop(self, particle: int, cameras: Cameras, flat: Tensor, learned: Tensor) -> Tensor:
        """[B, 3, H, W] in [0, 1]: the learned background where ``learned`` [B] says so, else the colours [B, 3]."""
        _, directions = cameras.rays()
        colour = flat[:, None, None] * (1 + self.settings.background.lift * directions[..., 2:])
        if learned.any():
            scene: Field = self.fields[particle]  # type: ignore[assignment]
            own = scene.background(directions.reshape(-1, 3)).view_as(directions)
            colour = torch.where(learned[:, None, None, None], own, colour.expand_as(own))
        return colour.clamp(0, 1).permute(0, 3, 1, 2)

    def latents_of(self, images: Tensor) -> Tensor:
        """Pictures [B, 3, H, W] in [0, 1] in the teacher's space."""
        if images.shape[-1] != self.pixels:
            size = (self.pixels, self.pixels)
            images = F.interpolate(images, size=size, mode="bilinear", antialias=True, align_corners=False)
        images = images * 2 - 1
        if self.settings.render.encoder_gradient == "exact":
            return self.encode(images)
        latents, decoded = encode_through_decoder(images, self.encode, self.decode)
        self.error = (images - decoded).square().flatten(1).sum(1).mean() / 2
        return latents
