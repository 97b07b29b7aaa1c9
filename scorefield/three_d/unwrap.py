"""UV coordinates by xatlas: charts of a mesh packed into the unit square."""

import numpy as np

from scorefield.errors import UserError
from scorefield.three_d.extra import need
from scorefield.three_d.mesh import Mesh

LIMIT = 100_000  # faces; xatlas takes minutes here and hours for a million
PADDING = 3  # texels between charts


def unwrap(mesh: Mesh, size: int = 512, limit: int = LIMIT) -> Mesh:
    """The mesh with UV coordinates; vertices on seams are doubled.

    Args:
        size: side in texels of the texture to be, which sets the gap between charts.

    Raises:
        UserError: more faces than ``limit``, no faces, a size below 32, or xatlas is not installed.
    """
    if len(mesh.faces) > limit:
        raise UserError(
            f"the mesh has {len(mesh.faces)} faces, too many to unwrap in good time (the limit is {limit}): "
            "reduce it to fewer faces first"
        )
    if not len(mesh.faces):
        raise UserError("the mesh has no faces to unwrap")
    if size < 32:
        raise UserError(f"a texture needs 32 texels a side at least, not {size}")
    xatlas = need("xatlas")
    atlas = xatlas.Atlas()
    atlas.add_mesh(mesh.vertices.astype(np.float32), mesh.faces.astype(np.uint32))
    pack = xatlas.PackOptions()
    pack.resolution, pack.padding = size, PADDING
    atlas.generate(chart_options=xatlas.ChartOptions(), pack_options=pack)
    if atlas.atlas_count != 1:  # the estimate of the scale was too large: let xatlas choose its own resolution
        pack.resolution = 0
        atlas.generate(chart_options=xatlas.ChartOptions(), pack_options=pack)
    origin, faces, uv = atlas[0]
    uv = uv * np.array([atlas.width, atlas.height]) / max(atlas.width, atlas.height)  # square texels
    return Mesh(mesh.vertices[origin], faces.astype(np.int64), uv.astype(np.float32))
