"""Corners of the background, followed through all frames of a clip.

Corners are spread evenly over the picture, so that what is rich in texture does not outvote what
is large: a printed box in a hand has more corners than the room behind it. Pyramidal Lucas-Kanade
follows them from frame to frame and back again; those that do not return to where they started are
lost. It searches near where the corner was, so that one tile of a floor is seldom taken for
another, as descriptors do. Where a corner is lost, new ones are sought.
"""

from collections.abc import Sequence
from typing import NamedTuple

import cv2
import numpy as np
from jaxtyping import Bool, Float, Int, UInt8, UInt16

from posetraj_jax.errors import UserError

Array = np.ndarray

CELLS_ACROSS = 16
"""Columns of the grid that corners are spread over; its cells are about square."""
PER_CELL = 12
"""Corners that are followed at once in a cell, at most."""
APART_PX = 5
"""Two corners are not sought closer than this."""
BORDER_PX = 4
"""Nor so close to the border of the picture, or followed there."""
WINDOW_PX, LEVELS = 27, 4
"""Side of the window that is compared, and how often the picture is halved below full size."""
LEVELS_NEAR = 1
"""The same once the motion of most of the picture is taken out."""
RETURN_PX = 0.25
"""How far from its start a corner may end when it is followed forwards and then backwards."""
FEWEST_ANCHORED = 6
"""Corners with one anchor frame for which it is worth to look at that frame again."""
DRIFT_PX = 1.5
"""What following from frame to frame may be wrong by; what is farther off is something else."""
CORNER_BLOCK = 9
LEAST_CORNER = 2e-4
"""Least eigenvalue of the gradients' covariance that makes a corner: about 2 grey levels per pixel
in every direction, which neither sensor noise nor JPEG reaches on a flat wall."""
MASK_MARGIN = 0.02
"""How much masks grow, in widths of the picture: half a window, so that none looks inside."""
FEWEST = 24
"""Corners that every frame must share with the next: fewer say nothing sure of a camera."""
LEAST_KEPT = 0.2
"""Share of the corners of a frame that must be found in the next; at a cut it is far less."""


def moving_regions(
    masks: UInt8[Array, "f h w"] | UInt16[Array, "f h w"], height: int, width: int
) -> Bool[Array, "f height width"]:
    """Masks (nonzero = may move) at the size of the work, grown by MASK_MARGIN."""
    side = 2 * round(MASK_MARGIN * width) + 1
    kernel = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (side, side))
    small = [
        cv2.resize((mask > 0).astype(np.uint8), (width, height), interpolation=cv2.INTER_AREA)
        if mask.shape == (height, width)
        else _shrunk(mask, height, width)
        for mask in masks
    ]
    return np.stack([cv2.dilate(mask, kernel) > 0 for mask in small])


def _shrunk(mask: Array, height: int, width: int) -> Array:
    """What is covered at all stays covered, however small."""
    share = cv2.resize((mask > 0).astype(np.float32), (width, height), interpolation=cv2.INTER_AREA)
    return (share > 0).astype(np.uint8)


def follow(
    greys: Sequence[UInt8[Array, "h w"]],
    moving: Bool[Array, "f h w"] | None,
    name: str,
) -> Float[Array, "f p 2"]:
    """Follows corners through all frames.

    Args:
        greys: frames of one size.
        moving: where nothing is followed; None = nowhere.
        name: of the video, for errors.

    Returns:
        Where each corner is, (x, y) in pixels, pixel centres at 0.5; NaN in frames in which it is
        not seen. Each is seen in a run of at least two frames.

    Raises:
        UserError: naming the frame that has too few corners, or that shares too few with the frame
            before it.
    """
    free = [_free(grey, None if moving is None else moving[t]) for t, grey in enumerate(greys)]
    alive = _Alive(*(np.empty(0, int) for _ in range(2)), *(np.empty((0, 2)) for _ in range(2)))
    warps: list[Array] = []
    count, seen = 0, []
    for t, grey in enumerate(greys):
        if t:
            before = len(alive.numbers)
            points, kept, warp = _followed(greys[t - 1], grey, alive.points, free[t])
            warps = [warp @ earlier for earlier in [*warps, np.eye(3)]]
            alive = _Alive(*(column[kept] for column in alive))._replace(points=points)
            alive = _anchored(alive, greys, t, warps)
            _require_kept(len(kept), before, t, name)
        new = _new_corners(grey, free[t], alive.points)
        alive = alive.joined(np.arange(count, count + len(new)), new, t)
        count += len(new)
        _require_corners(len(alive.numbers), free[t], t, name)
        seen.append((alive.numbers, alive.points))
    return _as_table(seen, count)


