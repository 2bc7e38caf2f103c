"""A z-buffer for triangles in NumPy: which triangle each sample of a picture shows, and how far.

Samples lie on a grid over the picture; a sample belongs to a triangle if its centre does, and
centres on an edge that two triangles share belong to exactly one of them. NumPy only: the render
environment uses it too.
"""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np

NEAR = 0.05
"""Metres before the camera; a triangle with a corner nearer than this is left out."""
MOST_AT_ONCE = 4_000_000
"""Samples that are worked on at a time, which bounds the memory."""
NOTHING = -1


class Projected(NamedTuple):
    """Triangles as a camera sees them."""

    pixels: np.ndarray
    """[t 3 2] float64, (x, y) of their corners."""
    inverse_depth: np.ndarray
    """[t 3] float64, 1 / metres along the optical axis; linear across the picture."""
    index: np.ndarray
    """[t] int64, their numbers before those were left out that cannot be seen."""


class Hits(NamedTuple):
    """What the samples of a picture show."""

    triangle: np.ndarray
    """[h w] int32, number of the nearest triangle, or NOTHING."""
    inverse_depth: np.ndarray
    """[h w] float32, of it; 0 where there is nothing."""


Holes = Callable[[np.ndarray, np.ndarray, np.ndarray], np.ndarray]
"""(triangle, x, y of samples) → True where the triangle has a hole there."""


def project(corners: np.ndarray, k: np.ndarray, rt: np.ndarray) -> Projected:
    """Projects triangles [t 3 3] in world metres; leaves out those too near or edge-on."""
    camera = corners @ rt[:, :3].T + rt[:, 3]
    index = np.flatnonzero(_lowest(camera[..., 2]) > NEAR)
    homogeneous = camera[index] @ k.T
    pixels = homogeneous[..., :2] / homogeneous[..., 2:]
    one, two = pixels[:, 1] - pixels[:, 0], pixels[:, 2] - pixels[:, 0]
    flat = np.abs(one[:, 0] * two[:, 1] - one[:, 1] * two[:, 0]) < 1e-9
    return Projected(pixels[~flat], 1.0 / camera[index][~flat, :, 2], index[~flat])


def planes(triangles: Projected, values: np.ndarray) -> np.ndarray:
    """Coefficients [t 3] of a x + b y + c, the linear function with these values [t 3]."""
    x, y = triangles.pixels[..., 0], triangles.pixels[..., 1]
    x1, x2, y1, y2 = x[:, 1] - x[:, 0], x[:, 2] - x[:, 0], y[:, 1] - y[:, 0], y[:, 2] - y[:, 0]
    v1, v2 = values[:, 1] - values[:, 0], values[:, 2] - values[:, 0]
    area = x1 * y2 - x2 * y1
    a, b = (v1 * y2 - v2 * y1) / area, (v2 * x1 - v1 * x2) / area
    return np.stack([a, b, values[:, 0] - a * x[:, 0] - b * y[:, 0]], axis=1)


def barycentric(corners: np.ndarray, points: np.ndarray) -> np.ndarray:
    """Shares [n 3] of each corner of plane triangles [n 3 2] at points [n 2]; they add up to 1."""
    edges = np.roll(corners, -1, axis=1) - corners
    away = points[:, None] - corners
    # Opposite to corner i runs the edge from corner i + 1 to corner i + 2.
    parts = np.roll(edges[..., 0] * away[..., 1] - edges[..., 1] * away[..., 0], -1, axis=1)
    return parts / _sum(parts)


def perspective_shares(
    triangles: Projected, number: np.ndarray, x: np.ndarray, y: np.ndarray
) -> np.ndarray:
    """Shares [n 3] of each corner of triangles `number` at the surface points seen at x, y [n]."""
    flat = barycentric(triangles.pixels[number], np.stack([x, y], axis=1))
    deep = np.maximum(flat, 0.0) * triangles.inverse_depth[number]
    return deep / _sum(deep)


def _lowest(values: np.ndarray) -> np.ndarray:
    """[n] of [n 3]; written out as well."""
    return np.minimum(np.minimum(values[:, 0], values[:, 1]), values[:, 2])


def _sum(parts: np.ndarray) -> np.ndarray:
    """[n 1] of [n 3]; written out, as NumPy is slow to sum over an axis of three."""
    return (parts[:, 0] + parts[:, 1] + parts[:, 2])[:, None]


