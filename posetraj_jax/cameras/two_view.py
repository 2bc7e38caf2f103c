"""Ways in which a camera may have moved between two frames, from what both see.

Few clips have room for doubt in only one way: a floor seen alone allows two motions, and the
essential matrix of a floor can be anything that agrees with what moves on it. So all are kept, and
all frames together decide which is right.
"""

from typing import NamedTuple

import cv2
import numpy as np
from jaxtyping import Float

from posetraj_jax.cameras.structure import AGREE_PX, normalised
from posetraj_jax.cameras.turning import Turning

Array = np.ndarray

CONFIDENCE, TRIALS = 0.9999, 5000
FEWEST_SHARED = 20
"""Points that both frames of a first pair must see."""
SHARED = 0.35
"""Share of the points of the frame that sees fewer that both should see."""
ALIKE_DEG = 1.0
"""Motions that differ less are one."""


class Motion(NamedTuple):
    """From the camera of one frame to that of another: x -> R x + t, with t of length 1."""

    rotation: Float[Array, "3 3"]
    translation: Float[Array, "3"]


def widest_pair(tracks_px: Float[Array, "f p 2"], turned: Turning) -> tuple[int, int]:
    """The two frames between which the points that both see moved most, if rotation is left out.

    `turned` are the rotations that explain the tracks best.
    """
    seen = np.isfinite(tracks_px[..., 0])
    counts = seen.sum(axis=1)
    best, pair = -1.0, (0, len(tracks_px) - 1)
    for one in range(len(tracks_px)):
        for two in range(one + 1, len(tracks_px)):
            both = seen[one] & seen[two]
            share = both.sum() / min(counts[one], counts[two])
            if both.sum() < FEWEST_SHARED:
                continue
            moved = turned.residuals_px[[one, two]][:, both].sum(axis=0)
            score = np.median(moved) * min(1.0, share / SHARED) ** 2
            if score > best:
                best, pair = score, (one, two)
    return pair


def motions(
    one_px: Float[Array, "n 2"], two_px: Float[Array, "n 2"], k: Float[Array, "3 3"]
) -> list[Motion]:
    """What the camera may have done between two frames; empty if nothing explains them."""
    xy = normalised(one_px, k), normalised(two_px, k)
    found = [*_of_a_plane(one_px, two_px, k), *_of_a_scene(*xy, AGREE_PX / k[0, 0])]
    distinct: list[Motion] = []
    for motion in found:
        if all(_difference_deg(motion, other) > ALIKE_DEG for other in distinct):
            distinct.append(motion)
    return distinct


def _of_a_scene(one: Array, two: Array, limit: float) -> list[Motion]:
    """The motion of the essential matrix that most points agree with."""
    matrix, inliers = cv2.findEssentialMat(
        one, two, np.eye(3), cv2.USAC_MAGSAC, CONFIDENCE, limit, TRIALS
    )
    if matrix is None or matrix.shape != (3, 3):
        return []
    _, rotation, translation, _ = cv2.recoverPose(matrix, one, two, np.eye(3), mask=inliers)
    return [Motion(rotation, translation[:, 0])]


def _of_a_plane(one_px: Array, two_px: Array, k: Array) -> list[Motion]:
    """The motions, at most two, for which the largest plane is before both cameras."""
    warp, inliers = cv2.findHomography(
        one_px, two_px, cv2.USAC_MAGSAC, AGREE_PX, None, TRIALS, CONFIDENCE
    )
    if warp is None:
        return []
    _, rotations, translations, normals = cv2.decomposeHomographyMat(warp, k)
    xy = normalised(one_px[inliers[:, 0] > 0], k)
    rays = np.concatenate([xy, np.ones((len(xy), 1))], axis=1)
    found = []
    for rotation, translation, normal in zip(rotations, translations, normals, strict=True):
        length = np.linalg.norm(translation)
        before = (rays @ normal[:, 0] > 0).mean() > 0.5
        if before and length > 1e-9:
            found.append(Motion(rotation, translation[:, 0] / length))
    return found


def _difference_deg(one: Motion, two: Motion) -> float:
    turn = (np.trace(one.rotation.T @ two.rotation) - 1.0) / 2.0
    cosines = np.clip([turn, one.translation @ two.translation], -1.0, 1.0)
    return float(np.degrees(np.arccos(cosines)).max())
