"""A first shape and poses of a rigid object from three frames, seen from afar.

From two frames, how far a small object turned and how deep it is cannot be told apart; three say.
Source: Tomasi and Kanade, "Shape and motion from image streams under orthography", 1992; with a
scale for each frame, Poelman and Kanade, 1997.
"""

from itertools import combinations

import cv2
import numpy as np
from jaxtyping import Float

from posetraj_jax.cameras.structure import Structure

Array = np.ndarray

AGREE_PX = 1.5
"""How far a feature may be from the affine model."""
FEWEST = 10
"""Features that three frames must share."""
ENOUGH = 60
"""Features beyond which three frames are not better for sharing more."""
DEEP_PX = 4.0
"""And for showing more depth."""
LONGEST = 8
"""Frames from the first to the last of three."""


def triples(tracks_px: Float[Array, "f p 2"], most: int) -> list[tuple[int, int, int]]:
    """Frames to start from, best first: they share many features, whose depths show."""
    seen = np.isfinite(tracks_px[..., 0])
    depth = np.zeros((len(tracks_px), len(tracks_px)))
    for one, two in combinations(range(len(tracks_px)), 2):
        depth[one, two] = _not_affine(tracks_px[[one, two]][:, seen[one] & seen[two]])
    rated = []
    for frames in combinations(range(len(tracks_px)), 3):
        count = seen[list(frames)].all(axis=0).sum()
        if frames[2] - frames[0] <= LONGEST and count >= FEWEST:
            relief = min(depth[one, two] for one, two in combinations(frames, 2))
            rated.append((-min(relief, DEEP_PX) * np.sqrt(min(count, ENOUGH)), frames))
    return [frames for _, frames in sorted(rated)[:most]]


def _not_affine(pixels: Float[Array, "2 n 2"]) -> float:
    """How far, pixels, from a common affine motion points are whose depths differ."""
    if pixels.shape[1] < FEWEST:
        return 0.0
    columns = np.concatenate([pixels[0], np.ones((pixels.shape[1], 1))], axis=1)
    fit = np.linalg.lstsq(columns, pixels[1], rcond=None)[0]
    return float(np.median(np.linalg.norm(columns @ fit - pixels[1], axis=1)))


def starts(
    tracks_px: Float[Array, "f p 2"], k: Float[Array, "3 3"], frames: tuple[int, int, int]
) -> list[Structure]:
    """The two models that three frames allow: an object, and its mirror image in depth."""
    chosen = list(frames)
    shared = np.isfinite(tracks_px[chosen, :, 0]).all(axis=0)
    fitted = _factorised(tracks_px[chosen][:, shared])
    upgraded = None if fitted is None else _upgraded(*fitted[:2])
    if fitted is None or upgraded is None:
        return []
    axes, points = upgraded
    middles = tracks_px[chosen][:, shared][:, fitted[3]].mean(axis=1)
    found = []
    for flip in (1.0, -1.0):
        mirror = np.diag([1.0, 1.0, flip])
        rotations = np.tile(np.eye(3), (len(tracks_px), 1, 1))
        translations = np.zeros((len(tracks_px), 3))
        for t, axis, middle in zip(chosen, axes, middles, strict=True):
            scale = np.sqrt((axis**2).sum() / 2)
            u, _, v = np.linalg.svd(axis, full_matrices=False)
            across = (u @ v) @ mirror
            turn = np.concatenate([across, [np.cross(*across) * 1.0]])
            turn[2] = np.cross(turn[0], turn[1])
            ray = np.append((middle - k[:2, 2]) / np.diag(k)[:2], 1.0)
            translations[t] = ray * k[0, 0] / scale
            rotations[t] = _towards(ray) @ turn
        where = np.full((tracks_px.shape[1], 3), np.nan)
        where[np.flatnonzero(shared)[fitted[3]]] = points @ mirror
        posed = np.isin(np.arange(len(tracks_px)), chosen)
        found.append(Structure(k, rotations, translations, posed, where))
    return found


def _factorised(pixels: Float[Array, "3 n 2"]) -> tuple[Array, Array, float, Array] | None:
    """Axes [3 2 3], points [n 3], how much their depth shows, pixels, and which agree [n]."""
    good = np.ones(pixels.shape[1], bool)
    for _ in range(4):
        if good.sum() < FEWEST:
            return None
        centred = pixels - pixels[:, good].mean(axis=1, keepdims=True)
        rows = centred.transpose(0, 2, 1).reshape(6, -1)
        u, s, _ = np.linalg.svd(rows[:, good], full_matrices=False)
        left = rows - u[:, :3] @ (u[:, :3].T @ rows)
        error = np.linalg.norm(left, axis=0)
        limit = max(AGREE_PX, 2.5 * np.median(error[good]))
        again = error < limit
        if (again == good).all():
            break
        good = again
    relief = s[2] / np.sqrt(good.sum())
    return u[:, :3].reshape(3, 2, 3), (u[:, :3].T @ rows)[:, good].T, float(relief), good


def _upgraded(axes: Float[Array, "3 2 3"], points: Array) -> tuple[Array, Array] | None:
    """Axes of equal length at right angles in each frame, and the points to go with them."""

    def row(one: Array, two: Array) -> Array:
        outer = one[:, None] * two[None]
        outer = outer + outer.T
        return np.array([outer[i, j] * (0.5 if i == j else 1.0) for i, j in SYMMETRIC])

    rows = []
    for x, y in axes:
        size = np.linalg.norm(x) * np.linalg.norm(y) + 1e-9
        rows += [(row(x, x) - row(y, y)) / size, 2 * row(x, y) / size]
    solution = np.linalg.svd(np.stack(rows))[2][-1]
    metric = np.zeros((3, 3))
    for value, (i, j) in zip(solution, SYMMETRIC, strict=True):
        metric[i, j] = metric[j, i] = value
    metric *= np.sign(np.trace(metric)) or 1.0
    values, vectors = np.linalg.eigh(metric)
    if values[1] <= 0:
        return None
    values = np.maximum(values, 0.02 * values[2])
    root = vectors * np.sqrt(values)
    first = axes[0] @ root
    x = first[0] / np.linalg.norm(first[0])
    z = np.cross(first[0], first[1])
    z /= np.linalg.norm(z)
    root = root @ np.stack([x, np.cross(z, x), z], axis=1)
    return axes @ root, points @ np.linalg.inv(root).T


SYMMETRIC = ((0, 0), (1, 1), (2, 2), (0, 1), (0, 2), (1, 2))


def _towards(ray: Float[Array, "3"]) -> Float[Array, "3 3"]:
    """The smallest rotation of the optical axis to a ray."""
    ray = ray / np.linalg.norm(ray)
    turn = np.cross([0.0, 0.0, 1.0], ray)
    sine = np.linalg.norm(turn)
    return cv2.Rodrigues(turn / max(sine, 1e-12) * np.arctan2(sine, ray[2]))[0]
