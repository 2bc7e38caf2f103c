"""Reads the tracked points of a VIPSeg video from the JSON that the official repository ships."""

import re
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Bool, Float32

from posetraj_jax import json_file
from posetraj_jax.errors import UserError

Array = np.ndarray

LEGAL_ID = re.compile(r"0|[1-9][0-9]{0,8}")
FARTHEST_PX = 10_000_000
"""Float32 holds whole numbers up to here exactly; the official tracks reach 10^5."""
FIRST_THING = 125
"""The lowest panoptic id that is no class of stuff."""
FIX = "copy this file from the official repository again, or move the video out of imgs"

VISIBILITY_FIX = "track this video again, or delete the file: then nothing is known to be hidden"


class VIPSegTracks(NamedTuple):
    """The points of one video, each the middle of a panoptic segment of its first frame."""

    ids: tuple[int, ...]
    """Panoptic ids in the order of the file: 0 is void, 1..124 are classes of stuff, and from 125
    on 100 times the class plus the number of the thing."""
    points_px: Float32[Array, "f p 2"]
    """(x, y) in pixels of the original frames; often outside the picture, and then far away."""


def read_vipseg(path: Path) -> VIPSegTracks:
    """Reads a JSON object: panoptic id as text to a list of [x, y], one per frame.

    Raises:
        UserError: naming the file and the tracks at fault: not such a file, an id that is no plain
            number, something else than a list of pairs of numbers, numbers that are not finite or
            beyond FARTHEST_PX, or tracks of different lengths. Of an id that comes twice the last
            one counts, as for every reader of JSON.
    """
    return vipseg_tracks(json_file.read_object(path, FIX), path)


def vipseg_tracks(content: dict[str, Any], path: Path) -> VIPSegTracks:
    """The tracks of a JSON object that was read from `path`; otherwise as `read_vipseg`."""
    problems = [problem for name, track in content.items() for problem in _problems(name, track)]
    if not problems:
        lengths = {len(track): name for name, track in content.items()}
        if len(lengths) > 1:
            some = [f"{length} points in {name}" for length, name in lengths.items()][:3]
            problems.append("tracks of different lengths, such as " + ", ".join(some))
        if not content or 0 in lengths:
            problems.append("no tracks" if not content else "tracks without points")
    if problems:
        more = f"; and {len(problems) - 5} more" if len(problems) > 5 else ""
        raise UserError(
            f"The tracks cannot be used: {path}",
            expected="an object of tracks of one length: panoptic id to a list of [x, y], pixels",
            got="; ".join(problems[:5]) + more,
            fix=FIX,
        )
    points = np.array(list(content.values()), np.float32)
    return VIPSegTracks(tuple(int(name) for name in content), points.swapaxes(0, 1))


def read_visibility(path: Path, tracks: VIPSegTracks) -> Bool[Array, "f p"]:
    """Reads which points are seen: a JSON object, panoptic id as text to true or false per frame.

    The official tracks have no such file; `data_prep.track_videos` writes one beside its tracks.

    Raises:
        UserError: naming the file: not such a file, or not of these tracks.
    """
    content = json_file.read_object(path, VISIBILITY_FIX)
    num_frames = len(tracks.points_px)
    for panoptic_id in tracks.ids:
        seen = content.get(str(panoptic_id))
        if type(seen) is not list or len(seen) != num_frames or set(map(type, seen)) != {bool}:
            raise UserError(
                f"What is visible cannot be read: {path}",
                expected=f"true or false for each of {num_frames} frames of every track",
                got=f"something else for track {panoptic_id}",
                fix=VISIBILITY_FIX,
            )
    return np.array([content[str(i)] for i in tracks.ids], bool).swapaxes(0, 1)


def kind_of(panoptic_id: int) -> str:
    """Whether a segment is 'void', 'stuff' or an 'object'."""
    if panoptic_id == 0:
        return "void"
    return "stuff" if panoptic_id < FIRST_THING else "object"


def class_of(panoptic_id: int) -> int:
    """The number of the class of a segment: 1..124, 0 for void."""
    return panoptic_id if panoptic_id < FIRST_THING else panoptic_id // 100


def _problems(name: str, track: Any) -> list[str]:
    """What is wrong with one track by itself; at most one line."""
    if not LEGAL_ID.fullmatch(name):
        return [f"track {name[:20]!r}: not a panoptic id"]
    if not isinstance(track, list):
        return [f"track {name}: {json_file.name_of(track)}, not a list of [x, y]"]
    for frame, point in enumerate(track):
        if type(point) is not list or len(point) != 2:
            return [f"track {name}, frame {frame}: not a pair of numbers"]
        for number in point:
            # Never shown: a number may have thousands of digits. NaN is below nothing.
            if type(number) not in (int, float) or not abs(number) <= FARTHEST_PX:
                return [f"track {name}, frame {frame}: not numbers up to {FARTHEST_PX:,}"]
    return []
