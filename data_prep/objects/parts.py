"""The pieces of an object as a reader finds them, and how they become one model."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float32, Float64, Int32, Int64

from data_prep.fanout.task import Rejected
from data_prep.objects.model import Material, Model, doubled_areas, normalised
from data_prep.objects.normals import mended
from data_prep.objects.rejections import check_triangles

Array = np.ndarray

GREY = (0.8, 0.8, 0.8)
"""What has no colour of its own, as in Blender."""
PLAIN = Material(GREY, 0.0, 0.5, (0.0, 0.0, 0.0), None, 0.0)
FARTHEST = 1e12
"""Coordinates beyond, in any unit, are damage."""
WRAPPED_BEYOND = 16.0
"""Texture coordinates are brought nearer by whole turns beyond this: float32 would lose texels."""


class Part(NamedTuple):
    """Triangles of one material, z up."""

    vertices: Float64[Array, "v 3"]
    triangles: Int64[Array, "t 3"]
    material: Material
    normals: Float32[Array, "t 3 3"] | None = None
    """Any length; zero where there is none."""
    uv: Float32[Array, "t 3 2"] | None = None
    """As in Model."""
    colours: Float32[Array, "t 3 3"] | None = None
    """Linear RGB."""
    visible: bool = True


def compacted(triangles: Int64[Array, "t 3"]) -> tuple[Int64[Array, "v"], Int64[Array, "t 3"]]:
    """Numbers of the vertices that are used, and the triangles among these."""
    used, among_used = np.unique(triangles, return_inverse=True)
    return used, among_used.reshape(-1, 3)


def merged(parts: Sequence[Part]) -> Model:
    """One normalised model of all parts that can be seen, without stray or degenerate triangles.

    Raises:
        Rejected: nothing is left, too much is, or vertices are not finite.
    """
    seen = [part for part in parts if part.visible and len(part.triangles)]
    if parts and not any(part.visible for part in parts):
        raise Rejected(f"invisible: all {len(parts)} parts are fully transparent")
    check_triangles(sum(len(part.triangles) for part in seen))
    firsts = np.cumsum([0, *(len(part.vertices) for part in seen[:-1])])
    vertices = np.concatenate([part.vertices for part in seen])
    triangles = np.concatenate(
        [part.triangles + first for part, first in zip(seen, firsts, strict=True)]
    )
    _check_places(vertices, triangles)
    keep = _have_area(vertices, triangles)
    if not keep.any():
        raise Rejected(f"empty: {len(keep):,} triangles without any area")
    used, triangles = compacted(triangles[keep])
    normals = np.concatenate([_corners(part.normals, part, 0.0, 3) for part in seen])[keep]
    uv = np.concatenate([_corners(part.uv, part, 0.0, 2) for part in seen])[keep]
    colours = np.concatenate([_corners(part.colours, part, 1.0, 3) for part in seen])[keep]
    material_of, materials = _materials(seen)
    model = normalised(
        Model(
            vertices[used],
            triangles.astype(np.int32),
            normals,
            _near(uv),
            np.clip(np.nan_to_num(colours), 0.0, 1.0),
            material_of[keep],
            materials,
        )
    )
    return model._replace(normals=mended(normals, model.vertices, model.triangles))


def _materials(parts: Sequence[Part]) -> tuple[Int32[Array, "t"], tuple[Material, ...]]:
    """The material of every triangle, and each material once."""
    numbers: dict[int, int] = {}
    materials = []
    for part in parts:
        if id(part.material) not in numbers:
            numbers[id(part.material)] = len(materials)
            materials.append(part.material)
    of_parts = [numbers[id(part.material)] for part in parts]
    sizes = [len(part.triangles) for part in parts]
    return np.repeat(of_parts, sizes).astype(np.int32), tuple(materials)


def _corners(values: Array | None, part: Part, otherwise: float, width: int) -> Array:
    if values is None:
        return np.full((len(part.triangles), 3, width), otherwise, np.float32)
    return values.astype(np.float32)


def _check_places(vertices: Float64[Array, "v 3"], triangles: Int64[Array, "t 3"]) -> None:
    good = np.abs(vertices) <= FARTHEST  # False for NaN
    bad = ~good.all(axis=1)[triangles].all(axis=1)
    if bad.any():
        raise Rejected(
            f"broken: {bad.sum():,} of {len(bad):,} triangles have a corner that is not finite or "
            f"beyond {FARTHEST:g}"
        )


def _have_area(vertices: Float64[Array, "v 3"], triangles: Int64[Array, "t 3"]) -> Bool[Array, "t"]:
    """Triangles that still have an area when the object is as large as a model's vertices are."""
    used = vertices[triangles.ravel()]
    size = max(float(np.ptp(used, axis=0).max()), 1e-300)
    single = ((vertices - used.mean(axis=0)) / size).astype(np.float32).astype(np.float64)
    return np.linalg.norm(doubled_areas(single, triangles), axis=-1) > 0


def _near(uv: Float32[Array, "t 3 2"]) -> Float32[Array, "t 3 2"]:
    finite = np.where(np.isfinite(uv), uv, np.float32(0.0))
    far = np.abs(finite).max(axis=1, keepdims=True) > WRAPPED_BEYOND
    return finite - np.where(far, np.floor(finite.min(axis=1, keepdims=True)), np.float32(0.0))
