"""Normals for objects that come without: smooth over gentle edges, sharp over others."""

import numpy as np
from jaxtyping import Bool, Float32, Float64, Int64

from data_prep.objects.model import doubled_areas

Array = np.ndarray

SMOOTH_BELOW_DEG = 35.0
"""As for the built-in objects."""
MOST_AT_A_POINT = 48
"""Corners at one place that are compared in pairs; the work grows with the square."""
PAIRS_AT_ONCE = 1_000_000


def smooth_normals(
    vertices: Float64[Array, "v 3"], triangles: Int64[Array, "t 3"]
) -> Float32[Array, "t 3 3"]:
    """The normal of each corner: the mean, by angle, of the triangles there that are nearly level.

    Nearly level means below SMOOTH_BELOW_DEG from the corner's own triangle. Vertices at the same
    place count as one, since files split them where textures or materials meet. Triangles without
    area get the normal (0, 0, 1) unless others at their corners have a better one.
    """
    upright = np.array([0.0, 0.0, 1.0], np.float32)
    faces = _unit(doubled_areas(vertices, triangles), upright, smallest=0.0)
    weights = _corner_angles(vertices, triangles)
    points = _places(vertices)[triangles.ravel()]
    order = np.argsort(points, kind="stable")
    sizes = np.bincount(points[order])
    starts = np.cumsum(sizes) - sizes
    sums = np.empty((3 * len(triangles), 3), np.float32)
    for size in np.unique(sizes[(sizes > 0) & (sizes <= MOST_AT_A_POINT)]):
        at = starts[sizes == size]
        step = max(1, PAIRS_AT_ONCE // int(size) ** 2)
        for first in range(0, len(at), step):
            corners = order[at[first : first + step, None] + np.arange(size)]
            sums[corners] = _level_means(faces[corners // 3], weights[corners])
    for place in np.nonzero(sizes > MOST_AT_A_POINT)[0]:
        corners = order[starts[place] : starts[place] + sizes[place]]
        sums[corners] = _crowded_means(faces[corners // 3], weights[corners])
    return _unit(sums, np.repeat(faces, 3, axis=0)).reshape(-1, 3, 3)


def mended(
    normals: Float32[Array, "t 3 3"],
    vertices: Float64[Array, "v 3"],
    triangles: Int64[Array, "t 3"],
) -> Float32[Array, "t 3 3"]:
    """Unit normals; triangles with a corner that has none (zero or not finite) get smooth ones."""
    broken = _broken(normals).any(axis=1)
    whole = _unit(np.where(broken[:, None, None], 0.0, normals), np.zeros(3, np.float32))
    if broken.any():
        whole[broken] = smooth_normals(vertices, triangles[broken])
    return whole


def _broken(normals: Float32[Array, "t 3 3"]) -> Bool[Array, "t 3"]:
    with np.errstate(all="ignore"):
        lengths = np.linalg.norm(normals.astype(np.float64), axis=-1)
    return ~(np.isfinite(lengths) & (lengths > 1e-6))


def _unit(
    vectors: Float32[Array, "*n 3"], otherwise: Float32[Array, "*m 3"], smallest: float = 1e-6
) -> Float32[Array, "*n 3"]:
    """Vectors of length 1; `otherwise` where they are no longer than `smallest`."""
    lengths = np.linalg.norm(vectors.astype(np.float64), axis=-1, keepdims=True)
    whole = lengths > smallest
    return np.where(whole, vectors / np.where(whole, lengths, 1.0), otherwise).astype(np.float32)


def _corner_angles(
    vertices: Float64[Array, "v 3"], triangles: Int64[Array, "t 3"]
) -> Float32[Array, "t*3"]:
    corners = vertices[triangles]
    ahead, back = (np.roll(corners, -turn, axis=1) - corners for turn in (1, 2))
    cross = np.linalg.norm(np.cross(ahead, back), axis=-1)
    return np.arctan2(cross, (ahead * back).sum(axis=-1)).astype(np.float32).ravel()


def _places(vertices: Float64[Array, "v 3"]) -> Int64[Array, "v"]:
    """A number for each vertex; vertices at the same place have the same."""
    order = np.lexsort(vertices.T)
    new = np.any(np.diff(vertices[order], axis=0, prepend=vertices[order[:1]]) != 0, axis=1)
    places = np.empty(len(vertices), np.int64)
    places[order] = np.cumsum(new)
    return places


def _level_means(faces: Float32[Array, "g n 3"], weights: Float32[Array, "g n"]) -> Array:
    level = faces @ faces.swapaxes(1, 2) >= np.cos(np.deg2rad(SMOOTH_BELOW_DEG))
    return (level * weights[:, None, :]) @ faces


def _crowded_means(faces: Float32[Array, "n 3"], weights: Float32[Array, "n"]) -> Array:
    """As `_level_means` at one place, in one pass: one mean for all, or each its own triangle's."""
    mean = (weights[:, None] * faces).sum(axis=0)
    mean /= max(float(np.linalg.norm(mean)), 1e-12)
    level = faces @ mean >= np.cos(np.deg2rad(SMOOTH_BELOW_DEG))
    return np.where(level[:, None], mean, faces)
