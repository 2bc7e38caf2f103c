"""Where to start: a point for each segment of the first frame, points that move, or given ones."""

from typing import Any, NamedTuple

import cv2
import numpy as np
from jaxtyping import Bool, Float, Float32, Integer, UInt8

from posetraj_jax.errors import UserError
from posetraj_jax.tracking.lucas_kanade import Options, track
from posetraj_jax.tracking.track_json import Tracked, inside

Array = np.ndarray

FIRST_UNKNOWN = 12500
"""The id of the first point that belongs to no segment: thing 0 of class 125, which VIPSeg (124
classes) does not have. Loaders take it for an object."""
NUM_CANDIDATES = 150
MOVES_PX = 2.0
"""How far a point must go, apart from the rest of the picture, to count as moving."""
MOVING_SHARE = 0.75
"""Most of the points move, if as many do; the others show what stands still."""
OFTEN = 0.7
"""Share of the frames in which a good candidate is found."""
SPACING = 0.04
"""How far apart points are at least, in diagonals of the picture."""


class Seeds(NamedTuple):
    """Points of the first frame."""

    ids: tuple[int, ...]
    """Panoptic ids, one for each point."""
    points_px: Float32[Array, "p 2"]
    """(x, y) in pixels, pixel centres at 0.5."""


def from_mask(mask: Integer[Array, "h w"], least_pixels: int = 1) -> Seeds:
    """The innermost pixel of every segment, ids in rising order.

    That is where the distance to the segment's edge is greatest; of several such pixels the first,
    by rows.

    Args:
        mask: panoptic ids of the first frame: 0 void, 1..124 stuff, from 125 on 100 times the class
            plus the number of the thing.
        least_pixels: smaller segments are left out.

    Raises:
        UserError: negative ids, or no segment that is large enough.

    Source: DragAnything's script for VIPSeg, which takes void like any other segment.
    Differs: the edge of the picture is an edge too, so that no point starts on it; there, the point
        is then moved to the nearest point of CoTracker's grid.
    """
    ids, counts = np.unique(mask, return_counts=True)
    chosen = [int(number) for number, n in zip(ids, counts, strict=True) if n >= least_pixels]
    if not chosen or chosen[0] < 0:
        raise UserError(
            "No point can be taken from the mask of the first frame",
            expected=f"panoptic ids from 0 on, and a segment of {least_pixels} pixels",
            got=f"{len(ids)} ids from {ids.min(initial=0)} to {ids.max(initial=0)}",
            fix="check the mask, or ask for smaller segments",
        )
    return Seeds(tuple(chosen), np.array([_innermost(mask == number) for number in chosen]))


def _innermost(segment: Bool[Array, "h w"]) -> Float32[Array, "2"]:
    framed = np.pad(segment.astype(np.uint8), 1)
    depth = cv2.distanceTransform(framed, cv2.DIST_L2, cv2.DIST_MASK_PRECISE)[1:-1, 1:-1]
    row, column = np.unravel_index(np.argmax(depth), depth.shape)
    return np.array([column + 0.5, row + 0.5], np.float32)


def from_points(points_px: Any, size: tuple[int, int]) -> Seeds:
    """Points that somebody chose, with ids from FIRST_UNKNOWN on.

    Args:
        points_px: what somebody gave for a list of (x, y), pixels of the first frame.
        size: (height, width) of the frames.

    Raises:
        UserError: no points, something else than pairs of finite numbers, or points elsewhere.
    """
    try:
        points = np.array(points_px, np.float32).reshape(len(points_px), 2)
    except (TypeError, ValueError) as error:
        raise _not_points(size, str(error)) from error
    good = np.isfinite(points).all(axis=1) & inside(points, size)
    if not len(points) or not good.all():
        outside = [f"({x:g}, {y:g})" for x, y in points[~good][:5]]
        raise _not_points(size, f"{len(points)} points, elsewhere {', '.join(outside) or 'none'}")
    return Seeds(_unknown_ids(len(points)), points)


