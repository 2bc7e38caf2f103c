"""One video with tracks: its frames as pictures, its points, and whether each is seen.

One task of `track_videos`; it runs in a worker process.
"""

import io
import json
import math
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Int32, UInt8
from PIL import Image

from data_prep.fanout.task import Rejected, appearing
from data_prep.videos.pictures import decode_ids, pictures_in
from data_prep.videos.text_file import read_text
from posetraj_jax.errors import UserError
from posetraj_jax.tracking import lucas_kanade, seeds, tapnet, track_json
from posetraj_jax.tracking.seeds import Seeds
from posetraj_jax.tracking.track_json import Tracked
from posetraj_jax.video import MAX_FRAMES, contact_sheet, draw_polylines, read_video

Array = np.ndarray

WORK = "data_prep.videos.tracked_video:track"
LUCAS_KANADE, COTRACKER, BOOTSTAPIR, TAPNEXT = TRACKERS = (
    "lucas_kanade",
    "cotracker",
    "bootstapir",
    "tapnext",
)
TRACKS, VISIBILITY, SHEET = "tracks.json", "visible.json", "sheet.jpg"
JPEG_QUALITY = 95
SHEET_WIDTH = 480
"""Pixels of a frame in the picture that shows the tracks."""


@dataclass(frozen=True)
class VideoJob:
    """What the tracks of a video depend on."""

    video: str
    """File, or folder of pictures."""
    stamp: str
    """Of all files."""
    tracker: str
    """One of TRACKERS."""
    start: int
    stride: int
    num_frames: int
    """At most; 0 = all, of which there may be MAX_FRAMES."""
    num_points: int
    """Where neither masks nor points are given."""
    masks: str = ""
    """Folder of PNGs, one for each frame or one for the first; empty = none."""
    points: tuple[tuple[float, float], ...] = ()
    """(x, y) in the first frame, pixels."""
    weights: str = ""
    """Of a network."""
    tracks: str = ""
    """What CoTracker made of this video: .npz, .npy, or JSON as the official repository ships."""

    def to_json(self) -> dict[str, Any]:
        """For a task."""
        return asdict(self)


def track(job: dict[str, Any], folder: Path) -> None:
    """Writes the frames, TRACKS, VISIBILITY and SHEET of a video.

    Raises:
        Rejected: the video, its masks or its points cannot be used.
        UserError: a network or its weights are missing.
    """
    o = VideoJob(**{**job, "points": tuple(map(tuple, job["points"]))})
    try:
        most = o.num_frames or MAX_FRAMES + 1
        frames, _ = read_video(o.video, most, start=o.start, stride=o.stride)
    except UserError as error:
        raise Rejected(f"{error.what}: {error.got}") from error
    if len(frames) > MAX_FRAMES:
        raise Rejected(f"more than {MAX_FRAMES} frames: say how many with --num_frames")
    if len(frames) < 2:
        raise Rejected("one frame is no video")
    chosen, tracked = _tracked(o, frames)
    for number, frame in enumerate(frames):
        _write_jpeg(folder / f"{number:05d}.jpg", frame)
    with appearing(folder / TRACKS) as partial:
        track_json.write_tracks(partial, chosen, tracked)
    with appearing(folder / VISIBILITY) as partial:
        track_json.write_visibility(partial, chosen, tracked)
    _write_jpeg(folder / SHEET, _sheet(frames, tracked))


def _tracked(o: VideoJob, frames: UInt8[Array, "f h w 3"]) -> tuple[tuple[int, ...], Tracked]:
    size = frames.shape[1:3]
    try:
        if o.tracker == COTRACKER:
            return _of_cotracker(Path(o.tracks), len(frames), size)
        masks = _masks(o, len(frames), size)
        chosen = _seeds(o, frames, masks)
        if o.tracker == LUCAS_KANADE:
            return chosen.ids, lucas_kanade.track(frames, chosen.points_px, masks=masks)
    except UserError as error:
        raise Rejected(f"{error.what}: {error.got}") from error
    return chosen.ids, tapnet.track(
        frames, chosen.points_px, model=o.tracker, weights=Path(o.weights)
    )


def _seeds(o: VideoJob, frames: Array, masks: Int32[Array, "_ h w"] | None) -> Seeds:
    if o.points:
        return seeds.from_points(o.points, frames.shape[1:3])
    if masks is not None:
        return seeds.from_mask(masks[0])
    return seeds.from_video(frames, o.num_points)


def _masks(o: VideoJob, num_frames: int, size: tuple[int, int]) -> Int32[Array, "_ h w"] | None:
    """One for each frame, or that of the first frame alone."""
    if not o.masks:
        return None
    paths = pictures_in(Path(o.masks))
    if len(paths) > 1:
        paths = paths[o.start :: o.stride][:num_frames]
    if len(paths) not in (1, num_frames):
        raise Rejected(f"{len(paths)} masks for {num_frames} frames; expected as many, or one")
    masks = np.stack([decode_ids(path.read_bytes(), str(path)) for path in paths])
    if masks.shape[1:] != size:
        raise Rejected(
            f"masks of {masks.shape[2]}x{masks.shape[1]} for frames of {size[1]}x{size[0]}"
        )
    return masks


def _of_cotracker(
    path: Path, num_frames: int, size: tuple[int, int]
) -> tuple[tuple[int, ...], Tracked]:
    if path.suffix == ".json":
        ids, tracked = track_json.read_tracks(path, size)
    else:
        tracked = track_json.read_cotracker(path, size)
        ids = tuple(range(seeds.FIRST_UNKNOWN, seeds.FIRST_UNKNOWN + tracked.points_px.shape[1]))
    if len(tracked.points_px) != num_frames:
        raise Rejected(f"{num_frames} frames, but {len(tracked.points_px)} in {path.name}")
    return tuple(ids), tracked


def _sheet(frames: UInt8[Array, "f h w 3"], tracked: Tracked) -> UInt8[Array, "_ _ 3"]:
    """Some frames with all tracks; paths are cut where a point is not seen."""
    points = np.where(tracked.visible[..., None], tracked.points_px, np.nan)
    drawn = draw_polylines(frames, points)[:: max(1, len(frames) // 7)]
    scale = max(1, -(-frames.shape[2] // SHEET_WIDTH))
    return contact_sheet(drawn[:, ::scale, ::scale], columns=4)


def _write_jpeg(path: Path, picture: UInt8[Array, "h w 3"]) -> None:
    if path.exists():
        return
    data = io.BytesIO()
    Image.fromarray(picture).save(data, "JPEG", quality=JPEG_QUALITY)
    with appearing(path) as partial:
        partial.write_bytes(data.getvalue())


def read_points(path: Path) -> dict[str, list[list[float]]]:
    """Points by the name of the video: JSON {video: [[x, y], ...]}.

    Raises:
        UserError: not such a file.
    """
    try:
        content = json.loads(read_text(path))
        good = isinstance(content, dict) and all(
            isinstance(points, list) and points and all(_is_point(point) for point in points)
            for points in content.values()
        )
        got = "something else" if not good else ""
    except (OSError, ValueError, RecursionError) as error:
        got = f"{type(error).__name__}: {error}"[:300]
    if got:
        raise UserError(
            f"The points cannot be read: {path}",
            expected="a JSON object: name of the video to a list of [x, y], pixels",
            got=got,
            fix="mend that file",
        )
    return content


def _is_point(value: Any) -> bool:
    numbers = isinstance(value, list) and all(type(n) in (int, float) for n in value)
    return numbers and len(value) == 2 and all(abs(n) < math.inf for n in value)