class _Alive(NamedTuple):
    """Corners that the present frame shows."""

    numbers: Int[Array, "n"]
    anchors: Int[Array, "n"]
    """The frame whose picture of a corner is the measure of where it is."""
    starts: Float[Array, "n 2"]
    """Where it is in that frame."""
    points: Float[Array, "n 2"]
    """Where it is now."""

    def joined(self, numbers: Array, points: Array, frame: int) -> "_Alive":
        """These and new ones."""
        new = (numbers, np.full(len(numbers), frame), points, points)
        return _Alive(*(np.concatenate(pair) for pair in zip(self, new, strict=True)))


def _anchored(alive: _Alive, greys: Sequence[Array], frame: int, warps: list[Array]) -> _Alive:
    """The corners where they look most as in their anchor frame, so that errors do not add up.

    `warps` take each earlier frame to this one. A corner that has come to look otherwise gets this
    frame as its anchor.
    """
    points, anchors, starts = (x.copy() for x in (alive.points, alive.anchors, alive.starts))
    for anchor in np.unique(anchors[anchors < frame - 1]):
        which = np.flatnonzero(anchors == anchor)
        if len(which) < FEWEST_ANCHORED:
            continue
        warp = warps[anchor]
        guess = _warped(points[which], np.linalg.inv(warp))
        unmoved = _unmoved(greys[frame], warp)
        near, good = _there_and_back(greys[anchor], unmoved, starts[which], guess, LEVELS_NEAR)
        again = _warped(near, warp)
        good &= np.linalg.norm(again - points[which], axis=1) < DRIFT_PX
        points[which[good]] = again[good]
        anchors[which[~good]], starts[which[~good]] = frame, points[which[~good]]
    return alive._replace(points=points, anchors=anchors, starts=starts)


def _as_table(seen: list[tuple[Array, Array]], count: int) -> Array:
    table = np.full((len(seen), count, 2), np.nan)
    for t, (numbers, points) in enumerate(seen):
        table[t, numbers] = points + 0.5  # OpenCV counts from the centre of the first pixel
    return table[:, np.isfinite(table[..., 0]).sum(axis=0) >= 2]


def _free(grey: Array, moving: Array | None) -> Array:
    """Where corners may be."""
    free = np.zeros(grey.shape, bool)
    free[BORDER_PX:-BORDER_PX, BORDER_PX:-BORDER_PX] = True
    return free if moving is None else free & ~moving


def _new_corners(grey: Array, free: Array, alive: Array) -> Array:
    """Corners [n 2] that fill up the cells of the grid, strongest first."""
    height, width = grey.shape
    strength = cv2.cornerMinEigenVal(grey, CORNER_BLOCK)
    peak = strength >= cv2.dilate(strength, np.ones((2 * APART_PX + 1,) * 2, np.uint8))
    allowed = free.astype(np.uint8)
    for x, y in np.rint(alive).astype(int):
        cv2.circle(allowed, (int(x), int(y)), APART_PX, 0, -1)
    rows, columns = np.nonzero(peak & (strength > LEAST_CORNER) & (allowed > 0))
    order = np.argsort(-strength[rows, columns], kind="stable")
    points = np.stack([columns, rows], axis=1)[order].astype(np.float32)
    taken = np.bincount(cells_of(alive, height, width), minlength=_num_cells(height, width))
    chosen = []
    for point, cell in zip(points, cells_of(points, height, width), strict=True):
        if taken[cell] < PER_CELL:
            taken[cell] += 1
            chosen.append(point)
    return np.array(chosen, np.float32).reshape(-1, 2)


