"""Small clips for the tests of the data path; every number can be recognised."""

import io
import json
from pathlib import Path

import numpy as np
from PIL import Image

from posetraj_jax.data.records import Clip

HEIGHT, WIDTH = 64, 128
NUM_CLIPS = 5
"""Of the small dataset."""


def jpeg(frame: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(frame).save(buffer, "JPEG", quality=95)
    return buffer.getvalue()


def png(frame: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(frame).save(buffer, "PNG")
    return buffer.getvalue()


def grey(level: int, height: int = HEIGHT, width: int = WIDTH) -> np.ndarray:
    return np.full((height, width, 3), level, np.uint8)


def make_clip(number: int = 0, num_frames: int = 16, **changes) -> Clip:
    """Frame t of clip c is flat grey 10 c + t; the floor point moves 2 px right in each frame."""
    time = np.arange(num_frames, dtype=np.float32)
    floor = np.stack([40 + 2 * time, np.full_like(time, 50)], axis=-1)
    corners = np.array([(x, y, z) for z in (0, 1) for y in (0, 1) for x in (0, 1)], np.float32)
    projected = corners[:, :2] * [30, 12] + corners[:, 2:] * [0, -20] + [30, 40]
    pose = np.eye(4, dtype=np.float32)
    camera_rt = np.array([[0, -1, 0, 1], [1, 0, 0, 2], [0, 0, 1, 3]], np.float32)
    clip = Clip(
        clip_id=f"clip-{number:03d}",
        frames_jpeg=tuple(jpeg(grey(10 * number + t)) for t in range(num_frames)),
        masks_png=tuple(png(np.zeros((HEIGHT, WIDTH), np.uint8)) for _ in range(num_frames)),
        depths_png=(),
        fps=29.97,
        tracks_px=np.stack([floor, floor - [0, 10]], axis=1).astype(np.float32),
        tracks_visible=np.ones((num_frames, 2), bool),
        track_kinds=("floor", "centre"),
        track_objects=np.zeros(2, np.int32),
        box_world=np.tile(corners, (num_frames, 1, 1, 1)),
        box_px=np.tile(projected.astype(np.float32), (num_frames, 1, 1, 1)),
        object_pose=np.tile(pose, (num_frames, 1, 1, 1)),
        camera_k=np.tile(np.eye(3, dtype=np.float32), (num_frames, 1, 1)),
        camera_rt=np.tile(camera_rt, (num_frames, 1, 1)),
        camera_known=True,
        source="test",
        licence="CC0-1.0",
        provenance={"number": number},
    )
    return clip._replace(**changes)


OFFICIAL_SIZE, OFFICIAL_LENGTH = (48, 72), 16
# Corner order of the official renderer: 0-1 and 2-3 are the floor's diagonals, 4..7 are above.
OFFICIAL_BOX = np.array(
    [(10, 30), (30, 40), (30, 30), (10, 40), (10, 10), (30, 20), (30, 10), (10, 20)], np.float64
)


def official_clip(root: Path, name: str = "0a1b_0_circle", length: int = OFFICIAL_LENGTH) -> Path:
    """Clean frame t is grey t, boxed frame t is grey 100 + t, map t is grey 200 + t."""
    folder = root / name
    for part, level, count in (
        ("images", 0, length),
        ("images_bbox", 100, length),
        ("traj_vid_enhanced", 200, length + 1),
    ):
        (folder / part).mkdir(parents=True)
        for t in range(count):
            (folder / part / f"{t:04d}.png").write_bytes(png(grey(level + t, *OFFICIAL_SIZE)))
    time = np.arange(length)
    np.save(folder / "traj.npy", np.stack([4.0 + 5 * time, 40.0 - time], axis=-1))
    np.save(folder / "bbox.npy", OFFICIAL_BOX + time[:, None, None])
    return folder


VIPSEG_SIZE = (48, 96)


def vipseg_video(root: Path, name: str, length: int = 16, level: int = 0) -> dict[str, list]:
    """Frame t is grey level + t; returns what is in the file of tracks."""
    (root / "imgs" / name).mkdir(parents=True)
    for t in range(length):
        picture = png(grey(level + t, *VIPSEG_SIZE))
        (root / "imgs" / name / f"{t:08d}.png").write_bytes(picture)
    tracks = {
        "0": [[5, 40 + t] for t in range(length)],  # leaves the picture at t = 8
        "43": [[90, 10] for _ in range(length)],
        "12400": [[10 + 4 * t, 24] for t in range(length)],
        "12401": [[-108645 + t, 32437] for t in range(length)],
    }
    folder = root / "trajectory_CoTracker_all"
    folder.mkdir(exist_ok=True)
    (folder / f"{name}.json").write_text(json.dumps(tracks))
    return tracks
