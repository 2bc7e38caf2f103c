"""One clip in Blender: sets the scene up, renders frames and masks, and annotates every frame.

Runs in the render environment only. The masks are Blender's own, the annotations ours, so that each
is a check of the other.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import bpy
import numpy as np
from mathutils import Matrix

from data_prep.engines import blender_models as models
from data_prep.engines import blender_stage as stage
from data_prep.engines.annotations import Surface, annotate, depth_and_mask
from data_prep.engines.blender_import import add_object
from data_prep.scenes.scene import Scene


class Brought(NamedTuple):
    """What a job brings along for its scenes."""

    models: dict[str, str]
    """Files of assets that are no built-in ones."""
    pictures: dict[str, str]
    """Files of the pictures that scenes name."""
    threads: int
    device: str


def set_up(scene: Scene, brought: Brought) -> list[bpy.types.Object]:
    """Builds the stage for a scene; returns its objects, whose pass index is their number + 1."""
    stage.empty_stage()
    stage.set_quality(scene, brought.threads, brought.device)
    stage.add_floor(scene.floor, brought.pictures)
    stage.add_light(scene.light, brought.pictures)
    things = []
    for number, description in enumerate(scene.objects):
        name = f"object_{number}"
        if description.asset in brought.models:
            file = Path(brought.models[description.asset])
            thing = add_object(file, description.size, name)
        else:
            thing = models.add_model(description.asset, description.size, name)
        thing.pass_index = number + 1
        things.append(thing)
    return things


def pose_frame(scene: Scene, things: list[bpy.types.Object], frame: int) -> None:
    """Moves camera and objects to their places in a frame."""
    stage.set_camera(scene.cameras[frame], scene.width, scene.height)
    for thing, description in zip(things, scene.objects, strict=True):
        thing.matrix_world = Matrix(description.poses[frame])
    bpy.context.view_layer.update()


def render_frames(scene: Scene, things: list[bpy.types.Object], folder: Path) -> Iterator[int]:
    """Renders all frames, then all masks; yields a frame's number when its picture is there."""
    for frame in range(scene.frames):
        pose_frame(scene, things, frame)
        _render_to(folder / f"frame_{frame:03d}.png")
        yield frame
    stage.switch_to_masks()
    for frame in range(scene.frames):
        pose_frame(scene, things, frame)
        _render_to(folder / f"mask_{frame:03d}.png")


def _render_to(path: Path) -> None:
    bpy.context.scene.render.filepath = str(path)
    bpy.ops.render.render(write_still=True)


def surface_of(thing: bpy.types.Object) -> Surface:
    """The triangles of a thing on the stage, in its own frame."""
    mesh = thing.data
    mesh.calc_loop_triangles()
    corners = np.empty(3 * len(mesh.loop_triangles), np.int32)
    mesh.loop_triangles.foreach_get("vertices", corners)
    return Surface(models.mesh_vertices(mesh), corners.reshape(-1, 3))


def describe(scene: Scene, things: list[bpy.types.Object], folder: Path) -> None:
    """Writes what is known of the clip, but for what the renders show: see `annotations`.

    `annotations.npz`, and of every frame `depth_000.npy`: metres, float32.
    """
    surfaces = [surface_of(thing) for thing in things]
    np.savez(
        folder / "annotations.npz", **annotate(scene, surfaces, f"bpy-{bpy.app.version_string}")
    )
    for frame in range(scene.frames):
        depth, _ = depth_and_mask(scene, surfaces, frame)
        np.save(folder / f"depth_{frame:03d}.npy", depth)
