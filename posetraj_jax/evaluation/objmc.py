"""ObjMC: how far the tracks of a generated video are from those it was to follow."""

from collections.abc import Iterable, Mapping
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float

Array = np.ndarray

POINTS = ("all", "in_frame", "visible")
"""Which points count: all, also those far outside that a tracker extrapolated; those whose true
position is in the picture; those that are seen there."""


class Distances(NamedTuple):
    """Sums over points, so that those of several videos can be put together with +."""

    total: float
    """Of the generated tracks from the true ones, pixels."""
    static: float
    """Of the true first positions from the true ones: what a video without motion has."""
    count: int

    def __add__(self, other: "Distances") -> "Distances":
        return Distances(*(a + b for a, b in zip(self, other, strict=True)))

    @property
    def mean(self) -> float:
        """ObjMC, pixels; not a number where no point counts."""
        return self.total / self.count if self.count else float("nan")

    @property
    def static_mean(self) -> float:
        """ObjMC of a video without motion."""
        return self.static / self.count if self.count else float("nan")


NOTHING = Distances(0.0, 0.0, 0)

VideoDistances = dict[tuple[str, str], Distances]
"""(name of the pixels, one of `POINTS`) → sums of one video."""


def video_distances(
    true_px: Float[Array, "f p 2"],
    made_px: Float[Array, "f2 p2 2"],
    size: tuple[int, int],
    units: Mapping[str, tuple[int, int]],
    visible: Bool[Array, "f p"] | None = None,
) -> VideoDistances:
    """Distances of one video, over every frame, the first too.

    Args:
        true_px: the tracks that the video was to follow, (x, y).
        made_px: the same points, tracked in the generated video.
        size: (height, width) of the picture whose pixels both are in.
        units: (height, width) of the pictures in whose pixels to measure, by name. Rows and columns
            are stretched apart, where they have another shape.
        visible: which true points are seen; None where nobody knows, which leaves "visible" out.

    Raises:
        ValueError: Other frames or points in one than in the other: nothing is cut to fit.

    Source: DragAnything's ObjMC, whose tracks are those of all points in pixels of the original
        video. Differs: there, the shorter of two tracks decides.
    """
    if true_px.shape != made_px.shape:
        frames = [
            f"{len(tracks)} frames of {tracks.shape[1]} points" for tracks in (true_px, made_px)
        ]
        raise ValueError(f"tracks to follow have {frames[0]}, those of the video {frames[1]}")
    true, made = np.asarray(true_px, np.float64), np.asarray(made_px, np.float64)
    inside = ((true >= 0) & (true < size[::-1])).all(-1)
    counted = {"all": np.ones_like(inside), "in_frame": inside}
    if visible is not None:
        counted["visible"] = np.asarray(visible) & inside
    found = {}
    for name, unit in units.items():
        scale = np.array(unit[::-1]) / size[::-1]
        off = np.linalg.norm((made - true) * scale, axis=-1)
        still = np.linalg.norm((true[:1] - true) * scale, axis=-1)
        for points, mask in counted.items():
            sums = float(off[mask].sum()), float(still[mask].sum())
            found[name, points] = Distances(*sums, int(mask.sum()))
    return found


def together(videos: Iterable[VideoDistances]) -> VideoDistances:
    """Those of all videos: a mean over points, in which long and crowded videos weigh more."""
    found: VideoDistances = {}
    for video in videos:
        for key, distances in video.items():
            found[key] = found.get(key, NOTHING) + distances
    return found
