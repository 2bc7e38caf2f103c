"""Scenes like those of PoseTraj-10K: objects on floor paths before a camera, drawn from a seed.

Source: the official renderer. Differs: the object looks where it goes (option `heading`); floor and
sun vary from clip to clip; a phase that would carry an object out of the picture is drawn again;
and half of the paths are travelled backwards (else nearly every S that stays in the picture leads
away from the camera). Moving cameras, several objects and other curves are options of ours.
"""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from data_prep.scenes import geometry, looks
from data_prep.scenes.flights import MOTIONS, moving_cameras
from data_prep.scenes.scene import Camera, Matrix, Scene, SceneError, SceneObject, as_matrix
from posetraj_jax.trajectories import floor_paths

MARGIN_PX = 3.0
"""How far inside the picture every corner of a box stays."""
ATTEMPTS, ROUNDS = 1000, 10
SURFACE_POINTS = 8
CAMERAS = ("official", "random", "moving")
APART_METRES = 0.1
"""Between the circles around the footprints of two objects."""
REACH_METRES = 1.5
"""How far from the origin the middle of a path may be, where there are several."""
LENS_MM = 35.0
"""Of moving cameras; wider than the official one, which sees a half circle just so."""


@dataclass(frozen=True)
class SceneOptions:
    """What all scenes of a dataset have in common."""

    seed: int = 0
    """What all random choices follow from, with the object and the number of its path."""
    paths_per_object: int = 5
    frames: int = 14
    width: int = 576
    height: int = 320
    fps: float = 5.0
    curves: tuple[str, ...] = floor_paths.ROTATIONAL
    """The curve of each path is one of these, all equally often."""
    heading: str = "tangent"
    """'tangent' or 'centre' (see `floor_paths.heading_directions`)."""
    camera: str = "official"
    """'official'; 'random', at rest in another place with another lens; or 'moving'."""
    light: str = "day"
    """One of `looks.LIGHTS`."""
    floor: str = "named"
    """One of `looks.FLOOR_KINDS`."""
    floor_pictures: tuple[str, ...] = ()
    """Names of pictures; where there are any, every floor is one of them."""
    sky_pictures: tuple[str, ...] = ()
    """Names of panoramas; where there are any, every sky is one of them."""
    samples: int = 4
    """Light paths per pixel, for Cycles."""


class Thing(NamedTuple):
    """An object that a scene may show."""

    asset: str
    """As in `scene.SceneObject`."""
    uid: str
    sides: tuple[float, float, float]
    """Lengths (x, y, z) with the largest 1."""


def make_scene(options: SceneOptions, things: Sequence[Thing], number: int) -> Scene:
    """The scene of one path of an object.

    It depends on the options, the things and the number, and on nothing else: not on what other
    objects there are.

    Args:
        options: of the dataset.
        things: the object that the clip is about, then others that share the floor.
        number: of the path, 0, 1, ...

    Raises:
        SceneError: no path keeps the objects in the picture.
    """
    uid = things[0].uid
    rng = np.random.default_rng([options.seed, number, *_words(uid)])
    curve = _curve(options, uid, number)
    cameras, motion, drives = _filmed(options, things, curve, rng)
    floor, floor_name = looks.make_floor(options.floor, options.floor_pictures, rng)
    return Scene(
        clip_id=f"{uid}_{number}_{curve}",
        width=options.width,
        height=options.height,
        fps=options.fps,
        seed=int(rng.integers(2**31)),
        samples=options.samples,
        surface_points=SURFACE_POINTS,
        cameras=cameras,
        objects=tuple(
            SceneObject(asset=thing.asset, size=1.0, poses=drive.poses)
            for thing, drive in zip(things, drives, strict=True)
        ),
        floor=floor,
        light=looks.make_light(options.light, options.sky_pictures, rng),
        about={
            "seed": options.seed,
            "number": number,
            "object": uid,
            "objects": [thing.uid for thing in things],
            "curve": curve,
            "paths": [drive.about for drive in drives],
            "heading": options.heading,
            "camera": motion,
            "floor": floor_name,
        },
    )


def _words(text: str) -> list[int]:
    """Numbers for a random generator that differ wherever texts do."""
    return np.frombuffer(hashlib.sha256(text.encode()).digest()[:16], "<u4").tolist()


def _curve(options: SceneOptions, uid: str, number: int) -> str:
    """The curve of a path: at random, but each as often as the others."""
    turn, place = divmod(number, len(options.curves))
    rng = np.random.default_rng([options.seed, turn, *_words(f"curves of {uid}")])
    return options.curves[rng.permutation(len(options.curves))[place]]


def _filmed(
    options: SceneOptions, things: Sequence[Thing], curve: str, rng: np.random.Generator
) -> tuple[tuple[Camera, ...], str, list["_Drive"]]:
    """Cameras, what they do, and drives that they see; other cameras if they see none."""
    fixed = options.camera == "official"
    for round_ in range(1 if fixed else ROUNDS):
        cameras, motion = _cameras(options, rng)
        try:
            return cameras, motion, _drives(options, cameras, things, curve, rng)
        except SceneError:
            if fixed or round_ == ROUNDS - 1:
                raise
    raise AssertionError


