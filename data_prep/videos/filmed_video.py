"""The camera of one video. One task of `estimate_cameras`; it runs in a worker process."""

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from data_prep.fanout.task import Rejected, appearing
from data_prep.videos.pictures import decode_ids, pictures_in
from posetraj_jax.cameras import camera_npy, estimate
from posetraj_jax.data.track_file import FIRST_THING
from posetraj_jax.errors import UserError
from posetraj_jax.video import MAX_FRAMES, read_video

WORK = "data_prep.videos.filmed_video:film"
CAMERA = "camera.npy"


@dataclass(frozen=True)
class VideoJob:
    """What the camera of a video depends on."""

    pictures: str
    """Folder."""
    stamp: str
    """Of all files."""
    masks: str = ""
    """Folder of PNGs, one for each frame; empty = none."""
    lowest_id: int = FIRST_THING
    """What has this number in the masks, or a higher one, may move by itself."""
    focal_px: float = 0.0
    """Of the pictures; 0 = not known."""
    work_width: int = 640
    """Pixels to which wider frames are scaled down for the work."""
    scale_by: str = "depth"
    """See `estimate.Options`."""
    scale_value: float = 1.0

    def to_json(self) -> dict[str, Any]:
        """For a task."""
        return asdict(self)


def film(job: dict[str, Any], folder: Path) -> None:
    """Writes CAMERA for a video.

    Raises:
        Rejected: it cannot be read, or its camera cannot be told.
    """
    o = VideoJob(**job)
    try:
        frames, _ = read_video(o.pictures, MAX_FRAMES + 1)
        if len(frames) > MAX_FRAMES:
            raise Rejected(f"more than {MAX_FRAMES} frames")
        k = _k(o.focal_px, frames.shape[1:3]) if o.focal_px else None
        options = estimate.Options(
            work_width=o.work_width,
            scale_by=o.scale_by,
            scale_value=o.scale_value,
            name=Path(o.pictures).name,
        )
        found = estimate.estimate(frames, masks=_masks(o, frames.shape), k=k, options=options)
    except UserError as error:
        raise Rejected(f"{error.what}: {error.got}") from error
    with appearing(folder / CAMERA) as partial:
        camera_npy.write_camera(partial, found)


def _k(focal_px: float, size: tuple[int, int]) -> np.ndarray:
    height, width = size
    return np.array([[focal_px, 0, width / 2], [0, focal_px, height / 2], [0, 0, 1.0]])


def _masks(o: VideoJob, shape: tuple[int, ...]) -> np.ndarray | None:
    """Non-zero where something may move by itself."""
    if not o.masks:
        return None
    paths = pictures_in(Path(o.masks))
    if len(paths) != shape[0]:
        raise Rejected(f"{shape[0]} frames but {len(paths)} masks")
    masks = np.empty(shape[:3], np.uint8)
    for target, path in zip(masks, paths, strict=True):
        ids = decode_ids(path.read_bytes(), str(path))
        if ids.shape != shape[1:3]:
            raise Rejected(f"mask {path.name} has another size than the frames")
        target[:] = ids >= o.lowest_id
    return masks
