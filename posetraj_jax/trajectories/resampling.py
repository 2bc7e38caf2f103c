"""From tracks as they were drawn to one point for each frame of a video."""

import numpy as np

from posetraj_jax.errors import UserError, listed
from posetraj_jax.trajectories.spline import sample_spline
from posetraj_jax.trajectories.track import (
    MOST_POINTS,
    PLAIN,
    UNIT_SIZE,
    Array,
    Track,
    TrackFile,
    Trajectories,
)

ASPECT_TOLERANCE = 0.01


def resample(
    track_file: TrackFile,
    num_frames: int,
    size: tuple[int, int],
    *,
    start: int = 0,
    any_aspect: bool = False,
) -> Trajectories:
    """One point of every track for each frame, in pixels of a picture.

    A track of frames gives a window of its points; a spline is stretched over all frames, an anchor
    stays. A plain list is a track of frames if it has `num_frames` points, else a spline.

    Args:
        track_file: what was drawn.
        num_frames: at least 1.
        size: (height, width) of the picture.
        start: the first frame of the window; it concerns tracks of frames only.
        any_aspect: take tracks of a picture of another aspect ratio, and stretch them.

    Raises:
        UserError: tracks that are too short, all of them at once; a picture of another aspect
            ratio; numbers that make no sense.
    """
    if not 1 <= num_frames <= MOST_POINTS or start < 0:
        raise UserError(
            "The tracks cannot be resampled",
            expected=f"1 to {MOST_POINTS:,} frames, from a frame that is not negative",
            got=f"{num_frames} frames from {start} on",
            fix="choose other numbers",
        )
    _require_length(track_file, num_frames, start)
    if not any_aspect:
        _require_aspect(track_file.size, size)
    scale = np.array(size[::-1]) / track_file.size[::-1]
    points, visible = zip(
        *(_resample(track, num_frames, start, scale) for track in track_file.tracks), strict=True
    )
    return Trajectories(np.stack(points, axis=1), np.stack(visible, axis=1))


def kind_in(track: Track, num_frames: int) -> str:
    """The kind of a track in a video of so many frames: never PLAIN."""
    if track.kind != PLAIN:
        return track.kind
    return "frames" if len(track.points) == num_frames else "spline"


def _resample(track: Track, num_frames: int, start: int, scale: Array) -> tuple[Array, Array]:
    """Points [f 2] and visibility [f] of one track."""
    points, kind = np.array(track.points) * scale, kind_in(track, num_frames)
    if kind == "anchor":
        return np.repeat(points, num_frames, axis=0), np.ones(num_frames, bool)
    visible = np.array(track.visible or [True] * len(points))
    if kind == "frames":
        window = slice(start, start + num_frames)
        return points[window], visible[window]
    times = None if track.times is None else np.array(track.times)
    sampled, reached = sample_spline(points, np.linspace(0.0, 1.0, num_frames), times)
    return sampled, visible[reached]


def _require_length(track_file: TrackFile, num_frames: int, start: int) -> None:
    short = [
        f"track {number}: {len(track.points)} points"
        for number, track in enumerate(track_file.tracks)
        if kind_in(track, num_frames) == "frames" and len(track.points) < start + num_frames
    ]
    if short:
        raise UserError(
            "Tracks are shorter than the video",
            expected=f"{start + num_frames} points: {num_frames} frames from frame {start} on",
            got=listed(short),
            fix='ask for fewer frames, start earlier, or make them splines ("kind": "spline")',
        )


def same_aspect(one: tuple[int, int], other: tuple[int, int]) -> bool:
    """Whether two sizes (height, width) have one shape, to ASPECT_TOLERANCE."""
    return abs(one[1] * other[0] / (one[0] * other[1]) - 1) <= ASPECT_TOLERANCE


def _require_aspect(drawn: tuple[int, int], size: tuple[int, int]) -> None:
    """Both are (height, width)."""
    if drawn != UNIT_SIZE and not same_aspect(drawn, size):
        raise UserError(
            "The tracks were drawn on a picture of another aspect ratio",
            expected=f"that of the picture, {size[1]} x {size[0]}, to {ASPECT_TOLERANCE:.0%}",
            got=f"a size of {drawn[1]} x {drawn[0]} in the track file",
            fix="use the picture that the tracks were drawn on, or mend the size of the track file",
        )
