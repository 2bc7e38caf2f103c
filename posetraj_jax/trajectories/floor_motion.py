"""Motions over the floor, in metres, seen by a camera: a pose becomes a track.

Directions are angles in degrees, counter-clockwise as seen from above: 0 goes to the right, 90 away
from the camera.
"""

from typing import NamedTuple

import numpy as np
from jaxtyping import Float

from posetraj_jax.errors import UserError, listed
from posetraj_jax.trajectories import floor_paths
from posetraj_jax.trajectories.floor_camera import (
    FARTHEST_FLOOR_M,
    Array,
    FloorCamera,
    floor_point,
    project,
)
from posetraj_jax.trajectories.track import MOST_POINTS, Track, TrackFile

MOTIONS = ("circle", "S", "line")
MOST_TURN_DEG = 3_600.0
CORNERS = np.array([[n & 1, n >> 1 & 1, n >> 2 & 1] for n in range(8)])
"""Of a box: corner 4 z + 2 y + x, as everywhere in the data."""


class FloorMotion(NamedTuple):
    """What an object does on the floor."""

    kind: str = "circle"
    """One of MOTIONS."""
    radius_m: float = floor_paths.CIRCLE_RADIUS
    """Of the circle, or of both arcs of the S."""
    length_m: float = 2 * floor_paths.CIRCLE_RADIUS
    """Of the line."""
    angle_deg: float = 180.0
    """Of the arc, or of each of the two arcs of the S: first to the left, or if negative, first to
    the right."""
    direction_deg: float = 0.0
    """Where it starts to go."""
    heading_deg: float | None = None
    """Where the front of the object points all the time. None: where the object goes."""


class FloorTrack(NamedTuple):
    """A motion at equal steps of its length, one for each frame."""

    places: Float[Array, "f 2"]
    """(x, y) on the floor in metres, seen from above: x to the right, y away from the camera."""
    headings: Float[Array, "f 2"]
    """Where the front of the object points, of length 1."""
    tracks_px: Float[Array, "f 2"]
    """The places in the picture."""


def move_over_floor(
    camera: FloorCamera, motion: FloorMotion, start_px: tuple[float, float], num_frames: int
) -> FloorTrack:
    """The track of a motion that starts where a pixel shows the floor.

    Args:
        camera: that sees it.
        motion: what the object does.
        start_px: (x, y) of the start in the picture.
        num_frames: at least 2.

    Raises:
        UserError: there is no such motion, the pixel shows no floor, or the motion goes behind the
            camera.

    Source: the curves are those of PoseTraj-10K's paths, of any size and at any place.
    """
    _require_motion(motion, num_frames)
    path = _path(motion, num_frames)
    places = path.points - path.points[0] + floor_point(camera, start_px)
    headings = path.tangents
    if motion.heading_deg is not None:
        headings = np.tile(_unit(motion.heading_deg), (num_frames, 1))
    return FloorTrack(places, headings, project(camera, _on_floor(places)))


def floor_track_file(track: FloorTrack, camera: FloorCamera) -> TrackFile:
    """The track file with this one track, a point for each frame."""
    points = tuple(map(tuple, track.tracks_px.tolist()))
    return TrackFile(camera.size, (Track(points, "frames"),))


def arrows_px(camera: FloorCamera, track: FloorTrack, length_m: float) -> Float[Array, "f 2 2"]:
    """An arrow on the floor at each frame, from the place of the object to before its front."""
    tips = track.places + length_m * track.headings
    return project(camera, _on_floor(np.stack([track.places, tips], axis=1)))


def boxes_px(
    camera: FloorCamera, track: FloorTrack, sides_m: tuple[float, float, float]
) -> Float[Array, "f 8 2"]:
    """The corners of the box around the object at each frame, corner 4 z + 2 y + x.

    Args:
        camera: that sees it.
        track: where the middle of the box's bottom is.
        sides_m: width (x), depth (y) and height (z); the front of the object is its -y side, as in
            the dataset.
    """
    low = np.array([-0.5, -0.5, 0.0])
    across, front, up = np.moveaxis((CORNERS + low) * sides_m, -1, 0) * [[1.0], [-1.0], [1.0]]
    headings = track.headings[:, None]
    # The object's x axis is to the left of its front, as seen from above.
    left = np.stack([-headings[..., 1], headings[..., 0]], axis=-1)
    floor = track.places[:, None] + front[:, None] * headings + across[:, None] * left
    return project(camera, np.concatenate([floor, np.tile(up[:, None], (len(floor), 1, 1))], -1))


def _on_floor(places: Float[Array, "*n 2"]) -> Float[Array, "*n 3"]:
    return np.concatenate([places, np.zeros_like(places[..., :1])], axis=-1)


def _unit(angle_deg: float) -> Float[Array, "2"]:
    angle = np.deg2rad(angle_deg)
    return np.array([np.cos(angle), np.sin(angle)])


def _path(motion: FloorMotion, count: int) -> floor_paths.Path:
    """The path that begins in the motion's direction, somewhere on the floor."""
    direction, angle = np.deg2rad(motion.direction_deg), np.deg2rad(motion.angle_deg)
    if motion.kind == "line":
        return floor_paths.line_path(direction, count, length=motion.length_m)
    make = floor_paths.circle_path if motion.kind == "circle" else floor_paths.s_path
    # From the centre, the start lies to the right of a turn to the left.
    phase = direction - np.sign(angle) * np.pi / 2
    return make(phase, count, radius=motion.radius_m, angle=angle)


def _require_motion(motion: FloorMotion, num_frames: int) -> None:
    problems = []
    if motion.kind not in MOTIONS:
        problems.append(f"motion {motion.kind!r}: not one of {', '.join(MOTIONS)}")
    for name, metres in (("radius", motion.radius_m), ("length", motion.length_m)):
        if not 0 < metres <= FARTHEST_FLOOR_M:
            problems.append(f"{name} {metres}: not above 0 and up to {FARTHEST_FLOOR_M:,.0f} m")
    if not 0 < abs(motion.angle_deg) <= MOST_TURN_DEG:
        problems.append(f"angle {motion.angle_deg}: not up to {MOST_TURN_DEG:,.0f} degrees, or 0")
    for name, degrees in (("direction", motion.direction_deg), ("heading", motion.heading_deg)):
        if degrees is not None and not np.isfinite(degrees):
            problems.append(f"{name} {degrees}: not finite")
    if not 2 <= num_frames <= MOST_POINTS:
        problems.append(f"{num_frames} frames: not from 2 to {MOST_POINTS:,}")
    if problems:
        raise UserError(
            "There is no such motion",
            expected="a motion over the floor in metres and degrees",
            got=listed(problems),
            fix="mend these numbers",
        )
