"""Pictures, tracks and cameras of a user → the batch that the networks are given."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import cv2
import numpy as np
from jaxtyping import Float32, UInt8
from PIL import Image

from posetraj_jax import video
from posetraj_jax.data import transforms
from posetraj_jax.data.camera_file import read_camera
from posetraj_jax.data.tracks import draw_maps
from posetraj_jax.errors import UserError, listed
from posetraj_jax.sampling.settings import Settings
from posetraj_jax.structs import CAMERA_NUMBERS, Batch
from posetraj_jax.trajectories import (
    TrackFile,
    Trajectories,
    parse_tracks,
    plain_content,
    read_tracks,
    resample,
)

Array = np.ndarray

FAR_PX = 1 << 28
"""Lines to points beyond are cut off there, which OpenCV's numbers can hold."""
DIMMED = 3
"""How many times darker a preview shows what the video cuts off."""


class Request(NamedTuple):
    """One video to make, checked: the picture at the video's size, and its tracks."""

    image_uint8: UInt8[Array, "h w 3"]
    trajectories: Trajectories
    camera_rt: Float32[Array, "f 12"] | None
    """World to camera; None if the camera is unknown."""


def read_request(
    image: Any, tracks: Any, settings: Settings, camera: Path | str | None = None
) -> Request:
    """Reads and fits what one video is made of.

    Args:
        image: path of a picture, a picture of Pillow's, or an array [h w 3], uint8.
        tracks: path of a track file, what such a file holds, also as tuples or arrays, or a
            TrackFile.
        settings: of the video.
        camera: a camera.npy as TRAM writes it, camera to world for each frame.

    Raises:
        UserError: naming what cannot be used.
    """
    picture = _picture_of(image)
    track_file = _track_file_of(tracks, picture.shape[:2])
    drawn = resample(track_file, settings.num_frames, picture.shape[:2])
    fitted, tracks_px = fit(picture, drawn.tracks_px, settings)
    shown = drawn._replace(tracks_px=tracks_px)
    _require_in_sight(shown, drawn, picture.shape[:2], settings)
    return Request(
        fitted,
        shown,
        None if camera is None else read_extrinsics(camera, settings.num_frames),
    )


def _picture_of(image: Any) -> UInt8[Array, "h w 3"]:
    if isinstance(image, str | Path):
        return video.read_image(image)
    got = type(image).__name__
    if isinstance(image, Image.Image):
        try:
            return video.rgb_within(image)
        except video.READ_ERRORS as error:
            got = str(error)
    elif isinstance(image, np.ndarray):
        if image.dtype == np.uint8 and image.ndim == 3 and image.shape[2] == 3 and image.size:
            return image
        got = f"an array {list(image.shape)}, {image.dtype}"
    raise UserError(
        "The picture cannot be used",
        expected="the path of a picture, a picture of Pillow's, or an array [h w 3] of uint8",
        got=got,
        fix="give one of these, such as posetraj_jax.video.read_image(path)",
    )


def _track_file_of(tracks: Any, size: tuple[int, int]) -> TrackFile:
    if isinstance(tracks, str | Path):
        return read_tracks(tracks, size)
    return parse_tracks(plain_content(tracks), size)


def _require_in_sight(
    shown: Trajectories, drawn: Trajectories, size: tuple[int, int], settings: Settings
) -> None:
    """Refuses tracks of which the video would show nothing.

    Args:
        shown: in pixels of the video.
        drawn: the same in pixels of the picture.
        size: (height, width) of the picture.
        settings: of the video.
    """
    lost = [
        f"track {number}: x {_span(path[:, 0])}, y {_span(path[:, 1])}"
        for number, path in enumerate(drawn.tracks_px.swapaxes(0, 1))
        if not _is_in_sight(shown.tracks_px[:, number], shown.visible[:, number], settings)
    ]
    if lost:
        top, left, height, width = _cut(size, settings)
        raise UserError(
            "Tracks lie where the video shows nothing of the picture",
            expected=f"tracks that enter x {left} to {left + width}, y {top} to {top + height}: "
            f"a video of {settings.width} x {settings.height} shows no more of a picture of "
            f"{size[1]} x {size[0]} pixels",
            got=listed(lost),
            fix="use --fit stretch, or a --height and --width of the picture's shape, or move "
            "these tracks; --preview shows what is cut off",
        )


