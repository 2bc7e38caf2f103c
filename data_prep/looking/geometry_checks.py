"""Whether poses, cameras, boxes and tracks of a record are what they say; arrays only."""

from collections.abc import Iterator

import numpy as np
from jaxtyping import Float

from data_prep.engines import verify
from posetraj_jax.data.clip import Clip

Array = np.ndarray

NOT_ROTATION = 1e-3
"""How far R^T R may be from the identity, in any entry."""
EDGE_PX = 1e-2
"""How far outside the picture float32 may put a point on its border."""


def angles_deg(first: Float[Array, "*n 3 3"], second: Float[Array, "*n 3 3"]) -> Float[Array, "*n"]:
    """The angle of the rotation from each first to each second rotation, degrees."""
    turn = np.swapaxes(first, -1, -2) @ second
    skew = turn - np.swapaxes(turn, -1, -2)
    sine = np.sqrt(skew[..., 0, 1] ** 2 + skew[..., 0, 2] ** 2 + skew[..., 1, 2] ** 2) / 2
    cosine = (np.trace(turn, axis1=-2, axis2=-1) - 1) / 2
    return np.rad2deg(np.arctan2(sine, cosine))  # exact for small angles, as arccos is not


def geometry_problems(clip: Clip, size: tuple[int, int]) -> Iterator[str]:
    """Says what is wrong with a legal record's arrays; `size` is (height, width) of its frames."""
    poses = list(_rotation_problems("object_pose", clip.object_pose[..., :3, :3]))
    yield from poses
    last = clip.object_pose[..., 3, :]
    if np.abs(last - (0, 0, 0, 1)).max(initial=0) > 0:
        yield "object_pose: last rows are not 0 0 0 1"
    yield from _track_problems(clip, size)
    yield from _owner_problems(clip)
    if not clip.camera_known:
        return
    cameras = list(_rotation_problems("camera_rt", clip.camera_rt[..., :3]))
    yield from cameras
    if poses or cameras or not clip.camera_k.any() or not clip.box_px.shape[1]:
        return  # nothing can be projected
    for frame in range(len(clip.frames_jpeg)):
        for line in verify.geometry_problems(clip, frame):
            yield f"frame {frame}: {line}"


def _rotation_problems(name: str, rotations: Float[Array, "*n 3 3"]) -> Iterator[str]:
    exact = rotations.astype(np.float64).reshape(-1, 3, 3)
    off = np.abs(np.swapaxes(exact, 1, 2) @ exact - np.eye(3)).max(axis=(1, 2), initial=0)
    wrong = (off > NOT_ROTATION) | (np.linalg.det(exact) < 0)
    if wrong.any():
        yield f"{name}: {wrong.sum()} of {len(exact)} are not rotations"


def _track_problems(clip: Clip, size: tuple[int, int]) -> Iterator[str]:
    away = np.maximum(-clip.tracks_px, clip.tracks_px - size[::-1]).max(axis=2, initial=-1)
    wrong = clip.tracks_visible & (away > EDGE_PX)
    if wrong.any():
        frame, point = np.argwhere(wrong)[0]
        where = np.round(clip.tracks_px[frame, point], 2).tolist()
        yield (
            f"tracks_visible: {wrong.sum()} points are visible outside the picture, first point "
            f"{point} of frame {frame} at {where}"
        )


def _owner_problems(clip: Clip) -> Iterator[str]:
    most = clip.box_px.shape[1] or np.inf
    wrong = (clip.track_objects < -1) | (clip.track_objects >= most)
    if wrong.any():
        values = sorted(set(clip.track_objects[wrong].tolist()))
        yield f"track_objects: {values}, with {clip.box_px.shape[1]} objects"


def most_in_masks(clip: Clip) -> int:
    """The highest number that a mask may hold: objects; of real video, segments."""
    if clip.box_px.shape[1]:
        return clip.box_px.shape[1]
    lists = [clip.provenance.get(name) for name in ("panoptic_ids", "objects")]
    named = [len(each) for each in lists if isinstance(each, list)]
    return max([*named, *(clip.track_objects + 1).tolist()], default=255)
