"""Turns the folder that a render worker wrote into a clip record."""

import io
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from data_prep.scenes.scene import Scene, from_json, to_json
from posetraj_jax.data.records import Clip

LICENCE = "CC0-1.0"
ARRAYS = ("tracks_px", "box_world", "box_px", "object_pose", "camera_k", "camera_rt")


def is_finished(folder: Path, scene: Scene) -> bool:
    """True if the folder holds exactly this scene, rendered."""
    # The worker renames a folder into place only when all of it is written.
    path = folder / "scene.json"
    return path.is_file() and path.read_text() == to_json(scene)


def load_clip(folder: Path, *, jpeg_quality: int) -> Clip:
    """Reads a rendered clip; its frames become JPEGs of this quality (1 to 95).

    `provenance` gets the whole scene but for what the record holds anyway (cameras and poses), and
    for each tracked point its name and place in the object's frame.
    """
    scene = from_json((folder / "scene.json").read_text())
    with np.load(folder / "annotations.npz") as stored:
        notes = dict(stored)
    return Clip(
        clip_id=scene.clip_id,
        frames_jpeg=tuple(
            _as_jpeg(folder / f"frame_{i:03d}.png", jpeg_quality) for i in range(scene.frames)
        ),
        masks_png=tuple(_as_png(folder / f"mask_{i:03d}.png") for i in range(scene.frames)),
        depths_png=(),
        fps=scene.fps,
        tracks_visible=notes["tracks_visible"],
        track_kinds=tuple(str(kind) for kind in notes["track_kinds"]),
        track_objects=notes["track_objects"],
        **{name: notes[name].astype(np.float32) for name in ARRAYS},
        camera_known=True,
        source=f"posetraj10k/{notes['engine']}",
        licence=LICENCE,
        provenance=_provenance(scene, notes),
    )


def _as_jpeg(path: Path, quality: int) -> bytes:
    data = io.BytesIO()
    with Image.open(path) as picture:
        picture.convert("RGB").save(data, "JPEG", quality=quality, optimize=True)
    return data.getvalue()


def _as_png(path: Path) -> bytes:
    """The same picture in fewer bytes than Blender takes."""
    data = io.BytesIO()
    with Image.open(path) as picture:
        picture.convert("L").save(data, "PNG", optimize=True)
    return data.getvalue()


def _provenance(scene: Scene, notes: dict[str, np.ndarray]) -> dict[str, Any]:
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
    }
