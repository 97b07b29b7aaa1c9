"""A radiance field that becomes a surface, and a surface that becomes a painted mesh, within one run.

At given iterations each field turns into the next representation: marching cubes and a signed distance for the geometry
stage (where ProlificDreamer has DMTet), a UV texture on a fixed mesh for the texture stage. Optimizer, average and
checkpoint follow through the protocol (``after_step``, ``fit``), so that the trainer knows nothing of it.
"""

import warnings
from collections.abc import Iterator, Mapping
from typing import Any, cast

import torch
from torch import Tensor, nn

from scorefield.errors import Notice, UserError
from scorefield.generators.base import Batch, Changes
from scorefield.generators.nerf import NerfGenerator, make_field
from scorefield.generators.texture import Painted, look_at_paint
from scorefield.random import Draws
from scorefield.three_d import asset, sdf, shading
from scorefield.three_d.cameras import Cameras
from scorefield.three_d.field import Field
from scorefield.three_d.mesh import Mesh
from scorefield.three_d.render import Render
from scorefield.three_d.settings import SHADINGS, GeometryConfig, ramp, stage

SHAPES = ("start", "vertices", "faces", "uv")  # buffers without which saved weights mean nothing
CORRECTIONS, POINTS, LOOKS = "correction", 4096, 4


