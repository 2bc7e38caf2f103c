"""Scenes like real video, drawn from a seed: two objects on their own paths, a camera that moves.

They are filmed as VIPSeg is: pixels are square and the frames larger than those of training.
"""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np

from data_prep.scenes import geometry
from data_prep.scenes.flights import MOTIONS, moving_cameras
from data_prep.scenes.looks import FLOORS, daylight, tiled_floor
from data_prep.scenes.posetraj import SURFACE_POINTS, box_of
from data_prep.scenes.scene import Camera, Scene, SceneObject, as_matrix
from posetraj_jax.trajectories import floor_paths

FRAMES, WIDTH, HEIGHT, FPS = 16, 640, 360, 5.0
LENS_MM = 35.0
ATTEMPTS = 3000
MIDDLE_MARGIN_PX = 25.0
"""How far inside the picture the middle of an object stays."""
MOSTLY = 0.75
"""In how many of the pictures an object is whole, unless the other one hides it."""
APART_METRES = 0.15
"""Between the circles around the footprints of the two objects."""
NEAREST_METRES = 1.5
FLOOR_MARGIN_PX = 6.0

STUFF_ID, VOID_ID = 43, 0
THING_IDS = (12400, 12401)
"""Panoptic ids as in VIPSeg: 43 is a class of stuff, things are 100 times the class and a number.
VOID is tracked in every other video."""


def camera_k() -> np.ndarray:
    """Intrinsics [3 3] of every frame of every video, pixels."""
    return geometry.square_pixel_k(WIDTH, HEIGHT, LENS_MM)


def make_scenes(
    count: int, seed: int, sides: Mapping[str, Sequence[float]], *, samples: int = 4
) -> list[Scene]:
    """`count` scenes; the first n are the same for every count.

    Motions of the camera, floors and assets take turns.

    Args:
        count: how many.
        seed: what all random choices follow from.
        sides: two assets or more to side lengths (x, y, z) with the largest 1, in turn.
        samples: light paths per pixel.

    Raises:
        ValueError: fewer than two assets, or two that find no room before the camera.
    """
    if len(sides) < 2:
        raise ValueError(f"two objects need two assets, got {list(sides)}")
    return [_scene(number, seed, sides, samples) for number in range(count)]


def _scene(number: int, seed: int, sides: Mapping[str, Sequence[float]], samples: int) -> Scene:
    rng = np.random.default_rng([seed, number])
    motion = list(MOTIONS)[number % len(MOTIONS)]
    cameras = moving_cameras(motion, FRAMES, camera_k(), rng)
    assets = _pair(number, seed, list(sides))
    drives = _drives(cameras, [np.array(sides[asset]) for asset in assets], rng)
    boxes = np.stack([drive.boxes_px for drive in drives])
    floor_points = {STUFF_ID: _still_point(cameras, boxes, rng, leaves=False)}
    if number % 2 == 0:
        floor_points[VOID_ID] = _still_point(cameras, boxes, rng, leaves=True)
    floor_name = list(FLOORS)[number % len(FLOORS)]
    names = [asset.partition(":")[2] for asset in assets]
    return Scene(
        clip_id=f"{number:04d}_{motion}_{'_'.join(names)}",
        width=WIDTH,
        height=HEIGHT,
        fps=FPS,
        seed=int(rng.integers(2**31)),
        samples=samples,
        surface_points=SURFACE_POINTS,
        cameras=cameras,
        objects=tuple(
            SceneObject(asset=asset, size=1.0, poses=tuple(as_matrix(p) for p in drive.poses))
            for asset, drive in zip(assets, drives, strict=True)
        ),
        floor=tiled_floor(floor_name),
        light=daylight(rng),
        about={
            "seed": seed,
            "number": number,
            "camera": motion,
            "objects": names,
            "paths": [drive.about for drive in drives],
            "floor": floor_name,
            "floor_points": {str(k): point.tolist() for k, point in floor_points.items()},
        },
    )


