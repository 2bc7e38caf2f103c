"""The clip record of a real video: no boxes and no poses, and a camera only if somebody has one."""

from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Float32

from data_prep.videos.pictures import Size
from posetraj_jax.data.clip import Clip

Array = np.ndarray


class Points(NamedTuple):
    """The tracked points of a video, in pixels of the stored frames."""

    positions_px: Float32[Array, "f p 2"]
    visible: Bool[Array, "f p"]
    kinds: tuple[str, ...]
    segments: tuple[int, ...]
    """Index of the segment that each point belongs to."""


class RealCamera(NamedTuple):
    """The camera of each frame."""

    k: Float[Array, "f 3 3"]
    """Zeros if the intrinsics are not known."""
    rt: Float[Array, "f 3 4"]
    """World to camera."""


class About(NamedTuple):
    """Where a video comes from."""

    source: str
    licence: str
    provenance: dict[str, Any]


def real_clip(
    clip_id: str,
    fps: float,
    pictures: tuple[tuple[bytes, ...], tuple[bytes, ...]],
    points: Points,
    camera: RealCamera | None,
    about: About,
) -> Clip:
    """The record; `pictures` are the frames as JPEG and the masks as PNG, none or as many."""
    frames_jpeg, masks_png = pictures
    count = len(frames_jpeg)
    known = camera is not None
    k, rt = camera if known else (np.zeros((count, 3, 3)), np.zeros((count, 3, 4)))
    return Clip(
        clip_id=clip_id,
        frames_jpeg=frames_jpeg,
        masks_png=masks_png,
        depths_png=(),
        fps=fps,
        tracks_px=points.positions_px,
        tracks_visible=points.visible,
        track_kinds=points.kinds,
        track_objects=np.array(points.segments, np.int32),
        box_world=np.zeros((count, 0, 8, 3), np.float32),
        box_px=np.zeros((count, 0, 8, 2), np.float32),
        object_pose=np.zeros((count, 0, 4, 4), np.float32),
        camera_k=k.astype(np.float32),
        camera_rt=rt.astype(np.float32),
        camera_known=known,
        source=about.source,
        licence=about.licence,
        provenance=about.provenance,
    )


def inside(points_px: Float[Array, "f p 2"], size: Size) -> Bool[Array, "f p"]:
    """Whether points lie in the picture, which spans [0, width) x [0, height)."""
    return ((points_px >= 0) & (points_px < size[::-1])).all(axis=2)


def scaled(points_px: Float[Array, "f p 2"], original: Size, size: Size) -> Float32[Array, "f p 2"]:
    """Points in pixels of a picture of another size. Pixels are places, not numbers of pixels.

    The picture spans [0, width] x [0, height] before and after, so a coordinate is multiplied with
    the ratio of the sizes and nothing is added; it is rounded to float32 only.
    """
    exact = np.asarray(points_px, np.float64) * size[::-1] / original[::-1]
    return exact.astype(np.float32)
