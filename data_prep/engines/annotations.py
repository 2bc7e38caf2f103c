"""Everything that is known of a clip without looking at it: poses, boxes, tracks, depth, cameras.

All of it comes from the vertices that an engine renders, by the same code for every engine. NumPy
only: the render environment uses it too.
"""

import functools
from typing import NamedTuple

import numpy as np

from data_prep.engines import raster
from data_prep.scenes import geometry
from data_prep.scenes.scene import Camera, Scene

SEEN_WITHIN = 2e-3
"""Metres: what is this near to a point does not hide it."""
CONTACT_NAMES = ("x_low", "x_high", "y_low", "y_high", "z_low", "z_high")
CONTACTS = slice(2, 8)
"""Where these are among the points of an object: after 'floor' and 'centre'."""
SPREAD_FROM = 64
"""Random points per point that is kept, from which those far from each other are chosen."""


class Surface(NamedTuple):
    """The triangles of one object in its own frame, metres."""

    vertices: np.ndarray
    """[v 3] float64."""
    triangles: np.ndarray
    """[t 3] vertex numbers."""


class TrackedPoints(NamedTuple):
    """The points of a scene that are tracked, each fixed to its object."""

    kinds: tuple[str, ...]
    names: tuple[str, ...]
    points: np.ndarray
    """[p 3] in the frame of the object."""
    owners: np.ndarray
    """[p] int32, number of the object."""


def annotate(scene: Scene, surfaces: list[Surface], engine: str) -> dict[str, np.ndarray]:
    """Poses, boxes, cameras and tracks of all frames; keys as in `posetraj_jax.data.clip.Clip`.

    Besides: `track_points` [p 3], each point in its object's frame; `track_names`; `mesh_rect_px`
    [f o 4], the smallest rectangle (left, top, right, bottom) around an object's vertices;
    `alone_rect_px` [f o 4], that around the pixels whose centres would show it if it were alone,
    and `alone_pixels` [f o], how many these are; `thin_tips` [f o 6], whether the point that
    touches a side of the box is on a part too thin for any pixel near it; `engine`, such as
    'bpy-5.0.1'.
    """
    tracked = tracked_points(scene, surfaces)
    rows = []
    for frame, camera in enumerate(scene.cameras):
        k, rt = np.array(camera.k), np.array(camera.rt)
        poses = np.array([thing.poses[frame] for thing in scene.objects])
        world = np.stack(
            [
                geometry.transform(poses[owner], point)
                for owner, point in zip(tracked.owners, tracked.points, strict=True)
            ]
        )
        pixels = geometry.project(world, k, rt)
        inside = geometry.inside_picture(pixels, scene.width, scene.height)
        corners = [
            geometry.transform(pose, surface.vertices)[surface.triangles]
            for pose, surface in zip(poses, surfaces, strict=True)
        ]
        seen = ~hidden(world, tracked, corners, k, rt)
        tips = pixels.reshape(len(surfaces), -1, 2)[:, CONTACTS]
        rows.append(
            _shape_notes(poses, surfaces, k, rt)
            | _outline_notes(scene, corners, tips, k, rt)
            | {"tracks_px": pixels, "tracks_visible": inside & seen}
        )
    return {
        **{key: np.stack([row[key] for row in rows]) for key in rows[0]},
        "track_kinds": np.array(tracked.kinds),
        "track_names": np.array(tracked.names),
        "track_objects": tracked.owners,
        "track_points": tracked.points,
        "engine": np.array(engine),
    }


def _shape_notes(
    poses: np.ndarray, surfaces: list[Surface], k: np.ndarray, rt: np.ndarray
) -> dict[str, np.ndarray]:
    """Camera, poses, boxes and outlines of one frame."""
    boxes, outlines = [], []
    for pose, (vertices, _) in zip(poses, surfaces, strict=True):
        box = geometry.box_corners(vertices.min(axis=0), vertices.max(axis=0))
        boxes.append(geometry.transform(pose, box))
        pixels = geometry.project(geometry.transform(pose, vertices), k, rt)
        outlines.append([*pixels.min(axis=0), *pixels.max(axis=0)])
    return {
        "object_pose": poses,
        "box_world": np.array(boxes),
        "box_px": geometry.project(np.array(boxes), k, rt),
        "mesh_rect_px": np.array(outlines),
        "camera_k": k,
        "camera_rt": rt,
    }