def _not_points(size: tuple[int, int], got: str) -> UserError:
    return UserError(
        "The points to follow cannot be used",
        expected=f"one or more pairs (x, y) inside the first frame, {size[1]} x {size[0]} pixels",
        got=got,
        fix="give points of the first frame, in its own pixels",
    )


def from_video(frames: UInt8[Array, "f h w 3"], count: int = 12) -> Seeds:
    """Corners that are easily followed, far apart, most of them on what moves by itself.

    Candidates are followed through the video. What most of them do is the motion of the camera; who
    departs from it by MOVES_PX moves. Up to MOVING_SHARE of the points are taken from those, the
    rest from the others; each next point is the candidate farthest from all that are taken.

    Args:
        frames: RGB.
        count: of points; fewer come where the picture has no more corners SPACING apart.

    Returns:
        Points with ids from FIRST_UNKNOWN on, the moving ones first.

    Raises:
        UserError: a picture without corners.
    """
    grey = cv2.cvtColor(frames[0], cv2.COLOR_RGB2GRAY)
    diagonal = float(np.hypot(*grey.shape))
    corners = cv2.goodFeaturesToTrack(grey, NUM_CANDIDATES, 0.01, max(3.0, 0.01 * diagonal))
    if corners is None:
        raise UserError(
            "No point of the first frame can be followed",
            expected="a picture with corners",
            got="a flat one",
            fix="give points or masks for this video, or leave it out",
        )
    # Beside the edge, a corner is seen only in part.
    candidates = np.clip(corners.reshape(-1, 2) + 0.5, 0.5, np.array(grey.shape[::-1]) - 0.5)
    tracked = track(frames, candidates, Options(num_features=0))
    often = tracked.visible.mean(axis=0) >= OFTEN
    if often.sum() < min(count, 3):
        often[:] = True
    moves = often & (_own_motion(tracked) > MOVES_PX)
    spacing = SPACING * diagonal
    chosen = _spread([], np.flatnonzero(moves), candidates, round(MOVING_SHARE * count), spacing)
    chosen = _spread(chosen, np.flatnonzero(often & ~moves), candidates, count, spacing)
    chosen = _spread(chosen, np.flatnonzero(moves), candidates, count, spacing)
    return Seeds(_unknown_ids(len(chosen)), candidates[chosen].astype(np.float32))


def _own_motion(tracked: Tracked) -> Float[Array, "p"]:
    """How far, while seen, points depart at most from the affine motion that most share, pixels."""
    start = tracked.points_px[0].astype(np.float64)
    columns = np.concatenate([start - start.mean(axis=0), np.ones((len(start), 1))], axis=1)
    prior = np.diag([1.0, 1.0, 1e-9])
    farthest = np.zeros(len(start))
    for there, seen in zip(tracked.points_px[1:], tracked.visible[1:], strict=True):
        moved = there - start
        apart = np.linalg.norm(moved - np.median(moved, axis=0), axis=1)
        for _ in range(20):
            weights = (1 / (1 + (apart / MOVES_PX) ** 2))[:, None]
            fit = np.linalg.solve(
                columns.T @ (weights * columns) + prior, columns.T @ (weights * moved)
            )
            apart = np.linalg.norm(columns @ fit - moved, axis=1)
        farthest = np.maximum(farthest, np.where(seen, apart, 0))
    return farthest


def _spread(
    chosen: list[int], candidates: Array, points: Array, count: int, spacing: float
) -> list[int]:
    """Adds candidates, each the farthest from all chosen ones, until there are `count`."""
    chosen = list(chosen)
    if not chosen and len(candidates) and count:
        chosen.append(int(candidates[0]))  # the best corner
    while len(chosen) < count and len(candidates):
        away = np.linalg.norm(points[candidates][:, None] - points[chosen][None], axis=2)
        nearest = away.min(axis=1)
        if nearest.max() < spacing:
            break
        chosen.append(int(candidates[nearest.argmax()]))
    return chosen


def _unknown_ids(count: int) -> tuple[int, ...]:
    return tuple(range(FIRST_UNKNOWN, FIRST_UNKNOWN + count))
