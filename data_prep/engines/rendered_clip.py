"""Puts what an engine rendered into a clip record."""

import io
from dataclasses import asdict
from typing import Any, NamedTuple

import cv2
import numpy as np
from jaxtyping import Float32, UInt8
from PIL import Image

from data_prep.scenes.scene import Scene
from posetraj_jax.data.clip import Clip

Array = np.ndarray

ARRAYS = ("tracks_px", "box_world", "box_px", "object_pose", "camera_k", "camera_rt")
MILLIMETRES = 1000.0
FARTHEST_MM = 65_535


class Frame(NamedTuple):
    """A rendered frame."""

    picture: UInt8[Array, "h w 3"]
    mask: UInt8[Array, "h w"]
    """0 = no object, i = object i - 1."""
    depth: Float32[Array, "h w"]
    """Metres along the optical axis, infinite where there is nothing."""


class Packing(NamedTuple):
    """How a rendered clip is stored."""

    jpeg_quality: int
    """1 to 95."""
    depth: bool
    """Whether depth is stored; it takes about as much as the pictures."""
    licence: str
    """Of the pictures."""
    source: str
    """Before a slash and the engine's name."""


def make_clip(scene: Scene, notes: dict[str, Array], frames: list[Frame], packing: Packing) -> Clip:
    """The record of a rendered clip.

    `provenance` gets the whole scene but for what the record holds anyway (cameras and poses), and
    for each tracked point its name and place in the object's frame.

    Args:
        scene: what was rendered.
        notes: of `annotations.annotate`.
        frames: all of them.
        packing: how.
    """
    return Clip(
        clip_id=scene.clip_id,
        frames_jpeg=tuple(_jpeg(frame.picture, packing.jpeg_quality) for frame in frames),
        masks_png=tuple(_png(frame.mask) for frame in frames),
        depths_png=tuple(depth_png(frame.depth) for frame in frames if packing.depth),
        fps=scene.fps,
        tracks_visible=notes["tracks_visible"],
        track_kinds=tuple(str(kind) for kind in notes["track_kinds"]),
        track_objects=notes["track_objects"],
        **{name: notes[name].astype(np.float32) for name in ARRAYS},
        camera_known=True,
        source=f"{packing.source}/{notes['engine']}",
        licence=packing.licence,
        provenance=_provenance(scene, notes),
    )


def _jpeg(picture: UInt8[Array, "h w 3"], quality: int) -> bytes:
    data = io.BytesIO()
    Image.fromarray(picture).save(data, "JPEG", quality=quality, optimize=True)
    return data.getvalue()


def _png(mask: UInt8[Array, "h w"]) -> bytes:
    data = io.BytesIO()
    Image.fromarray(mask).save(data, "PNG", optimize=True)
    return data.getvalue()


def depth_png(metres: Float32[Array, "h w"]) -> bytes:
    """Depth as `Clip.depths_png` holds it."""
    with np.errstate(invalid="ignore"):
        millimetres = np.rint(metres.astype(np.float64) * MILLIMETRES)
    far = ~(millimetres <= FARTHEST_MM)
    stored = np.where(far, 0, millimetres).astype(np.uint16)
    return cv2.imencode(".png", stored, [cv2.IMWRITE_PNG_COMPRESSION, 9])[1].tobytes()


def _provenance(scene: Scene, notes: dict[str, Array]) -> dict[str, Any]:
    described = asdict(scene)
    del described["cameras"]
    for thing in described["objects"]:
        del thing["poses"]
    return {
        **described.pop("about"),
        "scene": described,
        "track_names": notes["track_names"].tolist(),
        "track_points": np.round(notes["track_points"], 6).tolist(),
        "mesh_rect_px": np.round(notes["mesh_rect_px"], 3).tolist(),
        **{name: notes[name].tolist() for name in ("alone_rect_px", "alone_pixels", "thin_tips")},
    }
