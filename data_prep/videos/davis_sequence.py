"""Turns one sequence of DAVIS into a clip record; the work of one task.

ROOT/JPEGImages/<resolution>/<sequence>/*.jpg    ROOT/Annotations/<resolution>/<sequence>/*.png
"""

from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import UInt8

from data_prep.fanout.clip_files import clip_path, write_clip
from data_prep.videos.mask_tracks import MaskTracks, follow_objects
from data_prep.videos.pictures import (
    Segments,
    Size,
    Storage,
    as_jpeg,
    decode_ids,
    each_decoded,
    nearest,
    pictures_in,
    problems_of,
    reject,
)
from data_prep.videos.real_clip import About, Points, inside, real_clip, scaled
from posetraj_jax.data.transforms import decode_rgb, resize_frames

Array = np.ndarray

WORK = f"{__name__}:make"
PICTURES, MASKS, SETS = "JPEGImages", "Annotations", "ImageSets/2017"
FPS = 24.0
BACKGROUND, VOID = 0, 255
TRACKED = Storage(height=0, width=0, short_side=480, jpeg_quality=95)
"""The size at which points are followed: DAVIS's usual one."""


@dataclass(frozen=True)
class SequenceJob:
    """What to make of a sequence; goes through JSON."""

    root: str
    sequence: str
    resolution: str
    """Name of the folder."""
    stamp: str
    """Of its files."""
    split: str
    storage: Storage
    min_frames: int
    licence: str

    @classmethod
    def of(cls, job: dict[str, Any]) -> "SequenceJob":
        """What `asdict` made JSON of."""
        return cls(**(job | {"storage": Storage(**job["storage"])}))

    def to_json(self) -> dict[str, Any]:
        """For `Task.job`."""
        return asdict(self)


def files_of(root: Path, resolution: str, sequence: str) -> tuple[list[Path], list[Path]]:
    """The pictures and the masks of a sequence; opens none."""
    return tuple(pictures_in(root / part / resolution / sequence) for part in (PICTURES, MASKS))


def make(job: dict[str, Any], folder: Path) -> None:
    """Writes the record of a sequence.

    Raises:
        Rejected: everything that keeps the sequence from being used.
    """
    options = SequenceJob.of(job)
    if clip_path(folder, options.sequence).exists():
        return
    pictures, mask_files = files_of(Path(options.root), options.resolution, options.sequence)
    problems = problems_of(pictures, mask_files, options.min_frames)
    reject(problems if mask_files else [*problems, "no masks"])
    jpegs, frames, original = _frames(pictures, options.storage)
    small, size = frames.shape[1:3], options.storage.size_of(original)
    ids = np.stack([m.astype(np.uint16) for m in _decoded_masks(mask_files, original, small)])
    objects = tuple(i for i in np.unique(ids).tolist() if i != BACKGROUND)
    reject([] if objects else ["no object in its masks"])
    segments = Segments(objects, background=(BACKGROUND,))
    pngs = tuple(segments.to_png(mask) for mask in _decoded_masks(mask_files, original, size))
    tracks = follow_objects(frames, ids, objects)
    points = Points(
        scaled(tracks.points_px, small, size),
        tracks.visible & inside(tracks.points_px, small),
        ("object",) * len(objects),
        tuple(range(len(objects))),
    )
    provenance = {
        "split": options.split,
        "original_size": original,
        "scale": [new / old for new, old in zip(size, original, strict=True)],
        "frames": [path.name for path in pictures],
        "resolution": options.resolution,
        "objects": segments.ids,
        **_about_tracks(tracks, small),
    }
    about = About("davis2017", options.licence, provenance)
    write_clip(folder, real_clip(options.sequence, FPS, (jpegs, pngs), points, None, about))


def _frames(
    paths: list[Path], storage: Storage
) -> tuple[tuple[bytes, ...], UInt8[Array, "f h w 3"], Size]:
    """Frames to store, frames to follow points in, and the original size."""
    jpegs, small, original = [], [], (0, 0)
    for path, frame in each_decoded(paths, decode_rgb):
        original = frame.shape[:2]
        jpegs.append(as_jpeg(path, frame, storage))
        small.append(resize_frames(frame[None], *TRACKED.size_of(original), "lanczos")[0])
    return tuple(jpegs), np.stack(small), original


def _decoded_masks(paths: list[Path], original: Size, size: Size) -> Iterator[Array]:
    """Numbers of objects, one mask at a time; what nobody decided on is background."""
    for _, mask in each_decoded(paths, decode_ids, original):
        mask[mask == VOID] = BACKGROUND
        yield nearest(mask, size)


def _about_tracks(tracks: MaskTracks, small: Size) -> dict[str, Any]:
    return {
        "tracks": "lucas_kanade on the masks, put back where it left them",
        "tracked_size": small,
        "put_back": tracks.put_back,
    }