class StagedGenerator(NerfGenerator):
    """``NerfGenerator`` whose fields change their representation.

    Args:
        given: arguments of ``NerfGenerator``.
        stages: {iteration: "nerf", "geometry" or "texture"}, 0 among them.
        geometry: of the geometry stage. assets: how meshes are made for the texture stage.
    """

    def __init__(self, *given: Any, stages: dict[int, str], geometry: GeometryConfig, assets: asset.AssetConfig):
        super().__init__(*given)
        self.stages, self.geometry, self.assets = stages, geometry, assets

    # ------------------------------------------------------------------ the protocol

    @torch.no_grad()
    def draw(self, draws: Draws) -> Batch:
        batch = super().draw(draws)
        whole = Draws(draws.seed, draws.iteration, torch.zeros_like(draws.indices))
        batch.latents["shading"] = whole.uniform("shading")
        batch.latents["light"] = shading.lamp(batch.latents["c2w"][:, :3, 3], draws.normal("light", 3))
        return batch

    def wants_normals(self, particle: int) -> bool:
        if isinstance(self.fields[particle], sdf.SdfField):
            return any(self.geometry.shading.get(kind, 0) > 0 for kind in SHADINGS[1:])
        return super().wants_normals(particle)

    def picture(self, seen: Render, backdrop: Tensor, batch: Batch) -> Tensor:
        if not isinstance(self.fields[int(batch.latents["particle"][0])], sdf.SdfField):
            return seen.image
        kind = self.geometry.drawn(float(batch.latents["shading"][0]))
        return shading.shaded(seen, backdrop, kind, batch.latents["light"])

    def regularize(self, x0: Tensor, batch: Batch, iteration: int) -> dict[str, Tensor]:
        field = self.fields[int(batch.latents["particle"][0])]
        if isinstance(field, Painted):
            return self.of_pictures(iteration)
        terms = super().regularize(x0, batch, iteration)
        if isinstance(field, sdf.SdfField):
            source = torch.Generator(x0.device).manual_seed(int(batch.latents["seed"][0]))
            points = field.bound * (2 * torch.rand(POINTS, 3, device=x0.device, generator=source) - 1)
            if (weight := ramp(self.geometry.eikonal, iteration)) > 0:
                terms["eikonal"] = weight * field.eikonal(points)
            if (weight := ramp(self.geometry.roughness, iteration)) > 0:
                terms["roughness"] = weight * field.roughness(points, source)
        return terms

    def scales(self) -> dict[str, float]:
        own, law = super().scales(), self.geometry
        return {
            **own,
            CORRECTIONS: law.distance_lr_scale,
            "colours": law.colour_lr_scale,
            "log_beta": law.beta_lr_scale,
            "paint": law.texture_lr_scale,
        }

    def parameter_groups(self) -> list[dict[str, Any]]:
        """One group a kind of parameter in a fixed order, some of them empty until their stage comes."""
        parts = self.parts()
        return [{"params": parts.get(name, []), "lr_scale": scale} for name, scale in self.scales().items()]

    @torch.no_grad()
    def after_step(self, iteration: int) -> Changes | None:
        super().after_step(iteration)
        wanted, before = stage(self.stages, iteration + 1), stage(self.stages, iteration)
        if wanted == before:
            return None
        with torch.enable_grad():
            made = [self.turned(k, wanted) for k in range(len(self.fields))]
        changes = self.put(made)
        for number, (grid, scene) in enumerate(zip(self.grids, self.fields, strict=False)):
            if isinstance(scene, Field):
                grid.renew(scene, iteration * LOOKS + 7919 * number, LOOKS)  # type: ignore[operator]
        return changes

    @torch.no_grad()
    def fit(self, weights: Mapping[str, Tensor]) -> Changes | None:
        """Take the representation that the saved weights are of, particle by particle."""
        with torch.enable_grad():
            return self.put([self.like(k, weights) for k in range(len(self.fields))])

    def averaged(self) -> Iterator[tuple[str, Tensor]]:
        """Parameters, and the shapes that they belong to, which never change between stages."""
        yield from super().averaged()
        yield from ((name, value) for name, value in self.named_buffers() if name.split(".")[-1] in SHAPES)

    # ------------------------------------------------------------------ from stage to stage

    def turned(self, number: int, wanted: str) -> nn.Module:
        """Field ``number`` in its next representation; the field itself, with a warning, where nothing can be made."""
        field = cast(Field, self.fields[number])
        try:
            if wanted == "geometry":
                law = self.geometry
                mesh, _ = asset.surface(field, self.assets.resolution, self.assets.threshold or None)
                reach = 2 * field.bound / self.assets.resolution
                return sdf.from_field(field, mesh, law.resolution, tuple(law.levels), law.beta, reach)
            return Painted(asset.textured(field, self.assets)[0]).to(next(field.parameters()).device)
        except UserError as error:
            said = f"particle {number} stays as it is, without a {wanted} stage: {error}"
            warnings.warn(said, Notice, stacklevel=2)
            return field

    def like(self, number: int, weights: Mapping[str, Tensor]) -> nn.Module:
        """Field ``number``, or a new one of the sizes of its saved weights."""
        field, place = self.fields[number], f"fields.{number}."
        device = next(field.parameters()).device
        if (start := weights.get(place + "start")) is not None:
            if isinstance(field, sdf.SdfField) and field.start.shape == start.shape:
                return field
            blank = torch.zeros(start.shape[2:])
            colours = torch.full((*blank.shape, 3), 0.5)
            law, sky = self.geometry, getattr(field, "sky", None)
            bound = self.settings.field.bound
            return sdf.SdfField(blank, colours, bound, tuple(law.levels), law.beta, sky).to(device)
        if place + "vertices" in weights:
            vertices, faces, uv = (weights[place + name].cpu() for name in SHAPES[1:])
            texture = torch.zeros(*weights[place + "paint"].shape[2:], 3, dtype=torch.uint8)
            mesh = Mesh(vertices.numpy(), faces.long().numpy(), uv.numpy(), texture.numpy())
            return Painted(mesh).to(device)
        if isinstance(field, Painted | sdf.SdfField):
            learned = max(self.settings.background.learned.values()) > 0
            return make_field(self.settings.field, learned).to(device)
        return field

    def put(self, made: list[nn.Module]) -> Changes | None:
        """Put new fields in the place of the old ones and say which parameters came and went."""
        before = {id(p): p for p in self.fields.parameters()}
        self.fields = nn.ModuleList(made)
        after = {id(p): name for name, p in self.fields.named_parameters()}
        places = {name: index for index, name in enumerate(self.scales())}
        changes = Changes({p: None for key, p in before.items() if key not in after})
        own = dict(self.fields.named_parameters())
        changes.added = [(places[n.split(".")[1]], own[n]) for key, n in after.items() if key not in before]
        return changes if changes.replaced or changes.added else None

    def look(self, cameras: Cameras, particle: int = 0, **options: Any) -> Render:
        field = self.fields[particle]
        if isinstance(field, Painted):
            return look_at_paint(field, cameras, options.get("background"))
        return super().look(cameras, particle, **options)