def _outline_notes(
    scene: Scene, corners: list[np.ndarray], tips: np.ndarray, k: np.ndarray, rt: np.ndarray
) -> dict[str, np.ndarray]:
    """What pixels would show of each object alone in one frame; `tips` [o 6 2] are its contacts."""
    rectangles, counts, thin = [], [], []
    for triangles, points in zip(corners, tips, strict=True):
        shown = raster.covered(raster.project(triangles, k, rt), scene.width, scene.height)
        rows, columns = (np.flatnonzero(shown.any(axis=axis)) for axis in (1, 0))
        if len(rows):
            rectangles.append([columns[0], rows[0], columns[-1] + 1, rows[-1] + 1])
        else:
            rectangles.append([0, 0, 0, 0])
        counts.append(int(shown.sum()))
        thin.append([not _around(shown, point).any() for point in points])
    return {
        "alone_rect_px": np.array(rectangles),
        "alone_pixels": np.array(counts),
        "thin_tips": np.array(thin),
    }


def _around(shown: np.ndarray, point: np.ndarray) -> np.ndarray:
    """The pixels [<=3 <=3] at and around a point (x, y); none if it is outside the picture."""
    column, row = np.floor(point).astype(int)
    return shown[max(0, row - 1) : max(0, row + 2), max(0, column - 1) : max(0, column + 2)]


def tracked_points(scene: Scene, surfaces: list[Surface]) -> TrackedPoints:
    """The points of each object: where it stands ('floor'), the middle of its box ('centre'), and
    on its surface the six vertices that touch the sides of its box and some spread over it.
    """
    kinds, names, points, owners = [], [], [], []
    for number, surface in enumerate(surfaces):
        vertices = surface.vertices
        low, high = vertices.min(axis=0), vertices.max(axis=0)
        contacts = [
            vertices[pick(vertices[:, axis])]
            for axis in range(3)
            for pick in (np.argmin, np.argmax)
        ]
        spread = spread_points(surface, scene.surface_points, scene.seed + number)
        own = np.concatenate([[[0.0, 0.0, 0.0], (low + high) / 2], contacts, spread])
        points.append(own)
        kinds += ["floor", "centre", *["surface"] * (len(own) - 2)]
        names += ["floor", "centre", *CONTACT_NAMES, *(f"spread_{i}" for i in range(len(spread)))]
        owners += [number] * len(own)
    return TrackedPoints(
        tuple(kinds), tuple(names), np.concatenate(points), np.array(owners, np.int32)
    )


def spread_points(surface: Surface, count: int, seed: int) -> np.ndarray:
    """`count` points [count 3] on a surface, far from each other (farthest-point choice)."""
    a, b, c = (surface.vertices[surface.triangles[:, i]] for i in range(3))
    areas = np.linalg.norm(np.cross(b - a, c - a), axis=1)
    rng = np.random.default_rng(seed)
    chosen = rng.choice(len(areas), size=SPREAD_FROM * count, p=areas / areas.sum())
    u, v = rng.random((2, len(chosen), 1))
    u, v = np.where(u + v > 1, 1 - u, u), np.where(u + v > 1, 1 - v, v)
    points = a[chosen] + u * (b - a)[chosen] + v * (c - a)[chosen]
    picked = [0]
    distance = np.full(len(points), np.inf)
    while len(picked) < count:
        distance = np.minimum(distance, np.linalg.norm(points - points[picked[-1]], axis=1))
        picked.append(int(distance.argmax()))
    return points[picked[:count]]


