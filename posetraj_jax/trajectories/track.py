"""Tracks as they were drawn, and as the frames of a video show them.

`size` is (height, width) in Python, as everywhere in the package; only the file says [w, h].
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float

Array = np.ndarray

KINDS = ("frames", "spline", "anchor")
PLAIN = "plain"
"""The kind of a track that is only a list: frames if it is as long as the video, else a spline."""
UNIT_SIZE = (1, 1)
"""Coordinates in [0, 1] of any picture, the same along both sides."""

MOST_SIDE_PX = 16_384
MOST_TRACKS = 256
MOST_POINTS = 10_000
"""Of one track; and the most frames that tracks are resampled to."""
PIXEL_DECIMALS, UNIT_DECIMALS = 2, 6


class Track(NamedTuple):
    """One track as it was drawn; plain numbers, so that tracks compare with ==."""

    points: tuple[tuple[float, float], ...]
    """(x, y) in pixels of `TrackFile.size`, pixel centres at 0.5."""
    kind: str
    """One of KINDS, or PLAIN."""
    times: tuple[float, ...] | None = None
    """For a spline: when each control point is reached, from 0, the first frame, to 1, the last
    one. None: constant speed."""
    visible: tuple[bool, ...] | None = None
    """For each point; None: always. A spline's holds until the next control point."""


class TrackFile(NamedTuple):
    """Everything that a track file says; written and read again it is the same."""

    size: tuple[int, int]
    """(height, width) of the picture that points are pixels of, or UNIT_SIZE."""
    tracks: tuple[Track, ...]


class Trajectories(NamedTuple):
    """Tracks as a video shows them: one point for each frame."""

    tracks_px: Float[Array, "f p 2"]
    """(x, y) in pixels of the size that was asked for; they may lie outside."""
    visible: Bool[Array, "f p"]


def rounded(track_file: TrackFile) -> TrackFile:
    """The same tracks with the decimals that anybody can see: 2 in pixels, 6 in [0, 1]."""
    decimals = UNIT_DECIMALS if track_file.size == UNIT_SIZE else PIXEL_DECIMALS
    return track_file._replace(
        tracks=tuple(
            track._replace(points=_pairs(np.round(np.array(track.points), decimals)))
            for track in track_file.tracks
        )
    )


def inside(points: Sequence, size: tuple[int, int]) -> Bool[Array, "n"]:
    """Which points (x, y) lie in a picture of this (height, width), its border included."""
    return np.all((np.array(points) >= 0) & (np.array(points) <= size[::-1]), axis=-1)


def _pairs(points: Array) -> tuple[tuple[float, float], ...]:
    return tuple(map(tuple, np.asarray(points, np.float64).tolist()))
