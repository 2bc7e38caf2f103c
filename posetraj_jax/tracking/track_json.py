"""Tracked points as files: the official JSON, what is visible beside it, and CoTracker's arrays."""

import json
import math
import os
import stat
import tempfile
import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Float32

from posetraj_jax.data.track_file import FARTHEST_PX, LEGAL_ID, read_vipseg
from posetraj_jax.errors import UserError

Array = np.ndarray

DECIMALS = 2
MOST_BYTES = 256_000_000
"""Of one array: a grid of 100 x 100 points in 1,600 frames, which is far beyond any real use."""
TRACKS, VISIBILITY = "tracks", "visibility"
FIX = f"save np.savez(FILE, {TRACKS}=..., {VISIBILITY}=...) of what CoTracker returns, as numpy"


class Tracked(NamedTuple):
    """Points followed through a video, whoever followed them."""

    points_px: Float32[Array, "f p 2"]
    """(x, y) in pixels of the frames, pixel centres at 0.5; may lie outside the picture."""
    visible: Bool[Array, "f p"]
    """Whether the point is in the picture and was found there, not only guessed."""


def write_tracks(path: Path, ids: Sequence[int], tracked: Tracked) -> Path:
    """Writes {panoptic id as text: [[x, y], one per frame]}, ids in rising order, to 0.01 pixels.

    The file appears only when it is whole; `read_vipseg` reads it back.

    Raises:
        UserError: no points, ids that are no panoptic ids or come twice, or numbers that are not
            finite or too large; or the system refuses to write.

    Source: the official trajectory_CoTracker_all/<video>.json.
    Differs: hundredths of pixels; the official files cut them to whole numbers.
    """
    points = np.asarray(tracked.points_px, np.float64)
    problem = _id_problem(ids, points.shape[1])
    if points.size == 0:
        problem = f"{points.shape[0]} frames of {points.shape[1]} points"
    elif not (np.abs(points) <= FARTHEST_PX).all():  # NaN is below nothing
        problem = problem or f"points that are not finite or beyond {FARTHEST_PX:,} pixels"
    if problem:
        raise _not_writable(path, problem)
    rounded = np.round(points, DECIMALS) + 0.0  # no minus zero
    tracks = {str(ids[p]): rounded[:, p].tolist() for p in np.argsort(ids, kind="stable")}
    return _write_whole(path, tracks)


def write_visibility(path: Path, ids: Sequence[int], tracked: Tracked) -> Path:
    """Writes {panoptic id as text: [true or false, one per frame]}, ids in rising order.

    Raises:
        UserError: as `write_tracks`.
    """
    problem = _id_problem(ids, tracked.visible.shape[1])
    if problem:
        raise _not_writable(path, problem)
    order = np.argsort(ids, kind="stable")
    return _write_whole(path, {str(ids[p]): tracked.visible[:, p].tolist() for p in order})


def read_tracks(path: Path, size: tuple[int, int]) -> tuple[tuple[int, ...], Tracked]:
    """Reads the JSON that DragAnything and PoseTraj ship; gives the ids and the points.

    They do not say what is hidden: `visible` is True inside the picture.

    Args:
        size: (height, width) of the frames.

    Raises:
        UserError: from `read_vipseg`.
    """
    ids, points = read_vipseg(path)
    return ids, Tracked(points, inside(points, size))


def read_cotracker(path: Path, size: tuple[int, int]) -> Tracked:
    """Reads what CoTracker returned, saved by numpy: .npz with tracks and visibility, or .npy.

    `tracks` is [f p 2] or [1 f p 2], (x, y) in pixels whose centres are whole numbers;
    `visibility` is [f p], [f p 1] or with a 1 before, True or a probability above 0.5. An .npy
    holds tracks only. A point outside the picture is not visible, whatever the file says.

    Args:
        size: (height, width) of the frames that CoTracker saw.

    Raises:
        UserError: naming the file: absent, not such a file, too large, of another shape, or with
            numbers that are not finite or beyond FARTHEST_PX.

    Source: CoTracker's predictor, whose query grid and drawing count pixels from their centres.
    """
    try:
        if not stat.S_ISREG(path.stat().st_mode):  # a pipe or a device may never end
            raise ValueError("not a file")
        arrays = _arrays(path)
        points = _without_batch(TRACKS, arrays, 3).astype(np.float64) + 0.5
        if points.shape[2] != 2 or points.size == 0:
            raise ValueError(f"{TRACKS}: shape {points.shape}, not [f p 2]")
        if not (np.abs(points) <= FARTHEST_PX).all():
            raise ValueError(f"{TRACKS}: not finite, or beyond {FARTHEST_PX:,} pixels")
        seen = _visibility(arrays, points.shape[:2])
    except (OSError, ValueError, EOFError, KeyError, zipfile.BadZipFile) as error:
        raise UserError(
            f"CoTracker's tracks cannot be used: {path}",
            expected=f"an .npz with {TRACKS} [f p 2] and {VISIBILITY} [f p], or an .npy with the "
            f"first, each of at most {MOST_BYTES:,} bytes",
            got=f"{type(error).__name__}: {error}".removeprefix("ValueError: "),
            fix=FIX,
        ) from error
    points = points.astype(np.float32)
    return Tracked(points, inside(points, size) & seen)


