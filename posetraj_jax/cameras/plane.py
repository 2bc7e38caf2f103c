"""The plane in which most points of a scene lie, if there is one: a floor, a wall, a table."""

import numpy as np
from jaxtyping import Float

from posetraj_jax.cameras.structure import Structure, triangulated

Array = np.ndarray

TRIALS = 500
REWEIGHTED = 10
FEWEST = 10
"""Points that a plane is sought among."""


def flattened(scene: Structure, tracks_px: Float[Array, "f p 2"]) -> Structure | None:
    """The scene with the plane of most points as z = 0, and every point in it; None without one."""
    plane = _plane(scene)
    return None if plane is None else triangulated(laid_flat(scene, *plane), tracks_px)


def laid_flat(scene: Structure, normal: Float[Array, "3"], offset: float) -> Structure:
    """The scene with the plane of all x with normal x = offset as z = 0.

    The camera of the first posed frame is above the plane (z > 0).
    """
    z = -normal if normal @ scene.centres[scene.posed][0] < offset else normal
    offset = offset if z is normal else -offset
    x = np.cross(z, np.eye(3)[np.abs(z).argmin()])
    x /= np.linalg.norm(x)
    axes = np.stack([x, np.cross(z, x), z])  # rows: the plane's axes in the old world
    origin = offset * z
    return scene._replace(
        rotations=scene.rotations @ axes.T,
        translations=scene.translations + scene.rotations @ origin,
        points=(scene.points - origin) @ axes.T,
        flat=True,
    )


def _plane(scene: Structure) -> tuple[Array, float] | None:
    """Normal [3] and offset, n x = offset, of the plane that the median point is nearest to.

    Distance is that of inverse depths in the frame that knows most points: noise in pixels makes
    them all about equally uncertain, where points far away are uncertain by metres.
    """
    known = np.isfinite(scene.points[:, 0])
    frame = int(scene.posed.argmax())
    points = scene.points[known] @ scene.rotations[frame].T + scene.translations[frame]
    points = points[points[:, 2] > 0]
    if len(points) < FEWEST:
        return None
    rays = np.concatenate([points[:, :2] / points[:, 2:], np.ones((len(points), 1))], axis=1)
    inverse = 1.0 / points[:, 2]
    draws = np.random.default_rng(0).integers(len(points), size=(TRIALS, 3))
    systems = rays[draws]
    good = np.abs(np.linalg.det(systems)) > 1e-9
    if not good.any():
        return None
    normals = np.linalg.solve(systems[good], inverse[draws][good][..., None])[..., 0]
    medians = np.median(np.abs(normals @ rays.T - inverse), axis=1)
    normal = normals[medians.argmin()]
    for _ in range(REWEIGHTED):
        off = np.abs(rays @ normal - inverse)
        weight = 1.0 / (1.0 + (off / (1.5 * np.median(off) + 1e-12)) ** 2)
        normal = np.linalg.lstsq(rays * weight[:, None], inverse * weight, rcond=None)[0]
    # n (R x + t) = 1 is (R^T n) x = 1 - n t in the world.
    length = np.linalg.norm(normal)
    world = scene.rotations[frame].T @ normal / length
    return world, float((1.0 - normal @ scene.translations[frame]) / length)
