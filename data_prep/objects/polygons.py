"""Cuts polygons of any number of corners into triangles."""

import numpy as np
from jaxtyping import Bool, Float64, Int64

Array = np.ndarray

MOST_STEPS = 20_000_000
"""Corners looked at in all while cutting hollow polygons; those beyond are cut as fans."""


def triangulated(
    sizes: Int64[Array, "p"], points: Float64[Array, "c 3"]
) -> tuple[Int64[Array, "t 3"], Int64[Array, "t"]]:
    """The triangles of polygons, and which polygon each is of.

    Args:
        sizes: corners of each polygon, at least 3.
        points: places of all corners, polygon after polygon.

    Returns:
        Triangles as numbers of corners, in the polygons' order, and the polygon of each.
    """
    starts = np.cumsum(sizes) - sizes
    triangles, owners, budget = [], [], MOST_STEPS
    for size in np.unique(sizes):
        polygons = np.nonzero(sizes == size)[0]
        corners = starts[polygons, None] + np.arange(size)
        fans = _fans(corners)
        hollow = np.nonzero(_hollow(points, corners, fans))[0]
        for number in hollow[: budget // int(size) ** 2]:
            fans[number] = corners[number][_ears(points[corners[number]])]
            budget -= int(size) ** 2
        triangles.append(fans.reshape(-1, 3))
        owners.append(np.repeat(polygons, size - 2))
    if not triangles:
        return np.zeros((0, 3), np.int64), np.zeros(0, np.int64)
    order = np.argsort(np.concatenate(owners), kind="stable")
    return np.concatenate(triangles)[order], np.concatenate(owners)[order]


def _fans(corners: Int64[Array, "p n"]) -> Int64[Array, "p n-2 3"]:
    first = np.broadcast_to(corners[:, :1], (len(corners), corners.shape[1] - 2))
    return np.stack([first, corners[:, 1:-1], corners[:, 2:]], axis=-1)


def _hollow(
    points: Float64[Array, "c 3"], corners: Int64[Array, "p n"], fans: Int64[Array, "p n-2 3"]
) -> Bool[Array, "p"]:
    """Where a fan would cover what is outside: its triangles do not all face the same way."""
    if corners.shape[1] == 3:
        return np.zeros(len(corners), bool)
    with np.errstate(all="ignore"):
        a, b, c = (points[fans[..., i]] for i in range(3))
        faces = np.cross(b - a, c - a)
        return ((faces * faces.sum(axis=1, keepdims=True)).sum(axis=-1) < 0).any(axis=1)


def _ears(points: Float64[Array, "n 3"]) -> Int64[Array, "n-2 3"]:
    """Triangles of one polygon, by cutting off corners that have no other corner inside."""
    flat = _flattened(points)
    left = list(range(len(points)))
    triangles = []
    while len(left) > 3:
        at = next((i for i in range(len(left)) if _is_ear(flat, left, i)), 0)
        triangles.append((left[at - 1], left[at], left[(at + 1) % len(left)]))
        del left[at]
    return np.array([*triangles, left])


def _flattened(points: Float64[Array, "n 3"]) -> Float64[Array, "n 2"]:
    """The polygon seen along its normal, counter-clockwise."""
    following = np.roll(points, -1, axis=0)
    normal = np.cross(points - points[0], following - points[0]).sum(axis=0)
    axis = int(np.abs(normal).argmax())
    flat = points[:, [(axis + 1) % 3, (axis + 2) % 3]]
    return flat if normal[axis] > 0 else flat[:, ::-1]


def _is_ear(flat: Float64[Array, "n 2"], left: list[int], at: int) -> bool:
    a, b, c = (flat[left[i % len(left)]] for i in (at - 1, at, at + 1))
    if _turn(a, b, c) <= 0:
        return False
    others = flat[[n for i, n in enumerate(left) if (i - at + 1) % len(left) > 2]]
    inside = (_turn(a, b, others) >= 0) & (_turn(b, c, others) >= 0) & (_turn(c, a, others) >= 0)
    return not inside.any()


def _turn(a: Array, b: Array, c: Array) -> Array:
    """Above 0 where a, b, c turn left."""
    return (b[0] - a[0]) * (c[..., 1] - a[1]) - (b[1] - a[1]) * (c[..., 0] - a[0])
