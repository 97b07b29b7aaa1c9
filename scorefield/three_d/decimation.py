"""Closed meshes stay closed when they are decimated.

Edge collapse with quadrics asks nothing about topology. Of a closed mesh it leaves a closed chain, every edge as often
forth as back, yet sheets may be pressed together: faces lie back to back, or four and more meet along one edge. Both
are undone here without moving a vertex; no hole has to be filled, because none arises.
"""

import numpy as np

from scorefield.three_d.extra import need
from scorefield.three_d.mesh import Mesh, keep_large, select, welded

PULLED = 0.02  # of the way from an edge's middle to the opposite corners: where the sheet that is parted passes by


def decimate(mesh: Mesh, faces: int) -> Mesh:
    """About ``faces`` triangles by quadric edge collapse; smaller meshes come back as they are.

    A closed mesh stays closed, at the price of a few faces more. Crumbs that come off in the collapse are dropped.
    """
    if len(mesh.faces) <= faces:
        return mesh
    vertices, found = need("fast_simplification").simplify(
        mesh.vertices.astype(np.float32), mesh.faces.astype(np.int32), target_count=faces
    )
    return keep_large(closed(Mesh(vertices.astype(np.float32), found.astype(np.int64))))


def closed(mesh: Mesh) -> Mesh:
    """The same shape with every edge between exactly two faces that run along it in opposite directions.

    Vertices at the same place are joined first, so that readers which do so find it closed as well. The promise holds
    where every edge is run along as often forth as back, as collapsing a closed mesh leaves it; other edges stay as
    they are. Texture and colours are dropped.
    """
    mesh = without_flaps(welded(mesh))
    while (found := part_once(mesh)) is not None:
        mesh = found
    return mesh


def without_flaps(mesh: Mesh) -> Mesh:
    """Without pairs of faces on the same three corners that look in opposite directions, nor collapsed faces."""
    faces = mesh.faces
    faces = faces[(faces[:, 0] != faces[:, 1]) & (faces[:, 1] != faces[:, 2]) & (faces[:, 2] != faces[:, 0])]
    first = faces.argmin(1)
    turned = np.take_along_axis(faces, (first[:, None] + np.arange(3)) % 3, 1)  # the smallest corner in front
    side = np.where(turned[:, 1] < turned[:, 2], 1, -1)
    _, group = np.unique(np.sort(faces, 1), axis=0, return_inverse=True)
    group = group.reshape(-1)
    total = np.bincount(group, side).astype(int)
    # of each group only the surplus of one side is kept: its first faces of that side
    order = np.lexsort((np.arange(len(faces)), -side * np.sign(total)[group], group))
    start = np.searchsorted(group[order], np.arange(len(total)))
    rank = np.empty(len(faces), dtype=int)
    rank[order] = np.arange(len(faces)) - start[group[order]]
    return select(Mesh(mesh.vertices, faces), rank < np.abs(total)[group])


def part_once(mesh: Mesh) -> Mesh | None:
    """Part sheets at some of the edges that more than two faces share; None when there is no such edge.

    At an edge the faces are taken in turn round it, in pairs with the solid between them. One pair keeps the edge, the
    others get a vertex of their own at its middle. No face is changed twice in one call.
    """
    count = len(mesh.faces)
    edges = mesh.faces[:, [0, 1, 1, 2, 2, 0]].reshape(-1, 2)  # of face n at rows 3 n …
    forth = edges[:, 0] < edges[:, 1]
    key, place, times = np.unique(np.sort(edges, 1), axis=0, return_inverse=True, return_counts=True)
    place = place.reshape(-1)
    balance = np.bincount(place, np.where(forth, 1, -1), minlength=len(key))
    crowded = np.flatnonzero((times > 2) & (balance == 0))
    if not len(crowded):
        return None
    order = np.argsort(place, kind="stable")
    start = np.searchsorted(place[order], crowded)
    vertices, added, removed = [*mesh.vertices], [], np.zeros(count, dtype=bool)
    touched = np.zeros(count, dtype=bool)
    for edge, begin in zip(crowded, start, strict=True):
        rows = order[begin : begin + times[edge]]
        around = rows // 3
        if touched[around].any():
            continue
        touched[around] = True
        for one, other in pairs(mesh, rows, forth)[1:]:
            ends = mesh.vertices[edges[one]]
            tips = [mesh.faces[row // 3][(row % 3 + 2) % 3] for row in (one, other)]
            middle = ends.mean(0)
            vertices.append((middle + PULLED * (mesh.vertices[tips].mean(0) - middle)).astype(np.float32))
            for row, tip in zip((one, other), tips, strict=True):
                a, b = edges[row]
                added += [[a, len(vertices) - 1, tip], [len(vertices) - 1, b, tip]]
                removed[row // 3] = True
    faces = np.concatenate([mesh.faces[~removed], np.array(added, dtype=np.int64).reshape(-1, 3)])
    return Mesh(np.stack(vertices), faces)


def pairs(mesh: Mesh, rows: np.ndarray, forth: np.ndarray) -> list[tuple[int, int]]:
    """Rows of an edge's uses (face n, side s at 3 n + s), two by two: one that runs forth with the one back that
    follows through the solid, round the edge."""
    sides = [(int(row), mesh.faces[row // 3]) for row in rows]
    low, high = sorted(sides[0][1][[rows[0] % 3, (rows[0] + 1) % 3]])
    origin = mesh.vertices[low].astype(np.float64)
    axis = mesh.vertices[high] - origin
    axis /= max(np.linalg.norm(axis), 1e-30)
    arms = np.array([mesh.vertices[face[(row % 3 + 2) % 3]] - origin for row, face in sides])
    across = np.eye(3)[np.abs(axis).argmin()]
    across -= axis * (across @ axis)
    across /= np.linalg.norm(across)
    angle = np.arctan2(arms @ np.cross(axis, across), arms @ across)
    # a face that runs low to high has the solid on the side of falling angles
    turn = [row for _, row in sorted(zip(-angle, (int(row) for row in rows), strict=True))]
    found: list[tuple[int, int]] = []
    open_: list[int] = []
    for row in [*turn, *turn]:  # brackets on a circle: each forth closes with the next free back
        if any(row in pair for pair in found):
            continue
        if forth[row]:
            if row not in open_:
                open_.append(row)
        elif open_:
            found.append((open_.pop(), row))
    return found