def _pair(number: int, seed: int, assets: Sequence[str]) -> tuple[str, str]:
    """Two different assets. All take turns in the given order, then in a new order every time."""
    turn, place = divmod(number, len(assets) // 2)
    order = np.arange(len(assets))
    if turn:
        order = np.random.default_rng([seed, turn, len(assets)]).permutation(order)
    return assets[order[2 * place]], assets[order[2 * place + 1]]


class _Drive(NamedTuple):
    """One object along its path."""

    poses: np.ndarray
    """[f 4 4]"""
    boxes_px: np.ndarray
    """[f 8 2] corners of its box."""
    seen: bool
    """Its box is whole in the first picture and in most, its middle is in all of them."""
    about: dict


def _drives(
    cameras: Sequence[Camera], sides: Sequence[np.ndarray], rng: np.random.Generator
) -> tuple[_Drive, ...]:
    """Two drives that stay before the camera, do not touch, and do not hide each other at first."""
    apart = sum(float(np.hypot(*side[:2])) / 2 for side in sides) + APART_METRES
    for _ in range(ATTEMPTS):
        pair = []
        for side in sides:
            drive = _drive(cameras, side, rng)
            if not drive.seen:
                break
            pair.append(drive)
        if len(pair) < len(sides):
            continue
        one, two = pair
        distances = np.linalg.norm(one.poses[:, :2, 3] - two.poses[:, :2, 3], axis=1)
        if distances.min() >= apart and not _overlap(one.boxes_px[0], two.boxes_px[0]):
            return one, two
    raise ValueError(f"no room for two objects with sides {[side.tolist() for side in sides]}")


def _drive(cameras: Sequence[Camera], sides: np.ndarray, rng: np.random.Generator) -> _Drive:
    """A path of random kind, phase, direction and place."""
    curve = floor_paths.ROTATIONAL[rng.integers(len(floor_paths.ROTATIONAL))]
    phase, backwards = float(rng.uniform(0.0, 2 * np.pi)), bool(rng.integers(2))
    place = rng.uniform([-1.2, -0.8], [1.2, 1.6])
    path = floor_paths.make_path(curve, phase, len(cameras), backwards=backwards)
    poses = np.stack(
        [
            geometry.standing_pose(xy + place, direction)
            for xy, direction in zip(path.points, path.tangents, strict=True)
        ]
    )
    corners = box_of(sides)
    middle = np.array([0.0, 0.0, sides[2] / 2])
    points = np.stack([geometry.transform(pose, [*corners, middle]) for pose in poses])
    pixels, depths = _seen_by(cameras, points)
    whole = geometry.inside_picture(pixels[0], WIDTH, HEIGHT, FLOOR_MARGIN_PX)
    mostly = geometry.inside_picture(pixels, WIDTH, HEIGHT).all(axis=1).mean() >= MOSTLY
    inside = geometry.inside_picture(pixels[:, 8], WIDTH, HEIGHT, MIDDLE_MARGIN_PX)
    about = {"curve": curve, "phase_rad": phase, "backwards": backwards, "place": place.tolist()}
    seen = bool(whole.all() and mostly and inside.all() and depths.min() > NEAREST_METRES)
    return _Drive(poses, pixels[:, :8], seen, about)


def _seen_by(cameras: Sequence[Camera], points: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Pixels [f n 2] and depths [f n] of points [f n 3], each frame by its own camera."""
    views = [
        (geometry.project(p, np.array(c.k), np.array(c.rt)), geometry.depth(p, np.array(c.rt)))
        for p, c in zip(points, cameras, strict=True)
    ]
    pixels, depths = zip(*views, strict=True)
    return np.stack(pixels), np.stack(depths)


def _still_point(
    cameras: Sequence[Camera], boxes: np.ndarray, rng: np.random.Generator, *, leaves: bool
) -> np.ndarray:
    """A point [3] of the floor that the camera sees at first and no object covers then.

    It stays in the picture, never covered; or it `leaves` the picture for good.
    """
    reach = 4.0 if leaves else 2.0  # near the middle of the scene, it moves most
    for _ in range(ATTEMPTS):
        point = np.array([*rng.uniform(-reach, reach, 2), 0.0])
        pixels, depths = _seen_by(cameras, np.tile(point, (len(cameras), 1, 1)))
        inside = geometry.inside_picture(pixels[:, 0], WIDTH, HEIGHT, FLOOR_MARGIN_PX)
        low, high = boxes.min(axis=2), boxes.max(axis=2)
        covered = ((pixels[:, 0] >= low) & (pixels[:, 0] <= high)).all(axis=-1).any(axis=0)
        free = inside & ~covered
        wanted = free[0] and not inside[-4:].any() if leaves else free.all()
        if wanted and depths.min() > NEAREST_METRES:
            return point
    raise ValueError("no point of the floor is " + ("lost" if leaves else "seen all the time"))


def _overlap(one: np.ndarray, other: np.ndarray) -> bool:
    """Whether the rectangles around two sets of pixels [n 2] meet."""
    gap = np.maximum(one.min(axis=0) - other.max(axis=0), other.min(axis=0) - one.max(axis=0))
    return bool((gap <= 0).all())
