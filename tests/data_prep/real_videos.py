"""Tiny folders laid out as VIPSeg and DAVIS are; every number can be recognised."""

import io
import json
import os
from pathlib import Path

import numpy as np
from PIL import Image

HEIGHT, WIDTH = 40, 80
VIDEOS = ("1003_bW7ntcdquEU", "51_aoCoZvc2ID8", "1629_-DvEZhAfl9E")
CAMERA_KEYS = ("pred_cam_R", "pred_cam_T", "img_focal", "img_center")
TRACK_IDS = (0, 43, 6100, 6101)
"""Void, a class of stuff, and two persons; the masks have another one, 12400."""
LATE_ID = 12400


def encoded(picture: np.ndarray, kind: str) -> bytes:
    data = io.BytesIO()
    Image.fromarray(picture).save(data, kind)
    return data.getvalue()


def write(path: Path, data: bytes) -> None:
    """Writes with a fixed time, so that another copy of the same files makes equal tasks."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)
    os.utime(path, (1_700_000_000, 1_700_000_000))


def tracks_of(num_frames: int) -> dict[str, list[list[int]]]:
    """Void leaves the picture in frame 7, stuff rests, one person walks, one is lost at once."""
    time = range(num_frames)
    places = ([5 * t, 33 + t] for t in time), ([70, 8] for _ in time)
    places += (
        ([10 + 2 * t, 20] for t in time),
        ([-108645 + t, 32437] if t else [5, 5] for t in time),
    )
    return {str(i): list(points) for i, points in zip(TRACK_IDS, places, strict=True)}


def mask_of(frame: int) -> np.ndarray:
    """Quarters: void, stuff, a person, and what comes into sight in frame 3."""
    mask = np.zeros((HEIGHT, WIDTH), np.uint16)
    mask[:20, 40:] = 43
    mask[20:, :40] = 6100
    if frame >= 3:
        mask[20:, 40:] = LATE_ID
    return mask


def vipseg_video(root: Path, name: str, num_frames: int = 15, *, masks: bool = True) -> None:
    """Frame t is grey 8 t, with a white column at x = 4 t."""
    for t in range(num_frames):
        frame = np.full((HEIGHT, WIDTH, 3), 8 * t, np.uint8)
        frame[:, 4 * t : 4 * t + 4] = 255
        write(root / "imgs" / name / f"{t:08d}.jpg", encoded(frame, "JPEG"))
        if masks:
            write(root / "panomasks" / name / f"{t:08d}.png", encoded(mask_of(t), "PNG"))
    write_tracks(root, name, tracks_of(num_frames))


def write_tracks(root: Path, name: str, tracks: dict) -> None:
    path = root / "trajectory_CoTracker_all" / f"{name}.json"
    write(path, json.dumps(tracks).encode())


def write_camera(root: Path, name: str, num_frames: int, **changes: object) -> None:
    """A camera that moves to the right, camera to world; focal length 60, in the middle."""
    content = {
        "pred_cam_R": np.tile(np.eye(3, dtype=np.float32), (num_frames, 1, 1)),
        "pred_cam_T": np.arange(num_frames * 3, dtype=np.float32).reshape(-1, 3),
        "img_focal": np.float64(60),
        "img_center": np.array([WIDTH / 2, HEIGHT / 2]),
    } | changes
    data = io.BytesIO()
    np.save(data, content, allow_pickle=True)
    write(root / "estimated_cam_rt" / name / "camera.npy", data.getvalue())


def vipseg(root: Path) -> Path:
    """Three good videos; one has 16 frames and a camera, one no masks."""
    vipseg_video(root, VIDEOS[0])
    vipseg_video(root, VIDEOS[1], 16)
    vipseg_video(root, VIDEOS[2], masks=False)
    write_camera(root, VIDEOS[1], 16)
    return root


BALL_PX = 2
"""How far the first object of a sequence of DAVIS moves in each frame."""


def davis(root: Path, resolution: str = "480p", num_frames: int = 14) -> Path:
    """Three sequences: bear and kite to validate on, lucia to train on."""
    for name in ("bear", "kite", "lucia"):
        davis_sequence(root, name, resolution, num_frames)
    write(root / "ImageSets/2017/val.txt", b"bear\nkite\n")
    write(root / "ImageSets/2017/train.txt", b"lucia\n")
    return root


def davis_sequence(root: Path, name: str, resolution: str = "480p", num_frames: int = 14) -> None:
    """A textured square goes right; from frame 4 to 8 a second one is there; a rim is void."""
    noise = np.random.default_rng(len(name)).integers(0, 255, (40, 40, 3), dtype=np.uint8)
    for t in range(num_frames):
        frame, mask = np.full((96, 160, 3), 60, np.uint8), np.zeros((96, 160), np.uint8)
        x = 10 + BALL_PX * t
        mask[28:72, x - 2 : x + 42] = 255
        frame[30:70, x : x + 40], mask[30:70, x : x + 40] = noise, 1
        if 4 <= t < 9:
            frame[4:24, 120:150], mask[4:24, 120:150] = noise[:20, :30], 2
        write(root / "JPEGImages" / resolution / name / f"{t:05d}.jpg", encoded(frame, "JPEG"))
        path = root / "Annotations" / resolution / name / f"{t:05d}.png"
        write(path, palette_png(mask))


def palette_png(mask: np.ndarray) -> bytes:
    """As DAVIS has them: colours in a palette, objects by their index."""
    image = Image.fromarray(mask).convert("P")
    image.putpalette([(37 * i) % 256 for i in range(768)])
    data = io.BytesIO()
    image.save(data, "PNG")
    return data.getvalue()
