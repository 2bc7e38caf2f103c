"""Reads and writes the one file format of tracks; docs/tracks.md describes it with examples."""

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from posetraj_jax import json_file
from posetraj_jax.data import track_file as vipseg
from posetraj_jax.errors import UserError, listed
from posetraj_jax.json_file import name_of
from posetraj_jax.new_files import new_files
from posetraj_jax.trajectories.checks import (
    key_problems,
    place_problem,
    size_problem,
    track_problems,
    unit_problem,
)
from posetraj_jax.trajectories.track import MOST_TRACKS, PLAIN, Track, TrackFile

FILE_KEYS = ("size", "tracks")
LIKE_ID = re.compile(r"\s*[-+]?[0-9]+\s*")
MOST_DEPTH = 8
"""Lists and objects within each other; a track file has five."""
EXPECTED = '{"size": [w, h], "tracks": [[[x, y], ...], ...]}, or another form of docs/tracks.md'
FIX = "mend what is named above; docs/tracks.md has an example of every form"


def read_tracks(path: Path | str, picture_size: tuple[int, int] | None = None) -> TrackFile:
    """Reads a track file, the official JSON of VIPSeg, or a bare list of points or of tracks.

    Args:
        path: of a JSON file.
        picture_size: (height, width) of the picture that forms without a size are in pixels of.

    Raises:
        UserError: naming the file and all that is wrong with it.
    """
    path = Path(path)
    return parse_tracks(json_file.read_object_or_list(path, FIX), picture_size, name=str(path))


def parse_tracks(
    content: Any, picture_size: tuple[int, int] | None = None, *, name: str = "given tracks"
) -> TrackFile:
    """The tracks of what a track file holds, as `json` reads it.

    Args:
        content: in any of the forms that `read_tracks` reads.
        picture_size: as for `read_tracks`.
        name: of the file, for errors.

    Raises:
        UserError: naming all that is wrong.
    """
    if type(content) is dict and not _is_vipseg(content):
        problems = list(key_problems(content, FILE_KEYS))
        size, tracks = content.get("size"), content.get("tracks")
    else:  # the forms that state no size
        size = None if picture_size is None else list(picture_size[::-1])
        problems, tracks = [], _bare_tracks(content, name)
    problems += _problems(size, tracks)
    if not problems:
        track_file = TrackFile((size[1], size[0]), tuple(map(_track, tracks)))
        problems += filter(None, [unit_problem(track_file)])
    if problems:
        raise UserError(
            f"The tracks cannot be used: {name}", expected=EXPECTED, got=listed(problems), fix=FIX
        )
    return track_file


def plain_content(value: Any, depth: int = MOST_DEPTH) -> Any:
    """What a track file holds, as `json` reads it, of the same with tuples, arrays or `Track`s.

    Whatever else there is, and what lies deeper than a track file goes, stays as it is.
    """
    if isinstance(value, TrackFile):
        return as_json(value)
    if isinstance(value, Track):
        return _track_as_json(value)
    if hasattr(value, "tolist"):  # NumPy's arrays and numbers, and JAX's
        return value.tolist()
    if isinstance(value, dict) and depth:
        return {key: plain_content(inner, depth - 1) for key, inner in value.items()}
    if isinstance(value, list | tuple) and depth:
        return [plain_content(inner, depth - 1) for inner in value]
    return value


def write_tracks(path: Path | str, track_file: TrackFile) -> Path:
    """Writes a track file, one line for each track; reading it gives the same `TrackFile`.

    Args:
        path: replaced if it is a file; its folder is made if absent.
        track_file: written with all its digits; see `rounded`.

    Raises:
        UserError: it is not one that could be read again, or the file would be too large.
        ValueError: something in it has another type than `TrackFile` says.
    """
    path = Path(path)
    content = as_json(track_file)
    if parse_tracks(content, name=str(path)) != track_file:
        raise ValueError(
            "a TrackFile holds tuples of plain numbers; plain tracks hold points alone"
        )
    lines = ",\n  ".join(json.dumps(track) for track in content["tracks"])
    text = f'{{"size": {json.dumps(content["size"])}, "tracks": [\n  {lines}\n]}}\n'
    if len(text) > json_file.MOST_BYTES:
        raise UserError(
            f"The tracks cannot be written: {path}",
            expected=f"at most {json_file.MOST_BYTES:,} bytes, so that they can be read again",
            got=f"{len(text):,} bytes",
            fix="write fewer tracks or frames, or use posetraj_jax.trajectories.rounded first",
        )
    with new_files(path) as (partial,):
        partial.write_text(text)
    return path


def as_json(track_file: TrackFile) -> dict[str, Any]:
    """What a file of these tracks holds, ready for `json`; `parse_tracks` takes it back."""
    size = plain_content(track_file.size)
    sides = size[::-1] if type(size) is list else size
    return {"size": sides, "tracks": plain_content(track_file.tracks)}


def _track_as_json(track: Track) -> Any:
    optional = {"times": track.times, "visible": track.visible}
    given = {key: plain_content(value) for key, value in optional.items() if value is not None}
    points = plain_content(track.points)
    if track.kind == PLAIN and not given:
        return points
    return {"kind": track.kind, "points": points, **given}


def _is_vipseg(content: dict) -> bool:
    """Whether keys are panoptic ids, or meant to be; no key of our own form looks like one."""
    return any(type(key) is str and LIKE_ID.fullmatch(key) for key in content)


def _bare_tracks(content: Any, name: str) -> Any:
    """The list of tracks of VIPSeg's JSON, of a list of tracks, or of one track."""
    if type(content) is dict:
        try:
            points = vipseg.vipseg_tracks(content, Path(name)).points_px.swapaxes(0, 1)
        except UserError as error:  # which knows only of datasets
            raise UserError(error.what, expected=error.expected, got=error.got, fix=FIX) from error
        return [{"points": track, "kind": "frames"} for track in points.tolist()]
    first = content[0] if type(content) is list and content else None
    begins_with_a_point = type(first) is list and first and type(first[0]) in (int, float)
    return [content] if begins_with_a_point else content


def _problems(size: Any, tracks: Any) -> Iterator[str]:
    problem = size_problem(size)
    if problem:
        yield problem
    if type(tracks) is not list:
        yield f"tracks: {name_of(tracks)}, not a list of tracks"
    elif not tracks:
        yield "tracks: none"
    elif len(tracks) > MOST_TRACKS:
        yield f"tracks: {len(tracks):,}, more than {MOST_TRACKS}"
    else:
        for number, track in enumerate(tracks):
            problems = list(track_problems(track))
            if not problems and size_problem(size) is None:
                problems += filter(None, [place_problem(_track(track), (size[1], size[0]))])
            yield from (f"track {number}: {problem}" for problem in problems)


def _track(value: Any) -> Track:
    """One TRACK that nothing is wrong with."""
    given = value if type(value) is dict else {"points": value, "kind": PLAIN}
    times, visible = given.get("times"), given.get("visible")
    return Track(
        points=tuple((float(x), float(y)) for x, y in given["points"]),
        kind=given["kind"],
        times=None if times is None else tuple(map(float, times)),
        visible=None if visible is None else tuple(visible),
    )
