"""Reads every byte of every clip and says what is wrong, clip by clip, in the memory of a few."""

import hashlib
import io
import itertools
from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from typing import NamedTuple, TypeVar

import cv2
import numpy as np
from PIL import Image
from tqdm import tqdm

from data_prep.engines import verify
from data_prep.looking.dataset import Dataset
from data_prep.looking.geometry_checks import geometry_problems, most_in_masks
from posetraj_jax.data.clip import Clip, check_clip
from posetraj_jax.data.lazy_clip import BOXED, CLEAN, LazyClip
from posetraj_jax.errors import UserError

Array = np.ndarray
Result = TypeVar("Result")

READ, RECORD, PICTURE, GEOMETRY, RENDERING, INDEX, TWICE = KINDS = (
    "cannot be read",
    "not a legal record",
    "pictures",
    "geometry",
    "rendering",
    "index",
    "the same clip twice",
)
MODES = {"frames_jpeg": "RGB", "masks_png": "L", "depths_png": "I;16"}
"""What Pillow calls the pictures of each field."""
RENDERED = "track_points"
"""What the provenance of every clip that this project rendered has."""
UNDECODABLE = (OSError, SyntaxError, ValueError, EOFError, IndexError, OverflowError)
CHECK_ENDS_WITH = (ValueError, IndexError, TypeError, AttributeError, cv2.error)
"""What comparing a clip with its pixels can end with, if its provenance is not what it was."""


class Problem(NamedTuple):
    """One line about a clip."""

    kind: str
    text: str


class Checked(NamedTuple):
    """A clip that was read."""

    clip_id: str
    problems: tuple[Problem, ...]
    num_frames: int
    first_frame: bytes | None
    """By which a clip is known again; None if it could not be read."""
    is_compared: bool | None = None
    """Whether its annotations were compared with its pixels; None for a clip that nobody rendered,
    or that is wrong anyway."""


@dataclass
class Totals:
    """What was found in all clips."""

    clips: int = 0
    frames: int = 0
    bad_clips: int = 0
    compared: int = 0
    """Rendered clips whose annotations were compared with their pixels."""
    not_compared: int = 0
    """Rendered clips of a version that noted less than that needs."""
    kinds: Counter[str] = field(default_factory=Counter)
    """Problems by kind."""


def validate(
    dataset: Dataset, threads: int, show: Callable[[str, Sequence[Problem]], None]
) -> Totals:
    """Checks every clip, and calls `show` with each that has problems, in the dataset's order.

    Memory is that of the clips that threads work on, and some hundred bytes for each clip.
    """
    totals, frames, ids = Totals(), {}, set()
    numbers = tqdm(range(len(dataset)), unit="clip", desc="validate", dynamic_ncols=True)
    for checked in _in_turn(partial(check, dataset), numbers, threads):
        problems = list(checked.problems)
        if checked.clip_id in ids:
            problems.append(Problem(INDEX, "the index has this id twice"))
        ids.add(checked.clip_id)
        if checked.first_frame is not None:
            before = frames.setdefault(checked.first_frame, checked.clip_id)
            if before != checked.clip_id:
                problems.append(Problem(TWICE, f"its first frame is that of {before}"))
        totals.clips += 1
        totals.frames += checked.num_frames
        totals.bad_clips += bool(problems)
        totals.compared += checked.is_compared is True
        totals.not_compared += checked.is_compared is False
        totals.kinds.update(problem.kind for problem in problems)
        if problems:
            show(checked.clip_id, problems)
    return totals


def check(dataset: Dataset, index: int) -> Checked:
    """Reads one clip to the end."""
    clip_id = dataset.clip_ids[index]
    if problems := dataset.problems(index):
        short = (text.removeprefix(f"{clip_id}: ") for text in problems)
        return Checked(clip_id, tuple(Problem(READ, text) for text in short), 0, None)
    if dataset.records is not None and dataset.records.file_of(index)[0] in dataset.damaged_files:
        return Checked(clip_id, (Problem(READ, "its file is damaged or missing"),), 0, None)
    try:
        seen = dataset.read(index)
    except UserError as error:
        return Checked(clip_id, (Problem(READ, f"{error.what}: {error.got}"),), 0, None)
    if seen.record is None:
        return _check_folder(seen.clip, seen.num_frames)
    problems = list(_record_problems(seen.record, dataset.records.num_frames[index]))
    is_compared = None
    if not problems and RENDERED in seen.record.provenance:
        found = _rendering_problems(seen.record)
        is_compared = found is not None
        problems += found or []
    first = _digest(seen.record.frames_jpeg[0]) if seen.num_frames else None
    return Checked(clip_id, tuple(problems), seen.num_frames, first, is_compared)


