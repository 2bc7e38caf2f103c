"""Small clips in which everything agrees: a box on a floor before a still camera."""

import io

import numpy as np
from PIL import Image

from data_prep.scenes import geometry
from posetraj_jax.data.clip import Clip

HEIGHT, WIDTH, FRAMES = 64, 96, 4
LOW, HIGH = np.array([-0.4, -0.5, 0.0]), np.array([0.4, 0.5, 0.6])


def encoded(picture: np.ndarray, kind: str) -> bytes:
    data = io.BytesIO()
    Image.fromarray(picture).save(data, kind)
    return data.getvalue()


def noise(number: int, shape: tuple[int, ...] = (HEIGHT, WIDTH, 3)) -> np.ndarray:
    return np.random.default_rng(number).integers(0, 256, shape, np.uint8)


def sound_clip(number: int = 0, **changes) -> Clip:
    """One object that moves 0.1 m along x in each frame and turns by 10 degrees."""
    k, rt = geometry.official_k(WIDTH, HEIGHT), geometry.official_rt()
    angles = np.deg2rad(10.0 * np.arange(FRAMES))
    places = np.stack([0.1 * np.arange(FRAMES), np.zeros(FRAMES)], axis=1)
    poses = np.stack(
        [
            geometry.standing_pose(place, np.array([np.sin(a), -np.cos(a)]))
            for place, a in zip(places, angles, strict=True)
        ]
    )
    box = geometry.box_corners(LOW, HIGH)
    world = np.stack([geometry.transform(pose, box) for pose in poses])
    floor = geometry.project(poses[:, :3, 3], k, rt)
    mask = np.zeros((HEIGHT, WIDTH), np.uint8)
    mask[30:40, 40:50] = 1
    clip = Clip(
        clip_id=f"clip-{number:03d}",
        frames_jpeg=tuple(encoded(noise(10 * number + t), "JPEG") for t in range(FRAMES)),
        masks_png=(encoded(mask, "PNG"),) * FRAMES,
        depths_png=(encoded(mask.astype(np.uint16), "PNG"),) * FRAMES,
        fps=5.0,
        tracks_px=np.stack([floor, floor - [0, 5]], axis=1).astype(np.float32),
        tracks_visible=np.ones((FRAMES, 2), bool),
        track_kinds=("floor", "surface"),
        track_objects=np.zeros(2, np.int32),
        box_world=world[:, None].astype(np.float32),
        box_px=geometry.project(world, k, rt)[:, None].astype(np.float32),
        object_pose=poses[:, None].astype(np.float32),
        camera_k=np.tile(k, (FRAMES, 1, 1)).astype(np.float32),
        camera_rt=np.tile(rt, (FRAMES, 1, 1)).astype(np.float32),
        camera_known=True,
        source="test",
        licence="CC0-1.0",
        provenance={"curve": "circle" if number % 2 else "S"},
    )
    return clip._replace(**changes)


def real_clip(number: int = 0) -> Clip:
    """As of real video: no box, no camera; the second of two points leaves the picture at once."""
    clip = sound_clip(number)
    points = clip.tracks_px.copy()
    points[1:, 1] = -1e5, 3e4
    visible = clip.tracks_visible.copy()
    visible[1:, 1] = False
    return clip._replace(
        depths_png=(),
        tracks_px=points,
        tracks_visible=visible,
        track_kinds=("object", "stuff"),
        track_objects=np.array([0, 1], np.int32),
        box_world=clip.box_world[:, :0],
        box_px=clip.box_px[:, :0],
        object_pose=clip.object_pose[:, :0],
        camera_k=np.zeros_like(clip.camera_k),
        camera_rt=np.zeros_like(clip.camera_rt),
        camera_known=False,
        provenance={"panoptic_ids": [12400, 43]},
    )
