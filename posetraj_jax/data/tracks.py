"""Draws what the network sees of a trajectory (maps) and of a pose (the 3D box). numpy and OpenCV.

Lines and discs are OpenCV's, 8-connected and not antialiased, because the official maps are made of
exactly these pixels; OpenCV 4.8 and 5.0 draw the same ones.
"""

import cv2
import numpy as np
from jaxtyping import Bool, Float, UInt8

from posetraj_jax.data.track_file import VIPSegTracks, read_vipseg

__all__ = ["VIPSegTracks", "draw_boxes", "draw_line", "draw_maps", "read_vipseg"]

Array = np.ndarray

RED, GREEN, BLUE = (255, 0, 0), (0, 255, 0), (0, 0, 255)
LINE_THICKNESS = 3
DOT_RADIUS = 3
COLOURS = ("red", "alternating")

BOX_EDGES = tuple(
    (corner, corner | bit) for bit in (1, 2, 4) for corner in range(8) if not corner & bit
)
"""The 12 edges of a box: the pairs of corners 4 z + 2 y + x that differ in one of x, y, z."""

FAR = 1 << 14
"""Pixels beyond which a line is cut before drawing: 8 times a large picture, and 1/2^17 of the
range in which OpenCV's integers are safe. Real tracks reach 10^5."""


def draw_maps(
    tracks_px: Float[Array, "f p 2"],
    stored_size: tuple[int, int],
    size: tuple[int, int],
    *,
    colours: str = "red",
    visible: Bool[Array, "f p"] | None = None,
) -> UInt8[Array, "f h w 3"]:
    """Draws the trajectory maps of a window: RGB on black, one per frame.

    Map t is the segment from frame t to t + 1 of every track, a line of thickness 3, and then a
    green disc of radius 3 at its end; later tracks lie over earlier ones. The last map is black.

    Args:
        tracks_px: points (x, y) in pixels of the stored frames; they may lie outside the picture.
        stored_size: (height, width) of the stored frames.
        size: (height, width) of the maps.
        colours: of the lines. 'red'; or 'alternating': red where the number of tracks from this one
            to the last is odd, else blue.
        visible: if given, segments are left out unless both ends are visible.

    Source: the official training drawing; 'alternating' is its effect of swapping red and blue once
        per track (its sampling draws red). Coordinates are divided, multiplied, then truncated
        towards zero, in that order.
    Differs: far points are cut to a window around the picture, so no integer overflows.
    """
    if colours not in COLOURS:
        raise ValueError(f"colours is one of {COLOURS}, not {colours!r}")
    num_frames, num_tracks, _ = tracks_px.shape
    scaled = np.asarray(tracks_px, np.float64) / stored_size[::-1] * size[::-1]
    points = np.trunc(scaled)
    maps = np.zeros((num_frames, *size, 3), np.uint8)
    for t in range(num_frames - 1):
        for track in range(num_tracks):
            if visible is not None and not visible[t : t + 2, track].all():
                continue
            red = colours == "red" or (num_tracks - track) % 2 == 1
            start, end = points[t, track], points[t + 1, track]
            draw_line(maps[t], start, end, RED if red else BLUE, LINE_THICKNESS)
            if _near(end):
                cv2.circle(maps[t], _as_point(end), DOT_RADIUS, GREEN, thickness=-1)
    return maps


def draw_boxes(
    frames: UInt8[Array, "f h w 3"], box_px: Float[Array, "f o 8 2"], thickness: int = 2
) -> UInt8[Array, "f h w 3"]:
    """Returns copies of the frames with all 12 edges of every box in red, hidden ones too.

    Args:
        frames: RGB frames.
        box_px: corners (x, y) in pixels of these frames, corner 4 z + 2 y + x.
        thickness: of the edges, pixels.

    Source: the official figures; the official drawing code is not published.
    """
    boxed = frames.copy()
    for frame, boxes in zip(boxed, np.trunc(np.asarray(box_px, np.float64)), strict=True):
        for corners in boxes:
            for first, second in BOX_EDGES:
                draw_line(frame, corners[first], corners[second], RED, thickness)
    return boxed


def draw_line(
    picture: UInt8[Array, "h w 3"],
    start: Float[Array, "2"],
    end: Float[Array, "2"],
    colour: tuple[int, int, int],
    thickness: int,
) -> None:
    """Draws one line into a picture; its ends, whole pixels (x, y), may be any finite numbers."""
    if not (_near(start) and _near(end)):
        cut = _cut(start, end)
        if cut is None:
            return
        start, end = cut
    cv2.line(picture, _as_point(start), _as_point(end), colour, thickness)


def _near(point: Array) -> bool:
    return bool(np.abs(point).max() <= FAR)


def _as_point(point: Array) -> tuple[int, int]:
    return int(point[0]), int(point[1])


def _cut(start: Array, end: Array) -> tuple[Array, Array] | None:
    """The part of a segment inside |x|, |y| <= FAR, or None (Liang and Barsky's algorithm)."""
    step = end - start
    first, last = 0.0, 1.0
    for axis in (0, 1):
        if step[axis] == 0:
            if abs(start[axis]) > FAR:
                return None
            continue
        bounds = np.sort((np.array([-FAR, FAR]) - start[axis]) / step[axis])
        first, last = max(first, bounds[0]), min(last, bounds[1])
    if first > last:
        return None
    return np.rint(start + first * step), np.rint(start + last * step)
