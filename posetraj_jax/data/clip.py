"""The clip record: the one form that every raw source is turned into, and what makes it legal.

Conventions of every geometric field: world axes right-handed with z up, in metres of the scene;
camera axes as in OpenCV (x right, y down, z forward); `camera_rt` maps world to camera
(X_cam = R X_world + T); pixel coordinates are (x, y) at the size of the stored frames, the centre
of the top-left pixel is (0.5, 0.5) and the picture spans [0, width] x [0, height].
"""

import json
import re
from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Bool, Float32, Int32

from posetraj_jax.data.transforms import image_header
from posetraj_jax.errors import UserError, listed

Array = np.ndarray

ARRAYS: dict[str, tuple[str, type]] = {
    "tracks_px": ("f p 2", np.float32),
    "tracks_visible": ("f p", np.bool_),
    "track_objects": ("p", np.int32),
    "box_world": ("f o 8 3", np.float32),
    "box_px": ("f o 8 2", np.float32),
    "object_pose": ("f o 4 4", np.float32),
    "camera_k": ("f 3 3", np.float32),
    "camera_rt": ("f 3 4", np.float32),
}
"""Every array of a clip: its axes (f frames, p points, o objects) and its type."""
LEGAL_ID = re.compile(r"[A-Za-z0-9._-]+")


class Clip(NamedTuple):
    """One video clip with its annotations; f frames, p tracked points, o objects (any may vary)."""

    clip_id: str
    """Unique within the dataset; letters, digits, '-', '_' and '.' only."""
    frames_jpeg: tuple[bytes, ...]
    """f RGB frames, each JPEG-encoded, all of one size."""
    masks_png: tuple[bytes, ...]
    """f single-channel 8-bit PNGs of the frames' size: 0 = background, i = object i - 1; of real
    video, i = the segment with index i - 1 in `track_objects`. Empty where nobody segmented it."""
    depths_png: tuple[bytes, ...]
    """f single-channel 16-bit PNGs of the frames' size: distance along the optical axis in
    millimetres, 0 = nothing there or farther than 65 m. Empty where it is not known."""
    fps: float
    """Frames per second."""
    tracks_px: Float32[Array, "f p 2"]
    """Position (x, y) of each tracked point in each frame; may lie outside the picture."""
    tracks_visible: Bool[Array, "f p"]
    """True where the point is inside the picture and nothing is in front of it."""
    track_kinds: tuple[str, ...]
    """p names: 'floor' (on the ground under the object), 'centre' or 'surface' of what was
    rendered; 'object', 'stuff' or 'void' of real video."""
    track_objects: Int32[Array, "p"]
    """Which object or segment (0-based) a point belongs to; -1 for none."""
    box_world: Float32[Array, "f o 8 3"]
    """Corners of the oriented 3D box. Corner 4 z + 2 y + x, each 0 or 1 along the object's axes."""
    box_px: Float32[Array, "f o 8 2"]
    """The same corners projected, pixels."""
    object_pose: Float32[Array, "f o 4 4"]
    """6D pose: object-to-world rigid transforms (rotation and translation, no scale)."""
    camera_k: Float32[Array, "f 3 3"]
    """Intrinsics in pixels of the stored frames; zeros where only the extrinsics are known."""
    camera_rt: Float32[Array, "f 3 4"]
    """World-to-camera extrinsics [R | T]."""
    camera_known: bool
    """False for real video without cameras: then `camera_k` and `camera_rt` hold zeros."""
    source: str
    """Where the clip comes from, such as 'posetraj10k/bpy-5.0.1'."""
    licence: str
    """SPDX identifier or the name of the licence of the frames."""
    provenance: dict[str, Any]
    """Free JSON: seed, path kind, object name, and all else needed to make the clip again."""


def check_clip(clip: Clip) -> tuple[int, int]:
    """Checks that all fields of a clip agree; returns the (height, width) of its frames.

    Raises:
        UserError: naming the clip and every field at fault.
    """
    problems = [*_text_problems(clip), *_array_problems(clip)]
    size, picture_problems = _picture_problems(clip)
    problems += picture_problems
    if problems:
        raise UserError(
            f"Clip {clip.clip_id!r} is not a legal record",
            expected="fields as posetraj_jax.data.clip.Clip describes them",
            got=listed(problems),
            fix="mend the script that made the clip",
        )
    return size


def _text_problems(clip: Clip) -> Iterator[str]:
    if not LEGAL_ID.fullmatch(clip.clip_id):
        yield "clip_id: use letters, digits, '-', '_' and '.' only"
    if not (np.isfinite(clip.fps) and clip.fps > 0):
        yield f"fps: {clip.fps} is not a positive number"
    for name in ("source", "licence"):
        if not getattr(clip, name):
            yield f"{name}: empty"
    try:
        json.dumps(clip.provenance)
    except (TypeError, ValueError) as error:
        yield f"provenance: not JSON ({error})"


def _array_problems(clip: Clip) -> Iterator[str]:
    sizes = {"f": len(clip.frames_jpeg), "p": len(clip.track_kinds)}
    for name, (axes, dtype) in ARRAYS.items():
        array = np.asarray(getattr(clip, name))
        letters = axes.split()
        if array.ndim != len(letters):
            yield f"{name}: shape {array.shape}, expected axes [{axes}]"
            continue
        expected = tuple(
            int(letter) if letter.isdigit() else sizes.setdefault(letter, size)
            for letter, size in zip(letters, array.shape, strict=True)
        )
        if array.shape != expected:
            yield (
                f"{name}: shape {array.shape}, expected [{axes}] = {expected} "
                f"for {sizes['f']} frames and {sizes['p']} track_kinds"
            )
        if array.dtype != dtype:
            yield f"{name}: type {array.dtype}, expected {np.dtype(dtype)}"
        elif not np.isfinite(array).all():
            yield f"{name}: {np.size(array) - np.isfinite(array).sum()} numbers are not finite"


def _picture_problems(clip: Clip) -> tuple[tuple[int, int], list[str]]:
    if not clip.frames_jpeg:
        return (0, 0), ["frames_jpeg: no frames"]
    problems: list[str] = []
    for name in ("masks_png", "depths_png"):
        if len(getattr(clip, name)) not in (0, len(clip.frames_jpeg)):
            count = len(getattr(clip, name))
            problems.append(f"{name}: {count} for {len(clip.frames_jpeg)} frames")
    size: tuple[int, int] | None = None
    for name, wanted in (("frames_jpeg", "JPEG"), ("masks_png", "PNG"), ("depths_png", "PNG")):
        for index, data in enumerate(getattr(clip, name)):
            try:
                height, width, kind = image_header(data, f"{name}[{index}]")
            except UserError as error:
                problems.append(f"{error.what}, {error.got}")
                continue
            size = size or (height, width)
            if (height, width) != size:
                problems.append(f"{name}[{index}]: {width}x{height}, others {size[1]}x{size[0]}")
            if kind != wanted:
                problems.append(f"{name}[{index}]: {kind}, expected {wanted}")
    return size or (0, 0), problems