def _cameras(options: SceneOptions, rng: np.random.Generator) -> tuple[tuple[Camera, ...], str]:
    """One per frame, and what they do."""
    size = options.width, options.height
    if options.camera == "moving":
        motion = str(rng.choice(list(MOTIONS)))
        k = geometry.square_pixel_k(*size, LENS_MM)
        return moving_cameras(motion, options.frames, k, rng), motion
    k, rt = geometry.official_k(*size), geometry.official_rt()
    if options.camera == "random":
        k = geometry.square_pixel_k(*size, float(rng.uniform(28.0, 45.0)))
        turn, height = np.deg2rad(rng.uniform(-180.0, 180.0)), rng.uniform(1.4, 3.4)
        eye = np.array([5.0 * np.sin(turn), -5.0 * np.cos(turn), height]) * rng.uniform(0.9, 1.2)
        rt = geometry.looking_at_rt(eye, np.array([0.0, 0.0, 0.25]))
    return (Camera(as_matrix(k), as_matrix(rt)),) * options.frames, options.camera


class _Drive(NamedTuple):
    """One object along its path."""

    poses: tuple[Matrix, ...]
    places: np.ndarray
    """[f 2] metres."""
    about: dict


def _drives(
    options: SceneOptions,
    cameras: Sequence[Camera],
    things: Sequence[Thing],
    curve: str,
    rng: np.random.Generator,
) -> list[_Drive]:
    """Drives for which all boxes stay in the picture and no two objects touch."""
    for _ in range(ROUNDS if len(things) > 1 else 1):
        drives: list[_Drive] = []
        for thing in things:
            kind = str(rng.choice(options.curves)) if drives else curve
            others = list(zip(drives, things, strict=False))
            drive = _fitting(options, cameras, (thing, kind), others, rng)
            if drive is None:
                break
            drives.append(drive)
        else:
            return drives
    raise SceneError(
        f"no {curve} keeps {things[len(drives)].uid} with sides "
        f"{np.round(things[len(drives)].sides, 3).tolist()} in the picture"
        + (" and off the other objects" if drives else "")
    )


def _fitting(
    options: SceneOptions,
    cameras: Sequence[Camera],
    wanted: tuple[Thing, str],
    others: Sequence[tuple[_Drive, Thing]],
    rng: np.random.Generator,
) -> _Drive | None:
    """A drive of a thing on a kind of curve, if one is found."""
    thing, kind = wanted
    for _ in range(ATTEMPTS):
        drive = _drive(options, kind, thing, rng, wander=bool(others))
        if all(_apart(drive, thing, *other) for other in others) and _in_picture(
            options, cameras, drive, thing
        ):
            return drive
    return None


def _drive(
    options: SceneOptions, curve: str, thing: Thing, rng: np.random.Generator, *, wander: bool
) -> _Drive:
    """A path of random phase and direction, about the origin or, if it may `wander`, near it."""
    backwards, phase = bool(rng.integers(2)), float(rng.uniform(0.0, 2 * np.pi))
    place = rng.uniform(-REACH_METRES, REACH_METRES, 2) if wander else np.zeros(2)
    path = floor_paths.make_path(curve, phase, options.frames, backwards=backwards)
    directions = floor_paths.heading_directions(path, options.heading)
    places = path.points + place
    poses = [geometry.standing_pose(xy, d) for xy, d in zip(places, directions, strict=True)]
    about = {
        "asset": thing.asset,
        "curve": curve,
        "phase_rad": phase,
        "backwards": backwards,
        "place": place.tolist(),
    }
    return _Drive(tuple(as_matrix(pose) for pose in poses), places, about)


def _in_picture(
    options: SceneOptions, cameras: Sequence[Camera], drive: _Drive, thing: Thing
) -> bool:
    poses, rts, ks = (
        np.array(x) for x in (drive.poses, [c.rt for c in cameras], [c.k for c in cameras])
    )
    world = box_of(thing.sides) @ poses[:, :3, :3].swapaxes(1, 2) + poses[:, None, :3, 3]
    camera = world @ rts[:, :, :3].swapaxes(1, 2) + rts[:, None, :, 3]
    if camera[..., 2].min() <= 0:
        return False
    homogeneous = camera @ ks.swapaxes(1, 2)
    pixels = homogeneous[..., :2] / homogeneous[..., 2:]
    return bool(geometry.inside_picture(pixels, options.width, options.height, MARGIN_PX).all())


def _apart(one: _Drive, thing: Thing, other: _Drive, beside: Thing) -> bool:
    radii = sum(float(np.hypot(*each.sides[:2])) / 2 for each in (thing, beside))
    distances = np.linalg.norm(one.places - other.places, axis=1)
    return bool(distances.min() >= radii + APART_METRES)


def box_of(sides: Sequence[float]) -> np.ndarray:
    """Corners [8 3] of a box of these sides that stands on the origin."""
    half = np.array(sides) * np.array([0.5, 0.5, 0.0])
    return geometry.box_corners(-half, half + np.array([0.0, 0.0, sides[2]]))