def inside(points_px: Float[Array, "*any 2"], size: tuple[int, int]) -> Bool[Array, "*any"]:
    """Whether points lie in a picture of (height, width)."""
    return ((points_px >= 0) & (points_px < size[::-1])).all(axis=-1)


def _id_problem(ids: Sequence[int], num_points: int) -> str:
    if len(ids) != num_points:
        return f"{len(ids)} ids for {num_points} points"
    wrong = [str(number) for number in ids if not LEGAL_ID.fullmatch(str(number))]
    if wrong:
        return f"no panoptic ids: {', '.join(wrong[:5])}"
    return "an id that comes twice" if len(set(ids)) < len(ids) else ""


def _not_writable(path: Path, got: str) -> UserError:
    return UserError(
        f"The tracks cannot be written to {path}",
        expected="points with finite coordinates, each with a panoptic id of its own",
        got=got,
        fix="give other seeds or ids, or another path",
    )


def _write_whole(path: Path, content: dict[str, list]) -> Path:
    """Writes JSON under a temporary name, then renames it."""
    partial = None
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        descriptor, partial = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
        with os.fdopen(descriptor, "w") as file:
            json.dump(content, file, separators=(",", ":"))
        mask = os.umask(0)
        os.umask(mask)
        os.chmod(partial, 0o666 & ~mask)  # mkstemp's files are for their maker only
        os.replace(partial, path)
    except BaseException as error:
        if partial is not None:
            Path(partial).unlink(missing_ok=True)
        if isinstance(error, OSError):
            raise _not_writable(path, str(error)) from error
        raise
    return path


def _arrays(path: Path) -> dict[str, Array]:
    """The arrays of interest in a file; each is made only if its header promises a sane size."""
    if not zipfile.is_zipfile(path):
        with path.open("rb") as file:
            return {TRACKS: _array(file, path.stat().st_size)}
    with zipfile.ZipFile(path) as archive:
        sizes = {entry.filename: entry.file_size for entry in archive.infolist()}
        if f"{TRACKS}.npy" not in sizes:
            raise ValueError(f"no {TRACKS}, but {', '.join(sorted(sizes)[:5])[:200]}")
        found = {}
        for name in (TRACKS, VISIBILITY):
            if f"{name}.npy" in sizes:
                with archive.open(f"{name}.npy") as file:
                    found[name] = _array(file, sizes[f"{name}.npy"])
    return found


def _array(file: BinaryIO | Any, num_bytes: int) -> Array:
    """One array in numpy's format, never of objects: those are pickles, and pickles programs."""
    header = np.lib.format
    version = header.read_magic(file)
    if version not in ((1, 0), (2, 0)):
        raise ValueError(f"numpy's format {version}")
    read = header.read_array_header_1_0 if version == (1, 0) else header.read_array_header_2_0
    shape, fortran, dtype = read(file)
    if dtype.kind not in "fiub":
        raise ValueError(f"numbers of type {dtype}")
    promised = math.prod(shape) * dtype.itemsize
    if promised > min(MOST_BYTES, num_bytes):
        raise ValueError(f"shape {shape[:6]} in {num_bytes:,} bytes")
    data = file.read(promised)
    if len(data) != promised:
        raise ValueError(f"only {len(data):,} of {promised:,} bytes")
    return np.frombuffer(data, dtype).reshape(shape, order="F" if fortran else "C")


def _without_batch(name: str, arrays: dict[str, Array], axes: int) -> Array:
    """An array with `axes` axes; one more, of length 1, may come first."""
    array = arrays[name]
    if array.ndim == axes + 1 and len(array) == 1:
        array = array[0]
    if array.ndim != axes:
        raise ValueError(f"{name}: shape {arrays[name].shape}, a batch of one was expected")
    return array


def _visibility(arrays: dict[str, Array], shape: tuple[int, int]) -> Bool[Array, "f p"]:
    if VISIBILITY not in arrays:
        return np.ones(shape, bool)
    seen = arrays[VISIBILITY]
    if seen.ndim > 2 and seen.shape[-1] == 1 and seen.size == math.prod(shape):
        seen = seen[..., 0]
    seen = _without_batch(VISIBILITY, {VISIBILITY: seen}, 2)
    if seen.shape != shape:
        raise ValueError(f"{VISIBILITY}: shape {seen.shape}, {TRACKS} have {shape}")
    return seen > 0.5