def _record_problems(clip: Clip, num_frames: int) -> Iterator[Problem]:
    if len(clip.frames_jpeg) != num_frames:
        text = f"{len(clip.frames_jpeg)} frames, but {num_frames} in the index"
        yield Problem(INDEX, text)
    try:
        size = check_clip(clip)
    except UserError as error:
        for line in error.got.strip().splitlines():
            yield Problem(RECORD, line.strip().removeprefix("- "))
        return
    if not isinstance(clip.provenance, dict):
        yield Problem(RECORD, "provenance: no JSON object")
        return
    yield from (Problem(PICTURE, text) for text in _picture_problems(clip))
    yield from (Problem(GEOMETRY, text) for text in geometry_problems(clip, size))


def _rendering_problems(clip: Clip) -> list[Problem] | None:
    """Compares a rendered clip, sound otherwise, with its pixels; None if it notes too little."""
    try:
        return [Problem(RENDERING, text) for text in verify.problems(clip)]
    except KeyError:
        return None
    except CHECK_ENDS_WITH as error:
        text = f"its provenance does not fit it ({type(error).__name__}: {error})"
        return [Problem(RENDERING, text)]


def _picture_problems(clip: Clip) -> Iterator[str]:
    """Decodes the pictures one at a time; headers have been checked."""
    for name, mode in MODES.items():
        for index, data in enumerate(getattr(clip, name)):
            where = f"{name}[{index}]"
            try:
                with Image.open(io.BytesIO(data)) as image:
                    image.load()
            except UNDECODABLE as error:
                yield f"{where}: {type(error).__name__}: {error}"
                continue
            if image.mode != mode:
                yield f"{where}: mode {image.mode}, expected {mode}"
            elif name == "masks_png" and (most := np.asarray(image).max()) > most_in_masks(clip):
                yield f"{where}: holds {most}, with {most_in_masks(clip)} objects or segments"


def _check_folder(clip: LazyClip, num_frames: int) -> Checked:
    """Decodes every picture of a clip in folders, one frame at a time."""
    problems: list[Problem] = []
    first: bytes | None = None
    size: tuple[int, ...] | None = None
    reads: list[tuple[str, Callable[[int], Array]]] = []
    if CLEAN in clip.frame_kinds:
        reads.append(("frame", lambda t: clip.frames(t, 1)))
    if BOXED in clip.frame_kinds:
        reads.append(("boxed frame", lambda t: clip.boxed_frames(t, 1, 1)))
    for (what, read), t in itertools.product(reads, range(num_frames)):
        try:
            frame = read(t)
        except UserError as error:
            problems.append(Problem(PICTURE, f"{what} {t}: {error.what}, {error.got}"))
            continue
        first = first or _digest(frame.tobytes())
        size = size or frame.shape
        if frame.shape != size:
            text = f"{what} {t}: {frame.shape[2]}x{frame.shape[1]}, others {size[2]}x{size[1]}"
            problems.append(Problem(PICTURE, text))
    problems += _annotation_problems(clip, num_frames)
    return Checked(clip.clip_id, tuple(problems), num_frames, first)


def _annotation_problems(clip: LazyClip, num_frames: int) -> Iterator[Problem]:
    reads = {
        "tracks": lambda: clip.tracks(0, num_frames),
        "camera": lambda: clip.camera(0, num_frames),
        **{f"map {t}": lambda t=t: clip.drawn_maps(t, 2) for t in range(num_frames - 1)},
    }
    for what, read in reads.items():
        try:
            read()
        except UserError as error:
            yield Problem(READ, f"{what}: {error.what}, {error.got}")


def _digest(data: bytes) -> bytes:
    return hashlib.blake2b(data, digest_size=16).digest()


def _in_turn(
    call: Callable[[int], Result], numbers: Iterable[int], threads: int
) -> Iterator[Result]:
    """What `call` gives for each number, in their order; a few are under way at a time."""
    waiting: deque = deque()
    with ThreadPoolExecutor(threads) as pool:
        for number in numbers:
            waiting.append(pool.submit(call, number))
            if len(waiting) > threads:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