def hidden(
    points: np.ndarray,
    tracked: TrackedPoints,
    corners: list[np.ndarray],
    k: np.ndarray,
    rt: np.ndarray,
) -> np.ndarray:
    """True [p] where an object stands between the camera and a world point [p 3].

    A 'floor' or 'centre' point stands for its whole object, which therefore does not hide it. The
    floor hides nothing: cameras and points are above it.

    Args:
        points: of `tracked`, in the world.
        tracked: whose points they are.
        corners: world triangles [t 3 3] of each object.
        k: intrinsics [3 3].
        rt: world to camera [3 4].
    """
    pixels, depths = geometry.project(points, k, rt), geometry.depth(points, rt)
    result = np.zeros(len(points), bool)
    for number, triangles in enumerate(corners):
        looked_at = np.array(
            [
                kind == "surface" or owner != number
                for kind, owner in zip(tracked.kinds, tracked.owners, strict=True)
            ]
        )
        nearest = _nearest_depth(raster.project(triangles, k, rt), pixels[looked_at])
        result[looked_at] |= nearest < depths[looked_at] - SEEN_WITHIN
    return result


def _nearest_depth(triangles: raster.Projected, pixels: np.ndarray) -> np.ndarray:
    """Depth [p] of the nearest triangle at pixels [p 2], metres; infinite where there is none."""
    low, high = triangles.pixels.min(axis=1), triangles.pixels.max(axis=1)
    around = (low[None] <= pixels[:, None]).all(axis=2) & (pixels[:, None] <= high[None]).all(
        axis=2
    )
    point, number = np.nonzero(around)
    shares = raster.barycentric(triangles.pixels[number], pixels[point])
    inside = (shares >= 0).all(axis=1)
    inverse = (shares * triangles.inverse_depth[number]).sum(axis=1)
    nearness = np.zeros(len(pixels))
    np.maximum.at(nearness, point[inside], inverse[inside])
    with np.errstate(divide="ignore"):
        return 1.0 / nearness


def depth_and_mask(
    scene: Scene, surfaces: list[Surface], frame: int
) -> tuple[np.ndarray, np.ndarray]:
    """Depth [h w] float32, metres along the optical axis, infinite where there is nothing; and
    the mask [h w] uint8: 0 = no object, i = object i - 1. Both at the centres of the pixels.
    """
    k, rt = np.array(scene.cameras[frame].k), np.array(scene.cameras[frame].rt)
    corners = [
        geometry.transform(np.array(thing.poses[frame]), surface.vertices)[surface.triangles]
        for thing, surface in zip(scene.objects, surfaces, strict=True)
    ]
    owner = np.repeat(np.arange(1, len(corners) + 1), [len(c) for c in corners])
    seen = raster.project(np.concatenate(corners), k, rt)
    hits = raster.nearest(seen, scene.width, scene.height)
    floor = _floor(scene.cameras[frame], scene.width, scene.height)
    is_object = hits.inverse_depth > floor
    mask = np.where(is_object, owner[seen.index][hits.triangle], 0).astype(np.uint8)
    with np.errstate(divide="ignore"):
        return 1.0 / np.maximum(hits.inverse_depth, floor), mask


@functools.lru_cache(maxsize=2)
def _floor(camera: Camera, width: int, height: int) -> np.ndarray:
    """As `floor_inverse_depth`; a camera at rest sees the same floor in every frame."""
    return floor_inverse_depth(np.array(camera.k), np.array(camera.rt), width, height)


def floor_inverse_depth(k: np.ndarray, rt: np.ndarray, width: int, height: int) -> np.ndarray:
    """1 / depth [h w] float32 of the plane z = 0 at the centres of pixels; 0 above the horizon."""
    x, y = np.meshgrid(np.arange(width) + 0.5, np.arange(height) + 0.5)
    rays = np.stack([x, y, np.ones_like(x)], axis=-1) @ np.linalg.inv(k).T  # of depth 1
    fall = -(rays @ rt[:, :3])[..., 2]
    return np.maximum(fall / geometry.camera_centre(rt)[2], 0.0).astype(np.float32)
