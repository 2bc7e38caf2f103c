"""Turns one video of VIPSeg into a clip record; the work of one task."""

from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from data_prep.fanout.clip_files import clip_path, write_clip
from data_prep.fanout.task import Rejected
from data_prep.videos.pictures import (
    Segments,
    Size,
    Storage,
    decode_ids,
    each_decoded,
    nearest,
    problems_of,
    reject,
    store_frames,
)
from data_prep.videos.real_clip import About, Points, RealCamera, inside, real_clip, scaled
from data_prep.videos.vipseg_layout import VideoFiles, files_of
from posetraj_jax.data.camera_file import read_camera, read_intrinsics
from posetraj_jax.data.track_file import (
    VIPSegTracks,
    class_of,
    kind_of,
    read_vipseg,
    read_visibility,
)
from posetraj_jax.data.vipseg import CAMERAS, FPS, VIPSegClip
from posetraj_jax.errors import UserError

WORK = f"{__name__}:make"
KEEP, DROP = "keep", "drop"
LEAVE_OUT, UNKNOWN = "leave_out", "unknown"


@dataclass(frozen=True)
class VideoJob:
    """What to make of a video; goes through JSON."""

    root: str
    video: str
    stamp: str
    """Of its files."""
    split: str
    storage: Storage
    min_frames: int
    void: str
    """'keep' the track of what nobody segmented, as kind 'void', or 'drop' it."""
    most_outside: float
    """Tracks that are outside the picture in a larger share of the frames are left out."""
    bad_camera: str
    """'leave_out' a video whose camera file cannot be used, or take its camera as 'unknown'."""
    licence: str
    class_names: dict[str, str] = field(default_factory=dict)
    """Number of the class, as JSON wants it, to its name; may be empty."""

    @classmethod
    def of(cls, job: dict[str, Any]) -> "VideoJob":
        """What `asdict` made JSON of."""
        return cls(**(job | {"storage": Storage(**job["storage"])}))

    def to_json(self) -> dict[str, Any]:
        """For `Task.job`."""
        return asdict(self)


def make(job: dict[str, Any], folder: Path) -> None:
    """Writes the record of a video.

    Raises:
        Rejected: everything that keeps the video from being used.
    """
    options = VideoJob.of(job)
    if clip_path(folder, options.video).exists():
        return
    files = files_of(Path(options.root), options.video)
    problem = _camera_problem(files)
    tracks = _checked_tracks(files, options, problem if options.bad_camera == LEAVE_OUT else "")
    frames = store_frames(files.pictures, options.storage)
    visible = inside(tracks.points_px, frames.original)
    if files.visibility.exists():
        visible &= _visible(files, tracks)
    points, ids = _points(tracks, visible, (frames.original, frames.size), options)
    segments = Segments(ids, background=(0,))
    masks = tuple(
        segments.to_png(nearest(mask, frames.size))
        for _, mask in each_decoded(files.masks, decode_ids, frames.original)
    )
    camera = None
    if files.has_camera and not problem:
        camera = _camera(files, options, frames.original, frames.size)
    provenance = {
        "split": options.split,
        "original_size": frames.original,
        "scale": [new / old for new, old in zip(frames.size, frames.original, strict=True)],
        "frames": [path.name for path in files.pictures],
        "tracks": f"{files.tracks.parent.name}/{files.tracks.name}",
        "camera": f"{CAMERAS}/{options.video}/{files.camera.name}" if files.has_camera else "",
        "camera_problem": problem,
        "panoptic_ids": segments.ids,
        "classes": [class_of(panoptic_id) for panoptic_id in segments.ids],
        **_class_names(segments.ids, options),
    }
    about = About("vipseg", options.licence, provenance)
    pictures = (frames.jpegs, masks)
    write_clip(folder, real_clip(options.video, FPS, pictures, points, camera, about))


def _checked_tracks(files: VideoFiles, options: VideoJob, camera_problem: str) -> VIPSegTracks:
    """The tracks of a video in which all agrees with all; decodes no picture."""
    count, tracks = len(files.pictures), None
    problems = problems_of(files.pictures, files.masks, options.min_frames)
    try:
        tracks = read_vipseg(files.tracks)
    except UserError as error:
        there = files.tracks.exists()
        problems.append(f"{files.tracks.name}: {error.got}" if there else f"no {files.tracks.name}")
    else:
        if count and len(tracks.points_px) != count:
            problems.append(f"{count} pictures but tracks of {len(tracks.points_px)} points")
    reject([*problems, camera_problem] if camera_problem else problems)
    return tracks


def _camera_problem(files: VideoFiles) -> str:
    """What keeps a camera file from being used; empty if there is none."""
    if not files.has_camera:
        return ""
    try:
        count = len(read_camera(files.camera).rotations)
    except UserError as error:
        return f"{files.camera.name}: {error.got}"
    if count != len(files.pictures):
        return f"{len(files.pictures)} pictures but {count} cameras"
    return ""


def _visible(files: VideoFiles, tracks: VIPSegTracks) -> np.ndarray:
    try:
        return read_visibility(files.visibility, tracks)
    except UserError as error:
        raise Rejected(f"{files.visibility.name}: {error.got}") from error


def _points(
    tracks: VIPSegTracks, visible: np.ndarray, sizes: tuple[Size, Size], options: VideoJob
) -> tuple[Points, tuple[int, ...]]:
    """The tracks that are kept, and the ids of all segments that have one.

    `sizes` are the original one and the stored one.
    """
    original, size = sizes
    ids = tuple(i for i in tracks.ids if i or options.void == KEEP)
    chosen_tracks = [tracks.ids.index(i) for i in ids]
    points, visible = tracks.points_px[:, chosen_tracks], visible[:, chosen_tracks]
    outside = 1 - inside(points, original).mean(axis=0)
    kept = np.flatnonzero(outside <= options.most_outside)
    reject([] if len(kept) else ["no track is left by --void and --most_outside"])
    chosen = Points(
        scaled(points[:, kept], original, size),
        visible[:, kept],
        tuple(kind_of(ids[track]) for track in kept),
        tuple(kept.tolist()),
    )
    return chosen, ids


def _camera(files: VideoFiles, options: VideoJob, original: Size, size: Size) -> RealCamera:
    numbers = VIPSegClip(Path(options.root), options.video).camera(0, len(files.pictures))
    rt = np.concatenate([numbers[:, :9].reshape(-1, 3, 3), numbers[:, 9:, None]], axis=2)
    k = np.zeros((len(rt), 3, 3))
    if (intrinsics := read_intrinsics(files.camera, original)) is not None:
        to_stored = np.diag([size[1] / original[1], size[0] / original[0], 1])
        k[:] = to_stored @ intrinsics
    return RealCamera(k, rt)


def _class_names(ids: list[int], options: VideoJob) -> dict[str, list[str]]:
    if not options.class_names:
        return {}
    return {"class_names": [options.class_names.get(str(class_of(i)), "") for i in ids]}
