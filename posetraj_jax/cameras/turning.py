"""Cameras that only turn, or do not move at all: what is seen then says nothing of depth."""

from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float

from posetraj_jax.cameras.structure import SOFT_PX, normalised

Array = np.ndarray

ROUNDS = 12
"""Of finding directions from rotations and rotations from directions."""
REWEIGHTED = 20
"""Rounds in which a rotation is freed from points that move."""


class Turning(NamedTuple):
    """A camera that stays where it is."""

    rotations: Float[Array, "f 3 3"]
    """Camera to world; frame 0 is the world."""
    residuals_px: Float[Array, "f p"]
    """How far from where they should be points are seen; NaN where they are not seen."""


def still(tracks_px: Float[Array, "f p 2"]) -> Turning:
    """A camera that does not move: every point stays where it mostly is."""
    middle = np.nanmedian(tracks_px, axis=0)
    rotations = np.tile(np.eye(3), (len(tracks_px), 1, 1))
    return Turning(rotations, np.linalg.norm(tracks_px - middle, axis=2))


def turning(tracks_px: Float[Array, "f p 2"], k: Float[Array, "3 3"]) -> Turning:
    """A camera that turns, with all points infinitely far away, despite some that move.

    Frames are turned onto what all frames before them see, then all onto what all see, with less
    and less weight for what disagrees.
    """
    seen = np.isfinite(tracks_px[..., 0])
    xy = np.nan_to_num(normalised(tracks_px, k))
    rays = np.concatenate([xy, np.ones((*xy.shape[:2], 1))], axis=2)
    rays /= np.linalg.norm(rays, axis=2, keepdims=True)
    soft = SOFT_PX / k[0, 0]
    rotations = _chain(rays, seen, soft)
    weight = seen.astype(np.float64)
    for _ in range(ROUNDS):
        directions = _directions(rotations, rays, weight)
        for frame in range(1, len(rays)):
            rotations[frame] = _turned(rays[frame], directions, seen[frame], soft)
        off = np.linalg.norm(rays @ rotations.swapaxes(1, 2) - directions, axis=2)
        weight = seen / (1.0 + (off / soft) ** 2)
    directions = _directions(rotations, rays, weight)
    view = directions @ rotations
    with np.errstate(all="ignore"):
        pixels = view[..., :2] / view[..., 2:] * np.diag(k)[:2] + k[:2, 2]
        residuals = np.linalg.norm(pixels - tracks_px, axis=2)
        residuals[view[..., 2] <= 0] = np.inf
    residuals[~seen] = np.nan
    return Turning(rotations, residuals)


def _chain(rays: Array, seen: Array, soft: float) -> Array:
    """Each frame turned onto the one before it."""
    rotations = [np.eye(3)]
    for frame in range(1, len(rays)):
        both = seen[frame] & seen[frame - 1]
        before = rays[frame - 1] @ rotations[-1].T
        rotations.append(_turned(rays[frame], before, both, soft))
    return np.stack(rotations)


def _directions(rotations: Array, rays: Array, weight: Array) -> Array:
    """Where points are seen from all frames, in the world [p 3]."""
    total = np.einsum("fp,fij,fpj->pi", weight, rotations, rays)
    return total / np.maximum(np.linalg.norm(total, axis=1, keepdims=True), 1e-12)


def _turned(rays: Array, directions: Array, seen: Array, soft: float) -> Array:
    """The rotation [3 3] that turns rays [p 3] onto directions [p 3].

    Least absolute errors first, which half of the points can be wrong for; then only what is near.
    """
    rays, directions = rays[seen], directions[seen]
    weight = np.ones(len(rays))
    rotation = np.eye(3)
    for step in range(REWEIGHTED):
        u, _, vt = np.linalg.svd((directions * weight[:, None]).T @ rays)
        rotation = u @ np.diag([1.0, 1.0, np.linalg.det(u @ vt)]) @ vt
        off = np.linalg.norm(rays @ rotation.T - directions, axis=1)
        near = step >= REWEIGHTED // 2
        weight = 1.0 / (1.0 + (off / soft) ** 2) if near else 1.0 / np.maximum(off, soft)
    return rotation


def agreement(turned: Turning, limit_px: float) -> Bool[Array, "p"]:
    """Which points stay within `limit_px` of where they should be, all the time."""
    return np.nanmax(turned.residuals_px, axis=0) < limit_px
