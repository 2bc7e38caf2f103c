"""Draws tracks over a picture, for people: what was drawn, and where each frame finds it."""

import numpy as np
from jaxtyping import Float, UInt8
from PIL import Image, ImageDraw, ImageFont

from posetraj_jax.trajectories.resampling import kind_in, resample
from posetraj_jax.trajectories.spline import trace_spline
from posetraj_jax.trajectories.track import Array, TrackFile
from posetraj_jax.video import draw_dot, draw_path, track_colours

Colour = tuple[int, int, int]

BLACK, WHITE = (0, 0, 0), (255, 255, 255)
SIDE_PER_UNIT = 200
"""One unit of thickness per so many pixels of the shorter side."""
ARROW = np.array([[-10.0, 6.0], [0.0, 0.0], [-10.0, -6.0]])
"""Barb, tip and barb in units; it points along x."""
NUMBER_UNITS, NUMBER_AWAY = 8, 10
"""Height of a number, and how far its middle is from the start, in units."""
MOST_SQUARES = 200
"""Of one spline; of more control points some are marked, evenly."""


def draw_preview(
    image_uint8: UInt8[Array, "h w 3"],
    track_file: TrackFile,
    num_frames: int,
    *,
    start: int = 0,
    any_aspect: bool = False,
) -> UInt8[Array, "h w 3"]:
    """The picture with all tracks over it, each with a colour and the number it has in the file.

    A line is the whole path and its arrow the end. Dots are the frames, hollow where the track is
    hidden; white squares are the control points of splines, a ring is an anchor.

    Args:
        image_uint8: RGB.
        track_file: what to draw.
        num_frames: that the video has; `start` and `any_aspect` are those of `resample`.

    Raises:
        UserError: as `resample`.
    """
    size = image_uint8.shape[:2]
    sampled = resample(track_file, num_frames, size, start=start, any_aspect=any_aspect)
    drawn, unit = image_uint8.copy(), unit_of(size)
    scale = np.array(size[::-1]) / track_file.size[::-1]
    colours = track_colours(len(track_file.tracks))
    for number, (track, colour) in enumerate(zip(track_file.tracks, colours, strict=True)):
        points, visible = sampled.tracks_px[:, number], sampled.visible[:, number]
        kind, control = kind_in(track, num_frames), np.array(track.points) * scale
        if kind == "anchor":
            _ring(drawn, points[0], colour, unit)
            continue
        path = trace_spline(control) if kind == "spline" else points
        _line(drawn, path, colour, unit)
        if kind == "spline":
            _squares(drawn, control[:: -(-len(control) // MOST_SQUARES)], unit)
        _dots(drawn, points, visible, colour, unit)
    return _numbered(drawn, sampled.tracks_px, colours, unit)


def unit_of(size: tuple[int, int]) -> int:
    """How thick lines are in a picture of (height, width), pixels."""
    return max(1, round(min(size) / SIDE_PER_UNIT))


def _line(picture: Array, path: Float[Array, "m 2"], colour: Colour, unit: int) -> None:
    arrow = _arrow(path, unit)
    for ink, extra in ((BLACK, 2 * unit), (colour, 0)):
        draw_path(picture, path, ink, unit + extra)
        if arrow is not None:
            draw_path(picture, arrow, ink, unit + extra)


def _arrow(path: Float[Array, "m 2"], unit: int) -> Float[Array, "3 2"] | None:
    """Barb, tip and barb at the end of a path; None for one that goes nowhere."""
    far = np.hypot(*(path[-1] - path).T) > 2 * unit
    if not far.any():
        return None
    along = path[-1] - path[np.flatnonzero(far)[-1]]
    along = along / np.hypot(*along)
    turn = np.array([along, [-along[1], along[0]]])
    return path[-1] + unit * ARROW @ turn


def _dots(
    picture: Array, points: Float[Array, "f 2"], visible: Array, colour: Colour, unit: int
) -> None:
    for point, seen in zip(points, visible, strict=True):
        draw_dot(picture, point, BLACK, 2 * unit + 1)
        draw_dot(picture, point, colour, 2 * unit)
        if not seen:
            draw_dot(picture, point, BLACK, unit)


def _squares(picture: Array, points: Float[Array, "n 2"], unit: int) -> None:
    for radius, ink in ((3 * unit + 1, BLACK), (3 * unit, WHITE)):
        corners = radius * np.array([[-1, -1], [1, -1], [1, 1], [-1, 1], [-1, -1]])
        for point in points:
            draw_path(picture, point + corners, ink, unit)


def _ring(picture: Array, point: Float[Array, "2"], colour: Colour, unit: int) -> None:
    for radius, ink in (
        (5 * unit, BLACK),
        (5 * unit - 1, colour),
        (3 * unit, BLACK),
        (2 * unit, WHITE),
    ):
        draw_dot(picture, point, ink, radius)


def _numbered(
    picture: Array, tracks_px: Float[Array, "f p 2"], colours: list[Colour], unit: int
) -> UInt8[Array, "h w 3"]:
    """The picture with the number of each track beside its start."""
    image = Image.fromarray(picture)
    draw = ImageDraw.Draw(image)
    font = ImageFont.load_default(NUMBER_UNITS * unit)
    for number, colour in enumerate(colours):
        middle = _free_place(tracks_px[:, number], np.array(image.size), unit)
        draw.text(
            tuple(middle),
            str(number),
            colour,
            font=font,
            anchor="mm",
            stroke_width=unit,
            stroke_fill=BLACK,
        )
    return np.array(image)


def _free_place(points: Float[Array, "f 2"], limit: Array, unit: int) -> Float[Array, "2"]:
    """A place in the picture behind the start, or beside it, where the path does not go at once."""
    away = points - points[0]
    far = np.flatnonzero(np.hypot(*away.T) > unit)
    ahead = away[far[0]] / np.hypot(*away[far[0]]) if len(far) else np.array([-0.7, 0.7])
    aside = np.array([ahead[1], -ahead[0]])
    margin = NUMBER_UNITS * unit / 2 + unit
    low, high = np.full(2, margin), np.maximum(margin, limit - margin)
    sides = (-ahead, aside, -aside)
    places = [np.clip(points[0] + NUMBER_AWAY * unit * side, low, high) for side in sides]
    return max(places, key=lambda place: round(np.hypot(*(points - place).T).min() / unit))
