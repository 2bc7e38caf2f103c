"""The clip record: the one format that every raw source is turned into.

Conventions of every geometric field: world axes right-handed with z up, in metres of the scene;
camera axes as in OpenCV (x right, y down, z forward); `camera_rt` maps world to camera
(X_cam = R X_world + T); pixel coordinates are (x, y) at the size of the stored frames, the centre of
the top-left pixel is (0.5, 0.5) and the picture spans [0, width] x [0, height].
"""

from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Bool, Float32, Int32

Array = np.ndarray


class Clip(NamedTuple):
    """One video clip with its annotations; f frames, p tracked points, o objects (any may vary)."""

    clip_id: str
    """Unique within the dataset; letters, digits, '-', '_' and '.' only."""
    frames_jpeg: tuple[bytes, ...]
    """f RGB frames, each JPEG-encoded, all of one size."""
    masks_png: tuple[bytes, ...]
    """f single-channel 8-bit PNGs of the frames' size: 0 = background, i = object i - 1."""
    fps: float
    """Frames per second."""
    tracks_px: Float32[Array, "f p 2"]
    """Position (x, y) of each tracked point in each frame; may lie outside the picture."""
    tracks_visible: Bool[Array, "f p"]
    """True where the point is inside the picture and nothing is in front of it."""
    track_kinds: tuple[str, ...]
    """p names: 'floor' (on the ground under the object), 'centre', 'surface' or 'object'."""
    track_objects: Int32[Array, "p"]
    """Which object (0-based) a point belongs to; -1 for none."""
    box_world: Float32[Array, "f o 8 3"]
    """Corners of the oriented 3D box. Corner 4 z + 2 y + x, each 0 or 1 along the object's axes."""
    box_px: Float32[Array, "f o 8 2"]
    """The same corners projected, pixels."""
    object_pose: Float32[Array, "f o 4 4"]
    """6D pose: object-to-world rigid transforms (rotation and translation, no scale)."""
    camera_k: Float32[Array, "f 3 3"]
    """Intrinsics in pixels of the stored frames."""
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
