"""Pictures and track files that somebody uploads: checked, and at the size of the video."""

import base64
import io
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import UInt8
from PIL import Image

from posetraj_jax import video
from posetraj_jax.errors import UserError
from posetraj_jax.sampling import Settings
from posetraj_jax.sampling.inputs import fit, fit_points
from posetraj_jax.trajectories import (
    UNIT_SIZE,
    Track,
    TrackFile,
    as_json,
    parse_tracks,
    read_tracks,
    rounded,
)
from posetraj_jax.trajectories.resampling import kind_in, same_aspect

MB = 1 << 20
MOST_BYTES = 30 * MB
MOST_PIXELS = 50_000_000
"""Those of telephones have up to 48 million; many people's pictures share this machine."""
SHOWN_QUALITY = 92


class Opened(NamedTuple):
    """A picture that tracks are drawn on."""

    image_uint8: UInt8[np.ndarray, "h w 3"]
    """As the video begins."""
    picture_size: tuple[int, int]
    """(height, width) of the file that it is part of."""

    @property
    def size(self) -> tuple[int, int]:
        """(height, width) of what the page shows."""
        return self.image_uint8.shape[:2]

    def of(self, settings: Settings) -> Settings:
        """Settings of a video of this picture."""
        return replace(settings, height=self.size[0], width=self.size[1])


def open_picture(path: Path | str, settings: Settings) -> Opened:
    """Reads a picture that was uploaded; an upright one makes an upright video.

    Raises:
        UserError: with the file's name and no path.
    """
    path = Path(path)
    _require_bytes(path, "picture")
    with _named(path):
        picture = video.read_image(path, MOST_PIXELS)
    height, width = picture.shape[:2]
    if (height - width) * (settings.height - settings.width) < 0:
        settings = replace(settings, height=settings.width, width=settings.height)
    fitted, _ = fit(picture, np.zeros((0, 0, 2)), settings)
    return Opened(fitted, (height, width))


def open_tracks(path: Path | str, opened: Opened, settings: Settings) -> TrackFile:
    """Reads tracks that were uploaded, in pixels of what the page shows.

    Args:
        path: of a track file in any form. A size of the shape that the page shows is that; other
            sizes, and forms without one, are of the picture's file.
        opened: the picture that they are for.
        settings: of the video.

    Raises:
        UserError: with the file's name and no path.
    """
    path = Path(path)
    _require_bytes(path, "track file")
    with _named(path):
        given = read_tracks(path, opened.picture_size)
        tracks = tuple(_onto_page(track, given.size, opened, settings) for track in given.tracks)
        moved = rounded(TrackFile(opened.size, tracks))
        return parse_tracks(as_json(moved), name=str(path))


def as_drawn(content: Any, opened: Opened | None) -> TrackFile:
    """The tracks that the page sends, which are what a track file holds; raises UserError."""
    if opened is None:
        raise UserError(
            "There is no picture yet",
            expected="a picture with tracks on it",
            got="no picture",
            fix="open a picture, or choose an example",
        )
    if not content or (isinstance(content, dict) and content.get("tracks") == []):
        raise UserError(
            "Nothing is drawn yet",
            expected="one track or more, which say where parts of the picture go",
            got="none",
            fix="click or drag on the picture",
        )
    return parse_tracks(content, opened.size, name="those drawn")


def as_url(picture_uint8: UInt8[np.ndarray, "h w 3"]) -> str:
    """A picture as text that a browser shows; slightly lossy."""
    data = io.BytesIO()
    Image.fromarray(picture_uint8).save(data, "JPEG", quality=SHOWN_QUALITY)
    return "data:image/jpeg;base64," + base64.b64encode(data.getvalue()).decode()


def _onto_page(
    track: Track, drawn_on: tuple[int, int], opened: Opened, settings: Settings
) -> Track:
    """A track where the page shows it, of one of the three kinds."""
    points = np.array(track.points)
    if drawn_on != UNIT_SIZE and same_aspect(drawn_on, opened.size):
        moved = points * (np.array(opened.size[::-1]) / drawn_on[::-1])
    elif drawn_on == UNIT_SIZE or same_aspect(drawn_on, opened.picture_size):
        scaled = points * (np.array(opened.picture_size[::-1]) / drawn_on[::-1])
        moved = fit_points(scaled, opened.picture_size, opened.of(settings))
    else:
        sizes = [f"{width} x {height}" for height, width in (opened.size, opened.picture_size)]
        raise UserError(
            "The tracks were drawn on a picture of another shape",
            expected=f"the shape of {' or '.join(dict.fromkeys(sizes))}",
            got=f"a size of {drawn_on[1]} x {drawn_on[0]} in the track file",
            fix="open the picture that the tracks were drawn on",
        )
    pairs = tuple((float(x), float(y)) for x, y in moved)
    return track._replace(points=pairs, kind=kind_in(track, settings.num_frames))


def _require_bytes(path: Path, what: str) -> None:
    size = path.stat().st_size
    if size > MOST_BYTES:
        raise UserError(
            f"The {what} is too large: {path.name}",
            expected=f"at most {MOST_BYTES // MB} MB",
            got=f"{size / MB:,.1f} MB",
            fix="make it smaller",
        )


@contextmanager
def _named(path: Path) -> Iterator[None]:
    """Errors within name the file as its owner does, and not where it lies on the server."""
    try:
        yield
    except UserError as error:
        what, expected, got, fix = (
            text.replace(str(path), path.name)
            for text in (error.what, error.expected, error.got, error.fix)
        )
        raise UserError(what, expected=expected, got=got, fix=fix) from error
