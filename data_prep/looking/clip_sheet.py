"""Draws every frame of a clip with its annotations on one picture.

Clips with 3D boxes. Red: the box. Yellow: the edge of the mask. Blue: the floor track, a green dot
where it is now. White: where the object looks. Dots: other tracked points, green if visible, else
grey. All other clips: every track, a green dot where it is now, or a grey one where it is hidden
or, at the border, outside the picture; blue for objects, yellow for stuff, white for void, and red
for other kinds.
"""

import itertools

import cv2
import numpy as np
from jaxtyping import Float, UInt8

from data_prep.engines.verify import decode
from data_prep.looking.dataset import Seen
from data_prep.scenes import geometry
from posetraj_jax.data.clip import Clip
from posetraj_jax.data.lazy_clip import BOXED, CLEAN, LazyClip
from posetraj_jax.data.tracks import RED, draw_boxes, draw_line

Array = np.ndarray

COLUMNS = 4
YELLOW, BLUE, GREEN, GREY, WHITE = (
    (255, 255, 0), (40, 90, 255), (0, 255, 0), (90, 90, 90), (255, 255, 255),
)  # fmt: skip
DARK = (40, 40, 40)
FONT, FONT_SCALE = cv2.FONT_HERSHEY_SIMPLEX, 0.45
KIND_COLOURS = {"object": BLUE, "stuff": YELLOW, "void": WHITE}
LOOKING = np.array([[0.0, 0.0, 0.0], [0.0, -0.8, 0.0]])
"""From an object's origin to before its front, in its frame, metres."""


def draw_clip(seen: Seen, *, plain: bool = False) -> UInt8[Array, "_ _ 3"]:
    """All frames of a clip, four in a row; `plain` draws nothing on them.

    Raises:
        UserError: a picture that cannot be decoded.
    """
    clip, record, num_frames = seen
    has_boxes = record is not None and record.box_px.shape[1] > 0
    if CLEAN in clip.frame_kinds:
        frames = clip.frames(0, num_frames).copy()
    else:
        frames = clip.boxed_frames(0, num_frames, 1).copy()
    if plain:
        return _grid(frames)
    if has_boxes:
        frames = draw_boxes(frames, record.box_px, thickness=1)
    elif BOXED in clip.frame_kinds:
        frames = clip.boxed_frames(0, num_frames, 1).copy()
    for index, frame in enumerate(frames):
        if has_boxes:
            _draw_record(record, index, frame)
        else:
            _draw_tracks(clip, num_frames, index, frame)
        label(frame, f"{clip.clip_id} {index}")
    return _grid(frames)


def label(picture: UInt8[Array, "h w 3"], text: str, where: tuple[int, int] = (6, 16)) -> None:
    """Writes white on a dark bar; letters that OpenCV does not have are spelt out."""
    text = text if text.isascii() else ascii(text)
    (width, height), below = cv2.getTextSize(text, FONT, FONT_SCALE, 1)
    left, base = where
    corners = (left - 3, base - height - 3), (left + width + 2, base + below)
    cv2.rectangle(picture, *corners, DARK, -1)
    cv2.putText(picture, text, where, FONT, FONT_SCALE, WHITE, 1, cv2.LINE_AA)


def _grid(frames: UInt8[Array, "f h w 3"]) -> UInt8[Array, "_ _ 3"]:
    blanks = np.zeros((-len(frames) % COLUMNS, *frames.shape[1:]), np.uint8)
    grid = np.concatenate([frames, blanks])
    return np.concatenate(
        [np.concatenate(list(row), axis=1) for row in grid.reshape(-1, COLUMNS, *frames.shape[1:])]
    )


def _draw_tracks(clip: LazyClip, num_frames: int, index: int, frame: UInt8[Array, "h w 3"]) -> None:
    tracks = clip.tracks(0, num_frames)
    for number, kind in enumerate(() if tracks is None else tracks.kinds):
        points = np.trunc(tracks.points_px[:, number].astype(np.float64))
        for start, end in itertools.pairwise(points):
            draw_line(frame, start, end, KIND_COLOURS.get(kind, RED), 1)
        dot = GREEN if tracks.visible[index, number] else GREY
        _dot(frame, points[index], 4, dot)


def _draw_record(clip: Clip, index: int, frame: UInt8[Array, "h w 3"]) -> None:
    if clip.masks_png:
        mask = (decode(clip.masks_png[index]) > 0).astype(np.uint8)
        edges, _ = cv2.findContours(mask, cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE)
        cv2.drawContours(frame, edges, -1, YELLOW, 1)
    for point, kind in enumerate(clip.track_kinds):
        track = np.trunc(clip.tracks_px[:, point].astype(np.float64))
        if kind == "floor":
            for start, end in itertools.pairwise(track):
                draw_line(frame, start, end, BLUE, 1)
        colour = GREEN if clip.tracks_visible[index, point] else GREY
        _dot(frame, track[index], 3 if kind == "floor" else 1, colour)
    if clip.camera_known and clip.camera_k[index].any():
        for pose in clip.object_pose[index].astype(np.float64):
            _arrow(frame, pose, clip.camera_k[index], clip.camera_rt[index])


def _dot(
    frame: UInt8[Array, "h w 3"], at: Float[Array, "2"], radius: int, colour: tuple[int, int, int]
) -> None:
    """Points outside the picture come to its border."""
    here = np.clip(at, 0, np.array(frame.shape[1::-1]) - 1).astype(int)
    cv2.circle(frame, here.tolist(), radius, colour, -1)


def _arrow(
    frame: UInt8[Array, "h w 3"],
    pose: Float[Array, "4 4"],
    k: Float[Array, "3 3"],
    rt: Float[Array, "3 4"],
) -> None:
    ahead = geometry.transform(pose, LOOKING)
    if geometry.depth(ahead, rt).min() <= 0:
        return  # behind the camera
    start, end = np.clip(geometry.project(ahead, k, rt), -(1 << 14), 1 << 14).astype(int).tolist()
    cv2.arrowedLine(frame, start, end, WHITE, 1, cv2.LINE_AA, tipLength=0.15)
