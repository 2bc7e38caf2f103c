"""What is wrong with the tracks of a file, in words; nothing here looks at more than it must."""

from collections.abc import Iterator, Sequence
from itertools import pairwise
from typing import Any

from posetraj_jax.data.track_file import FARTHEST_PX
from posetraj_jax.json_file import name_of
from posetraj_jax.trajectories.track import (
    KINDS,
    MOST_POINTS,
    MOST_SIDE_PX,
    PLAIN,
    UNIT_SIZE,
    Track,
    TrackFile,
    inside,
)

KEYS = ("points", "kind", "times", "visible")
MOST_NUMBERS = 10
"""How many points at fault are named."""


def size_problem(value: Any) -> str | None:
    """What is wrong with [w, h], if anything."""
    if value is None:
        return (
            'no size: {"size": [width, height], "tracks": [...]} says what the points are pixels of'
        )
    sides = value if type(value) is list and len(value) == 2 else [None]
    if all(type(side) is int and 0 < side <= MOST_SIDE_PX for side in sides):
        return None
    return f"size: not two whole numbers from 1 to {MOST_SIDE_PX:,}, [width, height]"


def track_problems(value: Any) -> Iterator[str]:
    """What is wrong with one TRACK of a file by itself."""
    if type(value) is list:
        yield from _point_problems(value, PLAIN)
    elif type(value) is dict:
        yield from _object_problems(value)
    else:
        yield f"{name_of(value)}, neither a list of [x, y] nor an object"


def key_problems(value: dict, keys: Sequence[str]) -> Iterator[str]:
    """Keys of an object that are none of those that there are."""
    unknown = [key for key in value if type(key) is not str or key not in keys]
    if unknown:
        more = f" and {len(unknown) - 3} more" if len(unknown) > 3 else ""
        names = ", ".join(map(_key_name, unknown[:3]))
        yield f"unknown keys {names}{more}: there are {', '.join(keys)}"


def _key_name(key: Any) -> str:
    return repr(key[:20]) if type(key) is str else f"of type {type(key).__name__}"


def _object_problems(value: dict) -> Iterator[str]:
    yield from key_problems(value, KEYS)
    kind = value.get("kind")
    if type(kind) is not str or kind not in KINDS:
        yield f"kind: not one of {', '.join(KINDS)}"
        kind = None
    points = value.get("points")
    if type(points) is not list:
        yield f"points: {name_of(points)}, not a list of [x, y]" if points else "no points"
        return
    yield from _point_problems(points, kind)
    if "times" in value:
        yield from _time_problems(value["times"], kind, len(points))
    if "visible" in value:
        yield from _visible_problems(value["visible"], kind, len(points))


def _point_problems(points: list, kind: str | None) -> Iterator[str]:
    count = len(points)
    if count > MOST_POINTS:
        yield f"{count:,} points, more than {MOST_POINTS:,}"
        return
    if count == 0:
        yield "no points"
    elif kind == "anchor" and count != 1:
        yield f"{count} points: an anchor has one"
    elif kind in ("frames", "spline", PLAIN) and count == 1:
        yield 'one point only: a point that stays is {"points": [[x, y]], "kind": "anchor"}'
    odd = [n for n, point in enumerate(points) if type(point) is not list or len(point) != 2]
    if odd:
        yield f"{_points(odd)}: not a pair of numbers [x, y]"
    # Numbers are never shown: one may have thousands of digits. NaN is below nothing.
    skipped = set(odd)
    far = [
        n
        for n, point in enumerate(points)
        if n not in skipped and not all(_is_number(x) and abs(x) <= FARTHEST_PX for x in point)
    ]
    if far:
        yield f"{_points(far)}: not numbers up to {FARTHEST_PX:,}"


def _points(numbers: list[int]) -> str:
    """Names the first ones of some points, and how many there are besides."""
    shown = ", ".join(map(str, numbers[:MOST_NUMBERS]))
    more = f" and {len(numbers) - MOST_NUMBERS} more" if len(numbers) > MOST_NUMBERS else ""
    return f"point{'s' * (len(numbers) > 1)} {shown}{more}"


def _time_problems(times: Any, kind: str | None, count: int) -> Iterator[str]:
    if kind in ("frames", "anchor"):
        yield "times: only a spline has them"
    elif type(times) is not list or len(times) != count:
        yield f"times: not a list of {count}, one for each control point"
    elif not all(_is_number(time) and 0 <= time <= 1 for time in times):
        yield "times: not numbers from 0, the first frame, to 1, the last one"
    elif times and (times[0] != 0 or times[-1] != 1):
        yield "times: do not go from 0, the first frame, to 1, the last one"
    elif any(later <= sooner for sooner, later in pairwise(times)):
        yield "times: each must be greater than the one before"


def _visible_problems(visible: Any, kind: str | None, count: int) -> Iterator[str]:
    if kind == "anchor":
        yield "visible: an anchor is always visible"
    elif type(visible) is not list or len(visible) != count:
        yield f"visible: not a list of {count}, one for each point"
    elif not all(type(seen) is bool for seen in visible):
        yield "visible: not true or false for each point"
    elif not any(visible):
        yield "visible: never true, so there is nothing to follow"


def _is_number(value: Any) -> bool:
    return type(value) in (int, float)


def place_problem(track: Track, size: tuple[int, int]) -> str | None:
    """Says if a track begins outside the picture, whose (height, width) is then mostly wrong."""
    height, width = size
    picture = "[0, 1]" if size == UNIT_SIZE else f"{width} x {height} pixels"
    problem = _place_problem(track, size)
    return problem and f"{problem} of {picture}; is the size right?"


def unit_problem(track_file: TrackFile) -> str | None:
    """Says if only the size [1, 1] makes sense of all tracks."""
    if track_file.size != UNIT_SIZE and all(
        inside(track.points, UNIT_SIZE).all() for track in track_file.tracks
    ):
        return "all points lie in the first pixel; are they in [0, 1]? Then the size is [1, 1]"
    return None


def _place_problem(track: Track, size: tuple[int, int]) -> str | None:
    seen = inside(track.points, size)
    first = 0 if track.visible is None else track.visible.index(True)
    if not seen.any():
        return "no point lies in the picture"
    if not seen[first]:
        x, y = track.points[first]
        return f"begins at ({x:.6g}, {y:.6g}), outside the picture"
    return None
