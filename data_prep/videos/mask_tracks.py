"""One point for each object of a segmented video: followed, and kept on its object."""

from typing import NamedTuple

import cv2
import numpy as np
from jaxtyping import Bool, Float, Integer, UInt8

from posetraj_jax.tracking.lucas_kanade import track

Array = np.ndarray

DEEP = 0.5
"""Where a point is put back to: at least so far from the edge, compared with the deepest place."""


class MaskTracks(NamedTuple):
    """What became of the points."""

    points_px: Float[Array, "f p 2"]
    """(x, y) in pixels of the frames; in the middle of a pixel where a point was put."""
    visible: Bool[Array, "f p"]
    """True where the point lies on its object's mask."""
    put_back: tuple[tuple[int, ...], ...]
    """For each object, the frames in which its point had left it and was put back."""


def follow_objects(
    frames: UInt8[Array, "f h w 3"], masks: Integer[Array, "f h w"], objects: tuple[int, ...]
) -> MaskTracks:
    """Follows one point of every object; each object is in at least one of the masks.

    The point begins at the place farthest from the edge of the object's first mask, which is where
    the official tracks begin. It is followed by Lucas-Kanade flow on its object. Where that leaves
    the mask, the point is put to the nearest place well inside (`DEEP`) and moves on from there
    with the flow. Where the object has no mask it moves with the flow and is not visible; before
    its first mask it rests where it will begin.

    Args:
        frames: RGB.
        masks: number of the object that each pixel shows.
        objects: their numbers.
    """
    starts = [int((masks == number).any(axis=(1, 2)).argmax()) for number in objects]
    seeds = [
        _deepest(masks[start] == number) for start, number in zip(starts, objects, strict=True)
    ]
    points = np.repeat(np.array(seeds)[None], len(frames), axis=0)
    visible = np.zeros(points.shape[:2], bool)
    for start in sorted(set(starts)):
        members = [index for index, first in enumerate(starts) if first == start]
        flow = track(frames[start:], points[start, members], masks=masks[start:])
        points[start:, members] = flow.points_px
    put_back = []
    for index, (start, number) in enumerate(zip(starts, objects, strict=True)):
        own = masks[start:] == number
        kept, visible[start:, index], times = _kept_on(points[start:, index], own)
        points[start:, index] = kept
        put_back.append(tuple(start + time for time in times))
    return MaskTracks(points, visible, tuple(put_back))


def _kept_on(
    points: Float[Array, "f 2"], mask: Bool[Array, "f h w"]
) -> tuple[Float[Array, "f 2"], Bool[Array, "f"], list[int]]:
    """A point kept on its object; where it is on it; and when it had to be put back."""
    kept, offset, times = np.empty_like(points), np.zeros(2), []
    there = mask.any(axis=(1, 2))
    for t, point in enumerate(points):
        kept[t] = point + offset
        if there[t] and not _lies_on(kept[t], mask[t]):
            kept[t] = _nearest_deep(kept[t], mask[t])
            offset = kept[t] - point
            times.append(t)
    return kept, there, times


def _lies_on(point: Float[Array, "2"], mask: Bool[Array, "h w"]) -> bool:
    column, row = np.floor(point).astype(int)
    inside = 0 <= row < mask.shape[0] and 0 <= column < mask.shape[1]
    return bool(inside and mask[row, column])


def _depth(mask: Bool[Array, "h w"]) -> Float[Array, "h w"]:
    """Distance from the edge of the mask or of the picture, pixels."""
    padded = np.pad(mask.astype(np.uint8), 1)
    return cv2.distanceTransform(padded, cv2.DIST_L2, cv2.DIST_MASK_PRECISE)[1:-1, 1:-1]


def _deepest(mask: Bool[Array, "h w"]) -> Float[Array, "2"]:
    row, column = np.unravel_index(_depth(mask).argmax(), mask.shape)
    return np.array([column + 0.5, row + 0.5])


def _nearest_deep(point: Float[Array, "2"], mask: Bool[Array, "h w"]) -> Float[Array, "2"]:
    depth = _depth(mask)
    rows, columns = np.nonzero(depth >= DEEP * depth.max())
    places = np.stack([columns, rows], axis=1) + 0.5
    return places[((places - point) ** 2).sum(axis=1).argmin()]
