"""Scenes like those of PoseTraj-10K, drawn from a seed: one object on one path before one camera.

Source: the official renderer. Differs: fourteen frames instead of thirty-two (one clip is one
training example); the object looks where it goes (option `heading`); floor colours and sun vary
from clip to clip; a phase that would carry the object out of the picture is drawn again, and half
of the paths are travelled backwards (else nearly every S that stays in the picture leads away from
the camera).
"""

from collections.abc import Mapping, Sequence

import numpy as np

from data_prep.scenes import geometry, paths
from data_prep.scenes.scene import Camera, Floor, Light, Matrix, Scene, SceneObject, as_matrix

FRAMES, WIDTH, HEIGHT, FPS = 14, 576, 320, 5.0
MARGIN_PX = 3.0
ATTEMPTS = 1000
SURFACE_POINTS = 8

# Linear RGB: two shades of the tiles and the grout.
FLOORS = {
    "sand": ((0.66, 0.48, 0.28), (0.40, 0.28, 0.16), (0.16, 0.12, 0.09)),
    "slate": ((0.10, 0.16, 0.24), (0.04, 0.07, 0.11), (0.28, 0.30, 0.32)),
    "mint": ((0.50, 0.66, 0.50), (0.26, 0.44, 0.32), (0.12, 0.18, 0.15)),
    "terracotta": ((0.50, 0.17, 0.08), (0.28, 0.08, 0.04), (0.46, 0.38, 0.30)),
    "stone": ((0.46, 0.46, 0.46), (0.24, 0.25, 0.26), (0.09, 0.09, 0.10)),
}


def make_scenes(
    count: int,
    seed: int,
    sides: Mapping[str, Sequence[float]],
    *,
    heading: str = "tangent",
    samples: int = 4,
) -> list[Scene]:
    """`count` scenes; the first n are the same for every count.

    S and circle alternate, the floors and the assets take turns: 2 x len(sides) clips hold each
    asset on each curve once.

    Args:
        count: how many.
        seed: what all random choices follow from.
        sides: asset to side lengths (x, y, z) with the largest 1, in the order of their turns.
        heading: 'tangent' or 'centre' (see `paths.heading_directions`).
        samples: light paths per pixel.

    Raises:
        ValueError: an object that fits the picture on no path, or a bad heading.
    """
    assets = list(sides)
    scenes = []
    for number in range(count):
        turn, curve = number // 2, paths.CURVES[number % 2]
        asset = assets[turn % len(assets)]
        rng = np.random.default_rng([seed, number])
        backwards = bool(rng.integers(2))
        phase, poses = _drive(rng, curve, backwards, heading, np.array(sides[asset]))
        floor_name = list(FLOORS)[number % len(FLOORS)]
        name = asset.partition(":")[2]
        scenes.append(
            Scene(
                clip_id=f"{name}_{turn // len(assets)}_{curve}",
                width=WIDTH,
                height=HEIGHT,
                fps=FPS,
                seed=int(rng.integers(2**31)),
                samples=samples,
                surface_points=SURFACE_POINTS,
                cameras=(_official_camera(),) * FRAMES,
                objects=(SceneObject(asset=asset, size=1.0, poses=poses),),
                floor=tiled_floor(floor_name),
                light=daylight(rng),
                about={
                    "seed": seed,
                    "number": number,
                    "object": name,
                    "curve": curve,
                    "phase_rad": phase,
                    "backwards": backwards,
                    "heading": heading,
                    "floor": floor_name,
                },
            )
        )
    return scenes


def _official_camera() -> Camera:
    k = geometry.official_k(WIDTH, HEIGHT)
    return Camera(k=as_matrix(k), rt=as_matrix(geometry.official_rt()))


def _drive(
    rng: np.random.Generator, curve: str, backwards: bool, heading: str, sides: np.ndarray
) -> tuple[float, tuple[Matrix, ...]]:
    """A phase, and the poses along its path, for which the whole box stays in the picture."""
    half = sides * np.array([0.5, 0.5, 0.0])
    corners = geometry.box_corners(-half, half + np.array([0.0, 0.0, sides[2]]))
    k, rt = geometry.official_k(WIDTH, HEIGHT), geometry.official_rt()
    for _ in range(ATTEMPTS):
        phase = float(rng.uniform(0.0, 2 * np.pi))
        path = paths.make_path(curve, phase, FRAMES, backwards=backwards)
        directions = paths.heading_directions(path, heading)
        poses = [
            geometry.standing_pose(xy, d) for xy, d in zip(path.points, directions, strict=True)
        ]
        world = np.stack([geometry.transform(pose, corners) for pose in poses])
        if geometry.inside_picture(geometry.project(world, k, rt), WIDTH, HEIGHT, MARGIN_PX).all():
            return phase, tuple(as_matrix(pose) for pose in poses)
    raise ValueError(f"no {curve} keeps an object with sides {sides.tolist()} in the picture")


def tiled_floor(name: str) -> Floor:
    """One of FLOORS."""
    first, second, grout = FLOORS[name]
    return Floor(tile=0.5, grout=0.02, colours=(first, second), grout_colour=grout)


def daylight(rng: np.random.Generator) -> Light:
    """A sun at the side of or behind a camera that looks along +y, high: shadows are short."""
    return Light(
        sun_elevation_deg=float(rng.uniform(38.0, 58.0)),
        sun_azimuth_deg=float(rng.choice([-1.0, 1.0]) * rng.uniform(15.0, 60.0) - 90.0),
        sun_strength=3.2,
        sky_zenith=(0.30, 0.50, 0.95),
        sky_horizon=(0.95, 0.95, 0.92),
        sky_strength=0.5,
    )