def nearest(
    triangles: Projected, width: int, height: int, per_pixel: int = 1, holes: Holes | None = None
) -> Hits:
    """Finds the nearest triangle at every sample.

    Args:
        triangles: what to draw; on equal depth the first one is shown.
        width: of the picture, pixels.
        height: of the picture, pixels.
        per_pixel: samples along each side of a pixel.
        holes: says where a triangle can be looked through.
    """
    columns, rows = width * per_pixel, height * per_pixel
    shown = np.full(columns * rows, NOTHING, np.int32)
    nearness = np.zeros(columns * rows, np.float32)
    depth_plane = planes(triangles, triangles.inverse_depth)
    low, high = _lowest(triangles.inverse_depth), -_lowest(-triangles.inverse_depth)
    for number, x, y in _solid(triangles, columns, rows, per_pixel, holes):
        a, b, c = depth_plane[number].T
        inverse = a * ((x + 0.5) / per_pixel) + b * ((y + 0.5) / per_pixel) + c
        # A triangle seen edge-on has a steep plane, on which rounding errors are large.
        inverse = np.clip(inverse, low[number], high[number]).astype(np.float32)
        place = y * columns + x
        before = nearness[place]
        np.maximum.at(nearness, place, inverse)
        wins = (inverse == nearness[place]) & (inverse > before)
        # Of repeated places the last is kept: backwards, that is the first triangle.
        shown[place[wins][::-1]] = number[wins][::-1]
    return Hits(shown.reshape(rows, columns), nearness.reshape(rows, columns))


def covered(
    triangles: Projected, width: int, height: int, per_pixel: int = 1, holes: Holes | None = None
) -> np.ndarray:
    """True [h w] at samples that any triangle covers; arguments as for `nearest`."""
    columns, rows = width * per_pixel, height * per_pixel
    result = np.zeros(columns * rows, bool)
    for _, x, y in _solid(triangles, columns, rows, per_pixel, holes):
        result[y * columns + x] = True
    return result.reshape(rows, columns)


def _solid(triangles: Projected, columns: int, rows: int, per_pixel: int, holes: Holes | None):
    """As `_samples`, without those in holes."""
    for number, x, y in _samples(triangles.pixels * per_pixel, columns, rows):
        if holes is None:
            yield number, x, y
        else:
            solid = ~holes(number, (x + 0.5) / per_pixel, (y + 0.5) / per_pixel)
            yield number[solid], x[solid], y[solid]


def _samples(pixels: np.ndarray, columns: int, rows: int):
    """Yields (triangle, x, y) of the samples inside triangles, many at a time, in rising order."""
    low, high = _lowest(pixels[..., 1]), -_lowest(-pixels[..., 1])
    first = np.clip(np.ceil(low - 0.5), 0, rows).astype(np.int64)
    last = np.clip(np.ceil(high - 0.5), 0, rows).astype(np.int64)
    left = np.clip(_lowest(pixels[..., 0]), 0, columns)
    right = np.clip(-_lowest(-pixels[..., 0]), 0, columns)
    # An upper bound of the samples of each triangle; how they are grouped changes no result.
    bound = np.cumsum((last - first) * (np.ceil(right - left).astype(np.int64) + 1))
    most = max(1, bound[-1]) if len(bound) else 0
    starts = np.searchsorted(bound, np.arange(0, most, MOST_AT_ONCE)).tolist()
    for start, end in zip(starts, [*starts[1:], len(pixels)], strict=len(pixels) > 0):
        number, y = _expanded(first[start:end], last[start:end])
        if len(number):
            number += start
            begin, stop = _spans(pixels, number, y, columns)
            span, x = _expanded(begin, stop)
            yield number[span], x, y[span]


def _spans(
    pixels: np.ndarray, number: np.ndarray, y: np.ndarray, columns: int
) -> tuple[np.ndarray, np.ndarray]:
    """First sample, and the one after the last, of triangles `number` [n] in rows `y` [n]."""
    centre = y + 0.5
    left, right = np.full(len(y), np.inf), np.full(len(y), -np.inf)
    for start, end in ((0, 1), (1, 2), (2, 0)):
        one, two = pixels[:, start], pixels[:, end]
        rise = two[:, 1] - one[:, 1]
        slope = np.divide(two[:, 0] - one[:, 0], rise, out=np.zeros_like(rise), where=rise != 0)
        y_one, y_two = one[number, 1], two[number, 1]
        crosses = (y_one <= centre) != (y_two <= centre)
        at = one[number, 0] + (centre - y_one) * slope[number]
        left = np.where(crosses, np.minimum(left, at), left)
        right = np.where(crosses, np.maximum(right, at), right)
    empty = left > right
    left[empty] = right[empty] = 0.0
    begin = np.clip(np.ceil(left - 0.5), 0, columns).astype(np.int64)
    return begin, np.clip(np.ceil(right - 0.5), 0, columns).astype(np.int64)


def _expanded(begin: np.ndarray, end: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """For ranges begin..end: the number of the range, and each value in it."""
    counts = np.maximum(end - begin, 0)
    which = np.repeat(np.arange(len(counts)), counts)
    offsets = np.arange(len(which)) - np.repeat(np.cumsum(counts) - counts, counts)
    return which, begin[which] + offsets
