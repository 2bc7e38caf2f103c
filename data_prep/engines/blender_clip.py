"""One clip in Blender: sets the scene up, renders frames and masks, and annotates every frame.

Runs in the render environment only. All annotations come from the vertices that are rendered.
"""

from collections.abc import Iterator
from pathlib import Path

import bpy
import numpy as np
from mathutils import Matrix, Vector

from data_prep.engines import blender_models as models
from data_prep.engines import blender_stage as stage
from data_prep.scenes import geometry
from data_prep.scenes.scene import Scene

# A ray that reaches a surface point this near (metres) has seen it.
SEEN_WITHIN = 2e-3
CONTACT_NAMES = ("x_low", "x_high", "y_low", "y_high", "z_low", "z_high")


def set_up(scene: Scene, threads: int) -> list[bpy.types.Object]:
    """Builds the stage for a scene; returns its objects, whose pass index is their number + 1."""
    stage.empty_stage()
    stage.set_quality(scene, threads)
    stage.add_floor(scene.floor)
    stage.add_light(scene.light)
    things = []
    for number, description in enumerate(scene.objects):
        thing = models.add_model(description.asset, description.size, f"object_{number}")
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


def annotate(scene: Scene, things: list[bpy.types.Object], path: Path) -> None:
    """Writes poses, boxes, cameras and tracks of all frames as one npz (keys as in records.Clip).

    Besides: `track_points` [p 3], each point in its object's frame; `track_names`; `mesh_rect_px`
    [f o 4], the smallest rectangle (left, top, right, bottom) around an object's vertices;
    `engine`, such as 'bpy-5.0.1'.
    """
    vertices = [models.mesh_vertices(thing.data) for thing in things]
    tracks = [_track_points(scene, number, thing) for number, thing in enumerate(things)]
    kinds, names, points = ([x for track in tracks for x in track[i]] for i in range(3))
    owners = np.repeat(np.arange(len(things)), [len(t[0]) for t in tracks])
    rows = []
    for frame in range(scene.frames):
        poses = np.array([description.poses[frame] for description in scene.objects])
        row = _shape_notes(scene, frame, poses, vertices)
        world = np.array(
            [geometry.transform(poses[o], p) for o, p in zip(owners, points, strict=True)]
        )
        pixels = geometry.project(world, row["camera_k"], row["camera_rt"])
        inside = geometry.inside_picture(pixels, scene.width, scene.height)
        pose_frame(scene, things, frame)
        eye = geometry.camera_centre(row["camera_rt"])
        seen = _seen(world, kinds, [things[o] for o in owners], eye)
        rows.append(row | {"tracks_px": pixels, "tracks_visible": inside & seen})
    np.savez(
        path,
        **{key: np.stack([row[key] for row in rows]) for key in rows[0]},
        track_kinds=np.array(kinds),
        track_names=np.array(names),
        track_objects=owners.astype(np.int32),
        track_points=np.array(points),
        engine=f"bpy-{bpy.app.version_string}",
    )


def _shape_notes(
    scene: Scene, frame: int, poses: np.ndarray, vertices: list[np.ndarray]
) -> dict[str, np.ndarray]:
    """Camera, poses, boxes and outlines of one frame."""
    k, rt = np.array(scene.cameras[frame].k), np.array(scene.cameras[frame].rt)
    boxes, outlines = [], []
    for pose, points in zip(poses, vertices, strict=True):
        box = geometry.box_corners(points.min(axis=0), points.max(axis=0))
        boxes.append(geometry.transform(pose, box))
        pixels = geometry.project(geometry.transform(pose, points), k, rt)
        outlines.append([*pixels.min(axis=0), *pixels.max(axis=0)])
    return {
        "object_pose": poses,
        "box_world": np.array(boxes),
        "box_px": geometry.project(np.array(boxes), k, rt),
        "mesh_rect_px": np.array(outlines),
        "camera_k": k,
        "camera_rt": rt,
    }


def _track_points(
    scene: Scene, number: int, thing: bpy.types.Object
) -> tuple[list[str], list[str], np.ndarray]:
    """Kinds, names and positions (object frame) of one object's tracked points.

    'floor' and 'centre' first, then the six vertices that touch the sides of the box, then points
    spread over the surface.
    """
    vertices = models.mesh_vertices(thing.data)
    low, high = vertices.min(axis=0), vertices.max(axis=0)
    contacts = [
        vertices[pick(vertices[:, axis])] for axis in range(3) for pick in (np.argmin, np.argmax)
    ]
    spread = _spread_points(thing.data, scene.surface_points, scene.seed + number)
    points = np.concatenate([[[0.0, 0.0, 0.0], (low + high) / 2], contacts, spread])
    names = ["floor", "centre", *CONTACT_NAMES, *(f"spread_{i}" for i in range(len(spread)))]
    return ["floor", "centre", *["surface"] * (len(points) - 2)], names, points


def _spread_points(mesh: bpy.types.Mesh, count: int, seed: int) -> np.ndarray:
    """`count` points [count 3] on the surface, far from each other (farthest-point choice)."""
    vertices = models.mesh_vertices(mesh)
    mesh.calc_loop_triangles()
    corners = np.array([t.vertices[:] for t in mesh.loop_triangles])
    a, b, c = (vertices[corners[:, i]] for i in range(3))
    areas = np.linalg.norm(np.cross(b - a, c - a), axis=1)
    rng = np.random.default_rng(seed)
    chosen = rng.choice(len(areas), size=64 * count, p=areas / areas.sum())
    u, v = rng.random((2, len(chosen), 1))
    u, v = np.where(u + v > 1, 1 - u, u), np.where(u + v > 1, 1 - v, v)
    points = a[chosen] + u * (b - a)[chosen] + v * (c - a)[chosen]
    picked = [0]
    distance = np.full(len(points), np.inf)
    while len(picked) < count:
        distance = np.minimum(distance, np.linalg.norm(points - points[picked[-1]], axis=1))
        picked.append(int(distance.argmax()))
    return points[picked[:count]]


def _seen(
    points: np.ndarray, kinds: list[str], owners: list[bpy.types.Object], eye: np.ndarray
) -> np.ndarray:
    """True [p] where no surface stands between the eye and a world point.

    A 'floor' or 'centre' point stands for its whole object, which therefore does not hide it.
    """
    graph = bpy.context.evaluated_depsgraph_get()
    seen = np.zeros(len(points), dtype=bool)
    for i, (point, kind, owner) in enumerate(zip(points, kinds, owners, strict=True)):
        own = {owner.name} if kind != "surface" else set()
        seen[i] = not _blocked(graph, Vector(eye), Vector(point), own)
    return seen


def _blocked(graph, eye: Vector, point: Vector, passable: set[str]) -> bool:
    direction = (point - eye).normalized()
    start = eye
    while (point - start).length > SEEN_WITHIN:
        hit, place, _, _, thing, _ = bpy.context.scene.ray_cast(graph, start, direction)
        if not hit or (place - eye).length >= (point - eye).length - SEEN_WITHIN:
            return False
        if thing.name not in passable:
            return True
        start = place + direction * 1e-4
    return False