def cells_of(points_px: Float[Array, "*n 2"], height: int, width: int) -> Array:
    """The number of the grid's cell that each point is in."""
    side = width / CELLS_ACROSS
    rows = int(np.ceil(height / side))
    column = np.clip(points_px[..., 0] // side, 0, CELLS_ACROSS - 1).astype(int)
    row = np.clip(points_px[..., 1] // side, 0, rows - 1).astype(int)
    return row * CELLS_ACROSS + column


def area_weights(tracks_px: Float[Array, "f p 2"], height: int, width: int) -> Float[Array, "f p"]:
    """Weights with which each cell of the grid that shows corners counts the same in each frame."""
    weights = np.zeros(tracks_px.shape[:2])
    for frame, points in enumerate(tracks_px):
        seen = np.isfinite(points[:, 0])
        _, cell, counts = np.unique(
            cells_of(points[seen], height, width), return_inverse=True, return_counts=True
        )
        weights[frame, seen] = 1.0 / counts[cell]
    return weights


def _num_cells(height: int, width: int) -> int:
    return CELLS_ACROSS * int(np.ceil(height / (width / CELLS_ACROSS)))


def _followed(one: Array, two: Array, points: Array, free: Array) -> tuple[Array, Array, Array]:
    """Where the points of one frame are in the next, which these are, and how most moved.

    Returns:
        [n 2], numbers [n] of the points that were found, and a homography [3 3].
    """
    there, kept = _there_and_back(one, two, points, points, LEVELS)
    warp = None
    if kept.sum() >= FEWEST:
        warp, _ = cv2.findHomography(points[kept], there[kept], cv2.USAC_MAGSAC, 3.0)
    if warp is None:
        warp = np.eye(3)
    else:
        # With the motion of most taken out, windows are not distorted, what moved far is found,
        # and what was taken for its neighbour (tiles!) is corrected.
        near, better = _there_and_back(one, _unmoved(two, warp), points, points, LEVELS_NEAR)
        there, kept = np.where(better[:, None], _warped(near, warp), there), kept | better
    kept &= _at(free, there)
    return there[kept], np.flatnonzero(kept), warp


def _unmoved(grey: Array, warp: Array) -> Array:
    """A picture as it would look if what moved by a homography had not."""
    flags = cv2.INTER_CUBIC | cv2.WARP_INVERSE_MAP
    size = grey.shape[::-1]
    return cv2.warpPerspective(grey, warp, size, flags=flags, borderMode=cv2.BORDER_REPLICATE)


def _warped(points: Array, warp: Array) -> Array:
    return cv2.perspectiveTransform(points[None].astype(np.float64), warp)[0]


def _there_and_back(
    one: Array, two: Array, points: Array, guess: Array, levels: int
) -> tuple[Array, Array]:
    """Where points of one picture are in another [n 2], and which of them find back [n]."""
    if not len(points):
        return np.empty((0, 2)), np.empty(0, bool)
    options = {
        "winSize": (WINDOW_PX, WINDOW_PX),
        "maxLevel": levels,
        "criteria": (cv2.TERM_CRITERIA_EPS | cv2.TERM_CRITERIA_COUNT, 40, 0.005),
        "flags": cv2.OPTFLOW_USE_INITIAL_FLOW,
        "minEigThreshold": 1e-4,
    }
    points, guess = points.astype(np.float32), guess.astype(np.float32)
    there, found, _ = cv2.calcOpticalFlowPyrLK(one, two, points, guess.copy(), **options)
    start = there - (guess - points)
    back, returned, _ = cv2.calcOpticalFlowPyrLK(two, one, there, start, **options)
    near = np.linalg.norm(back - points, axis=1) < RETURN_PX
    return there.astype(np.float64), (found[:, 0] > 0) & (returned[:, 0] > 0) & near


def _at(picture: Array, points: Array) -> Array:
    """Values of a picture [h w] at points; False outside."""
    columns, rows = np.rint(np.nan_to_num(points, nan=-1.0)).astype(int).T
    inside = (columns >= 0) & (rows >= 0) & (columns < picture.shape[1]) & (rows < picture.shape[0])
    return inside & picture[np.where(inside, rows, 0), np.where(inside, columns, 0)]


def _require_corners(count: int, free: Array, frame: int, name: str) -> None:
    if count >= FEWEST:
        return
    covered = 1.0 - free.mean()
    raise UserError(
        f"The camera of {name} cannot be estimated: frame {frame} shows too little",
        expected=f"at least {FEWEST} corners of what stands still",
        got=f"{count}, with {covered:.0%} of the picture masked or at its border",
        fix="use another video or other frames, or masks that leave more of the background",
    )


def _require_kept(count: int, before: int, frame: int, name: str) -> None:
    if count >= max(FEWEST, LEAST_KEPT * before):
        return
    raise UserError(
        f"The camera of {name} cannot be estimated: "
        f"frame {frame} does not follow frame {frame - 1}",
        expected=f"at least {LEAST_KEPT:.0%} of its corners, and {FEWEST}, found again",
        got=f"{count} of {before}: a cut, motion that is too fast, or too little texture",
        fix="split the video there, use more frames per second, or other masks",
    )