def _is_in_sight(points_px: Array, visible: Array, settings: Settings) -> bool:
    """Whether any visible piece of a track is in the video, or nothing of it visible anywhere."""
    points = np.clip(np.floor(points_px), -FAR_PX, FAR_PX).astype(int).tolist()
    seen = np.flatnonzero(visible).tolist()
    follows = [t for t in seen if t + 1 < len(points) and visible[t + 1]]
    pieces = [(points[t], points[t]) for t in seen] + [(points[t], points[t + 1]) for t in follows]
    # The borders count, as they do for tracks in a picture.
    frame = (-1, -1, settings.width + 2, settings.height + 2)
    return not pieces or any(cv2.clipLine(frame, start, end)[0] for start, end in pieces)


def _span(numbers: Array) -> str:
    return f"{numbers.min():.6g} to {numbers.max():.6g}"


def fit(
    picture: UInt8[Array, "_ _ 3"], tracks_px: Array, settings: Settings
) -> tuple[UInt8[Array, "h w 3"], Array]:
    """The picture at the video's size, and points of it where they then are."""
    top, left, height, width = _cut(picture.shape[:2], settings)
    cut = picture[top : top + height, left : left + width]
    size = settings.height, settings.width
    resized = transforms.resize_frames(cut[None], *size, kind="lanczos")[0]
    return resized, fit_points(tracks_px, picture.shape[:2], settings)


def fit_points(points_px: Array, size: tuple[int, int], settings: Settings) -> Array:
    """Points (x, y) of a picture of this (height, width) where the video has them."""
    top, left, height, width = _cut(size, settings)
    return (points_px - [left, top]) * [settings.width / width, settings.height / height]


def dim_outside(picture: UInt8[Array, "h w 3"], settings: Settings) -> UInt8[Array, "h w 3"]:
    """The picture with what the video does not show of it darkened."""
    top, left, height, width = _cut(picture.shape[:2], settings)
    inside = np.s_[top : top + height, left : left + width]
    dimmed = picture // DIMMED
    dimmed[inside] = picture[inside]
    return dimmed


def _cut(size: tuple[int, int], settings: Settings) -> tuple[int, int, int, int]:
    """Top, left, height and width of what the video shows of a picture, pixels."""
    if settings.fit != "crop":
        return 0, 0, *size
    scale = min(size[0] / settings.height, size[1] / settings.width)
    height, width = (max(1, round(s * scale)) for s in (settings.height, settings.width))
    return (size[0] - height) // 2, (size[1] - width) // 2, height, width


def read_extrinsics(path: Path | str, num_frames: int) -> Float32[Array, "f 12"]:
    """The cameras of the first frames, world to camera, from a file of camera to world.

    Raises:
        UserError: it cannot be read, or has fewer frames.
    """
    try:
        rotations, translations = read_camera(Path(path))
    except UserError as error:
        fix = "give another --camera, or none: the camera is then unknown"
        raise UserError(error.what, expected=error.expected, got=error.got, fix=fix) from error
    if len(rotations) < num_frames:
        raise UserError(
            f"The camera file is too short: {path}",
            expected=f"a camera for each of {num_frames} frames",
            got=f"{len(rotations)}",
            fix="ask for fewer frames, or give a longer file",
        )
    rotations, translations = rotations[:num_frames], translations[:num_frames]
    turned = rotations.swapaxes(1, 2)
    moved = -np.einsum("fij,fj->fi", turned, translations)
    return np.concatenate([turned.reshape(-1, 9), moved], axis=1).astype(np.float32)


def make_batch(requests: Sequence[Request], settings: Settings) -> Batch:
    """The batch of some videos; numpy."""
    size, frames = (settings.height, settings.width), settings.num_frames
    maps = [
        draw_maps(r.trajectories.tracks_px, size, size, visible=r.trajectories.visible)
        for r in requests
    ]
    unknown = np.zeros((frames, CAMERA_NUMBERS), np.float32)
    cameras = [unknown if r.camera_rt is None else r.camera_rt for r in requests]
    return Batch(
        frames_uint8=None,
        first_frame_uint8=np.stack([r.image_uint8 for r in requests]),
        maps_uint8=np.stack(maps),
        camera_rt=np.stack(cameras),
        camera_known=np.array([r.camera_rt is not None for r in requests]),
        fps=np.full(len(requests), settings.fps, np.float32),
    )
