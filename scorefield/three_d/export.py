"""A textured mesh as GLB, OBJ and PLY, and a GLB back again.

All three have y up and the front along +z, as glTF wants it. GLB and OBJ carry the sRGB texture as it is (metallic 0,
roughness 1); PLY carries vertex colours.
"""

from pathlib import Path
from typing import Any

import numpy as np

from scorefield.errors import UserError
from scorefield.files import write_atomically
from scorefield.three_d.cameras import Y_UP_TO_WORLD
from scorefield.three_d.extra import need
from scorefield.three_d.mesh import Mesh

TO_WORLD = np.array(Y_UP_TO_WORLD, dtype=np.float32)
FORMATS = ("glb", "obj", "ply")


def _scene_mesh(mesh: Mesh, name: str) -> Any:
    """trimesh's object with y up. Its v axis points upwards: it writes 1 - v into glTF and v into OBJ."""
    from PIL import Image

    if mesh.uv is None or mesh.texture is None:
        raise UserError("the mesh has no texture: unwrap and bake it first")
    trimesh, visual = need("trimesh"), need("trimesh.visual")
    material = need("trimesh.visual.material").PBRMaterial(
        name=name,
        baseColorTexture=Image.fromarray(mesh.texture),
        baseColorFactor=[255, 255, 255, 255],
        metallicFactor=0.0,
        roughnessFactor=1.0,
    )
    uv = np.stack([mesh.uv[:, 0], 1 - mesh.uv[:, 1]], -1)
    return trimesh.Trimesh(
        mesh.vertices @ TO_WORLD,
        mesh.faces,
        visual=visual.TextureVisuals(uv=uv, material=material),
        process=False,
        metadata={"name": name},
    )


def write_glb(mesh: Mesh, path: Path) -> Path:
    """Write a binary glTF with its texture inside, whole or not at all."""
    data = _scene_mesh(mesh, path.stem).export(file_type="glb", include_normals=True)
    write_atomically(path, lambda part: part.write_bytes(data))
    return path


def write_obj(mesh: Mesh, path: Path) -> Path:
    """Write NAME.obj with NAME.mtl and NAME.png beside it, each whole or not at all."""
    from PIL import Image

    _scene_mesh(mesh, path.stem)  # refuses a mesh without texture
    assert mesh.uv is not None
    assert mesh.texture is not None
    rows = ["mtllib " + path.stem + ".mtl", f"o {path.stem}"]
    rows += ["v {:.6f} {:.6f} {:.6f}".format(*place) for place in (mesh.vertices @ TO_WORLD).tolist()]
    rows += [f"vt {u:.6f} {1 - v:.6f}" for u, v in mesh.uv.tolist()]
    rows += [f"usemtl {path.stem}"]
    rows += ["f {0}/{0} {1}/{1} {2}/{2}".format(*face) for face in (mesh.faces + 1).tolist()]
    material = f"newmtl {path.stem}\nKa 1 1 1\nKd 1 1 1\nKs 0 0 0\nillum 1\nmap_Kd {path.stem}.png\n"
    picture = Image.fromarray(mesh.texture)
    write_atomically(path.with_suffix(".png"), lambda part: picture.save(part, format="PNG"))
    write_atomically(path.with_suffix(".mtl"), lambda part: part.write_text(material))
    write_atomically(path, lambda part: part.write_text("\n".join(rows) + "\n"))
    return path


def write_ply(mesh: Mesh, path: Path) -> Path:
    """Write a binary PLY with vertex colours, whole or not at all."""
    if mesh.colours is None:
        raise UserError("the mesh has no vertex colours: bake it first")
    trimesh = need("trimesh")
    plain = trimesh.Trimesh(mesh.vertices @ TO_WORLD, mesh.faces, vertex_colors=mesh.colours, process=False)
    data = plain.export(file_type="ply")
    write_atomically(path, lambda part: part.write_bytes(data))
    return path


def write_all(mesh: Mesh, folder: Path, stem: str) -> dict[str, Path]:
    """{"glb": path, "obj": path, "ply": path} in ``folder``."""
    writers = {"glb": write_glb, "obj": write_obj, "ply": write_ply}
    return {kind: writers[kind](mesh, folder / f"{stem}.{kind}") for kind in FORMATS}


def read_glb(path: Path) -> Mesh:
    """A GLB that ``write_glb`` wrote, back in the world with z up.

    Raises UserError when the file is missing, broken, or holds no single textured mesh.
    """
    trimesh = need("trimesh")
    try:
        scene = trimesh.load_scene(path, file_type="glb", process=False)
        (found,) = scene.geometry.values()
        picture = np.array(found.visual.material.baseColorTexture.convert("RGB"))
        uv = np.array(found.visual.uv, dtype=np.float32)
    except (OSError, ValueError, KeyError, AttributeError, TypeError, IndexError) as error:
        raise UserError(f"cannot read a textured mesh from {path}: {error}") from error
    uv[:, 1] = 1 - uv[:, 1]
    vertices = np.array(found.vertices, dtype=np.float32) @ TO_WORLD.T
    return Mesh(vertices, np.array(found.faces, dtype=np.int64), uv, picture)
